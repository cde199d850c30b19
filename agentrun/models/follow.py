"""The events of a response that is written in the background, from connection to connection."""

from __future__ import annotations

from collections.abc import Callable

from agentrun.core.flow import Flow
from agentrun.models.body import Body, Source, Stored
from agentrun.models.remote import Lost, Remote
from agentrun.models.reply import Inflater
from agentrun.models.spell import Seen, rest
from agentrun.models.sse import SseParser, is_terminal

__all__ = ["Followed"]


class Followed:
    """The events of a response, each one whole, whatever becomes of the connection they come by."""

    def __init__(
        self,
        remote: Remote,
        source: Body,
        inflate: Callable[[bytes], bytes],
        identifier: str | None = None,
    ) -> None:
        self._remote = remote
        self._source = source
        self._inflate = inflate
        self._identifier = identifier  # from when on it can be followed; None: it comes as it is
        self._known = identifier is not None
        self._seen = Seen()
        self._parser = SseParser()
        self._rest = b""  # the beginning of an event
        self._over = False  # the last event was handed on
        self._brought = True  # this connection has brought something

    def piece(self) -> Flow[bytes | None]:
        """The next events; raises a transport error where there is no way to them, and Lost
        where none was handed on."""
        while True:
            try:
                wire = yield from self._wire()
            except self._remote.hx.RequestError:
                if self._over or self._identifier is None:
                    raise
                wire = None
            if wire is not None:
                whole = self._cut(self._inflate(wire))
                if whole:
                    yield from self._note(whole)
                    return whole
            elif self._over or self._identifier is None:
                left, self._rest = self._rest, b""
                return left or None
            else:
                yield from self._go_on(self._identifier)

    def close(self) -> Flow[None]:
        """The reader wants no more."""
        if self._identifier is not None and not self._over:
            yield from self._remote.withdraw(self._identifier)
        yield from self._source.close()

    def _wire(self) -> Flow[bytes | None]:
        if self._remote.step.unwanted and not self._over:
            self._remote.step.check()
        return (yield from self._source.piece())

    def _cut(self, piece: bytes) -> bytes:
        """The whole events by now; what follows them is kept."""
        told = self._rest + piece
        ends = (told.rfind(end) + len(end) for end in (b"\n\n", b"\r\n\r\n") if end in told)
        cut = max(ends, default=0)
        self._rest = told[cut:]
        return told[:cut]

    def _note(self, whole: bytes) -> Flow[None]:
        """What the events say about the response, before they are handed on."""
        self._brought = True
        for event in self._parser.feed(whole):
            self._over = self._over or is_terminal(event)
            if not isinstance(event.json, dict):
                continue
            self._seen.note(event.json)
            if not self._known and isinstance(event.json.get("response"), dict):
                self._known = True
                self._identifier = self._remote.under_way(event.json["response"])
                if self._identifier is not None:
                    yield from self._remote.accept(self._identifier)

    def _go_on(self, identifier: str) -> Flow[None]:
        """The next connection, from behind the last event; or all the rest, once it is there."""
        remote = self._remote
        yield from self._source.close()
        self._parser, self._rest = SseParser(), b""
        # A connection that brought nothing will not bring more the next time; and without numbers
        # nobody can say where to go on.
        again = self._brought and (self._seen.nothing or self._seen.number >= 0)
        self._brought = False
        response = (yield from remote.events(identifier, self._seen.number)) if again else None
        if response is not None:
            self._source = Source(response.stream)
            self._inflate = Inflater(remote.hx, response)
            return
        try:
            look = yield from remote.look(identifier)
            if look.status == "cancelled":
                raise look.lost()
        except Lost as lost:
            self._identifier = None  # nor is it cancelled: somebody may yet be able to read it
            if self._seen.nothing:
                raise
            raise remote.hx.ReadError(str(lost)) from None
        self._source, self._inflate = Stored([rest(look.body, self._seen)]), bytes
