"""Background mode of the Responses API: the provider finishes a call although the client is gone.

The problem: a plain model call that is in flight at a crash is made again, and paid twice. The
rule: the id of a background response is durable before any of its reply is handed on. The next
owner of the run then reads that response by its id, and does not create another one. A response
is billed once, however often it is read.

::

    create ── mode refused, or finished at once ──────▶ handled as a plain call
       │
       ▼
    the id is durable ── crash: the next owner resumes by id ────────┐
       │                                                             │
       ├─ the agent asked for no stream: poll until finished ◀───────┤
       └─ it asked for a stream: reconnect (`BackgroundStream`) ◀────┘

The request is sent with ``background`` and ``store`` added, and recorded as the agent made it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentrun.core.events import Json
from agentrun.core.flow import Flow, pause
from agentrun.core.parse import parse_json
from agentrun.core.recorder import CallFailed, ModelReply
from agentrun.models.attempts import AttemptResult, Attempts
from agentrun.models.background_response import (
    BODY_HEADERS,
    SHORTEST_POLL_WAIT,
    BackgroundClient,
    ResponseLost,
    ResponseState,
)
from agentrun.models.background_stream import BackgroundStream
from agentrun.models.background_support import (
    BACKGROUND_FIELDS,
    can_run_in_background,
    is_mode_refused,
)
from agentrun.models.reply import Inflater, decode_body, is_event_stream, make_failed_reply
from agentrun.models.request import with_fields
from agentrun.models.response_body import ResponseBody, StoredBody, WireBody, read_all, send_request

__all__ = ["BackgroundAttempts", "BackgroundMode"]

# The HTTP status for the error code of a failed response; 400 for any other code.
STATUS_OF_ERROR = {"server_error": 500, "rate_limit_exceeded": 429}


@dataclass(frozen=True, slots=True)
class BackgroundMode:
    """Two ways to get a response: create it, or resume one that an earlier process created."""

    client: BackgroundClient
    stream: Callable[[ResponseBody], Any]  # makes the transport's byte stream of a body

    def begin(self, fields: dict[str, Json]) -> Flow[tuple[Any, ResponseBody] | None]:
        """Create the response, with ``fields`` added to the request; None if the mode is refused.

        Raises a transport error or ResponseLost.
        """
        client = self.client
        request = with_fields(client.hx, client.request, fields | BACKGROUND_FIELDS)
        request.headers["Accept-Encoding"] = "identity"
        response = yield from send_request(client.send, request)
        source = WireBody(response.stream)
        if client.model_request.stream and response.status_code < 400 and is_event_stream(response):
            followed = BackgroundStream(client, source, Inflater(client.hx, response))
            response.headers.pop("content-encoding", None)
            return response, followed
        wire = b"".join((yield from read_all(source)))
        body = parse_json(decode_body(client.hx, response, wire))
        failed = response.status_code >= 400
        if failed and is_mode_refused(client.model_request, response.status_code, body):
            return None
        if failed or (identifier := client.background_id(body)) is None:
            return response, StoredBody([wire])
        return (
            yield from client.cancel_on_interrupt(identifier, self._await_completion(identifier))
        )

    def _await_completion(self, identifier: str) -> Flow[tuple[Any, ResponseBody]]:
        """Poll until the response is finished; return what a plain call would have returned."""
        yield from self.client.record_id(identifier)
        yield pause(SHORTEST_POLL_WAIT)
        state = yield from self.client.poll(identifier)
        if state.status == "cancelled":
            raise state.to_error()
        if state.status == "failed":
            return self._error_response(state)
        return state.response, StoredBody([state.wire])

    def resume(self, identifier: str) -> Flow[tuple[Any, ResponseBody]]:
        """The response that an earlier process created. Raises ResponseLost."""
        looking = self.client.poll(identifier, once=self.client.model_request.stream)
        state = yield from self.client.cancel_on_interrupt(identifier, looking)
        if state.status in ("failed", "cancelled"):
            raise state.to_error()
        if not self.client.model_request.stream:
            return state.response, StoredBody([state.wire])
        streamed = self._make_response(state, 200, b"text/event-stream; charset=utf-8")
        return streamed, BackgroundStream(self.client, StoredBody([]), bytes, identifier)

    def _error_response(self, state: ResponseState) -> tuple[Any, ResponseBody]:
        """The HTTP error that a plain call would have got for this failed response."""
        stated = state.body.get("error")
        error: dict[str, Json] = stated if isinstance(stated, dict) else {"message": None}
        code = str(error.get("code"))
        wire = json.dumps({"error": {"type": code, "param": None, **error}}).encode()
        status = STATUS_OF_ERROR.get(code, 400)
        return self._make_response(state, status, b"application/json"), StoredBody([wire])

    def _make_response(self, state: ResponseState, status: int, content: bytes) -> Any:
        """An HTTP response with the headers of a poll; the caller passes its body separately."""
        kept = [h for h in state.response.headers.raw if h[0].lower() not in BODY_HEADERS]
        headers = [*kept, (b"Content-Type", content)]
        return self.client.hx.Response(status, headers=headers, stream=self.stream(StoredBody([])))


@dataclass
class BackgroundAttempts(Attempts):
    """The attempts of a call that the provider may finish without a connection.

    Attempts that cannot use the mode are plain ones.
    """

    begins: bool = field(default=False, kw_only=True)  # further attempts use the mode
    # The id of the response that the present attempt resumes, if it does.
    under_way: str | None = field(default=None, init=False)

    def _begin(self, intent_stands: bool) -> Flow[ModelReply | None]:
        self.under_way = self.step.accepted
        if self.under_way is not None:
            yield from self.step.pick_up()
            return None
        return (yield from super()._begin(intent_stands))

    def _wait_after(self, failures: int, result: AttemptResult) -> float | None:
        if self.under_way is not None:  # the resumed response failed: another attempt is no retry
            return 0.0
        return super()._wait_after(failures, result)

    def _attempt(self) -> Flow[AttemptResult]:
        try:
            return (yield from super()._attempt())
        except ResponseLost as lost:
            error = self.hx.ReadError(str(lost))
            reply = make_failed_reply(self.hx, self.model_request, error)
            failure = CallFailed("ResponseLost", billed=True, detail=str(lost))
            return AttemptResult(reply, None, failure if lost.again else None)

    def _open(self) -> Flow[tuple[Any, ResponseBody]]:
        client = BackgroundClient(self.hx, self.model_request, self.request, self.send, self.step)
        mode = BackgroundMode(client, self.stream)
        if self.under_way is not None:
            return (yield from mode.resume(self.under_way))
        if self.begins and can_run_in_background(self.model_request):
            begun: tuple[Any, ResponseBody] | None = yield from mode.begin(self._limit())
            if begun is not None:
                return begun
        return (yield from super()._open())
