"""The event stream of a background response, continued when a connection breaks.

The rule: the agent gets each event exactly as a single connection would have given it. Only whole
events are handed on, so that a connection that breaks inside an event loses nothing. The next
connection starts after the last event number. If the provider streams no more, the finished
response is read, and the missing events are made from it (`agentrun.models.missing_events`).
"""

from __future__ import annotations

from collections.abc import Callable

from agentrun.core.flow import Flow
from agentrun.models.background_response import BackgroundClient, ResponseLost
from agentrun.models.event_streams import SseParser, is_terminal
from agentrun.models.missing_events import SeenEvents, write_missing_events
from agentrun.models.reply import Inflater
from agentrun.models.response_body import ResponseBody, StoredBody, WireBody

__all__ = ["BackgroundStream"]


class BackgroundStream:
    """A response body made of whole events, whichever connections they arrive on."""

    def __init__(
        self,
        client: BackgroundClient,
        source: ResponseBody,
        inflate: Callable[[bytes], bytes],
        identifier: str | None = None,
    ) -> None:
        self._client = client
        self._source = source
        self._inflate = inflate
        self._identifier = identifier  # None: not known, so a broken connection is not continued
        self._mode_checked = identifier is not None  # whether the response runs in the background
        self._seen = SeenEvents()
        self._parser = SseParser()
        self._partial = b""  # the beginning of an event
        self._finished = False  # the last event was handed on
        self._received = True  # this connection has delivered an event

    def piece(self) -> Flow[bytes | None]:
        """The next events.

        Where they cannot be had, raises ResponseLost if no event was handed on yet, else a
        transport error.
        """
        while True:
            try:
                wire = yield from self._next_wire()
            except self._client.hx.RequestError:
                if self._finished or self._identifier is None:
                    raise
                wire = None
            if wire is not None:
                whole = self._take_whole_events(self._inflate(wire))
                if whole:
                    yield from self._note_events(whole)
                    return whole
            elif self._finished or self._identifier is None:
                partial, self._partial = self._partial, b""
                return partial or None
            else:
                yield from self._reconnect(self._identifier)

    def close(self) -> Flow[None]:
        """Stop reading; an unwanted response is cancelled at the provider."""
        if self._identifier is not None and not self._finished:
            yield from self._client.cancel_if_unwanted(self._identifier)
        yield from self._source.close()

    def _next_wire(self) -> Flow[bytes | None]:
        if self._client.step.unwanted and not self._finished:
            self._client.step.check()
        return (yield from self._source.piece())

    def _take_whole_events(self, piece: bytes) -> bytes:
        """The whole events received so far; the beginning of the next one is kept."""
        wire = self._partial + piece
        ends = (wire.rfind(end) + len(end) for end in (b"\n\n", b"\r\n\r\n") if end in wire)
        cut = max(ends, default=0)
        self._partial = wire[cut:]
        return wire[:cut]

    def _note_events(self, whole: bytes) -> Flow[None]:
        """Read the events before they are handed on: the first one names the response's id."""
        self._received = True
        for event in self._parser.feed(whole):
            self._finished = self._finished or is_terminal(event)
            if not isinstance(event.json, dict):
                continue
            self._seen.add(event.json)
            if not self._mode_checked and isinstance(event.json.get("response"), dict):
                self._mode_checked = True
                self._identifier = self._client.background_id(event.json["response"])
                if self._identifier is not None:
                    yield from self._client.record_id(self._identifier)

    def _reconnect(self, identifier: str) -> Flow[None]:
        """Continue after the last event: by a new stream, or from the finished response."""
        client = self._client
        yield from self._source.close()
        self._parser, self._partial = SseParser(), b""
        # A connection that delivered no event would deliver none the next time either. Without
        # event numbers there is no way to name the place to continue from.
        again = self._received and (self._seen.is_empty or self._seen.last_number >= 0)
        self._received = False
        response = (
            (yield from client.open_stream(identifier, self._seen.last_number)) if again else None
        )
        if response is not None:
            self._source = WireBody(response.stream)
            self._inflate = Inflater(client.hx, response)
            return
        try:
            state = yield from client.poll(identifier)
            if state.status == "cancelled":
                raise state.to_error()
        except ResponseLost as lost:
            self._identifier = None  # not cancelled: the response may become readable later
            if self._seen.is_empty:
                raise
            raise client.hx.ReadError(str(lost)) from None
        self._source, self._inflate = (
            StoredBody([write_missing_events(state.body, self._seen)]),
            bytes,
        )
