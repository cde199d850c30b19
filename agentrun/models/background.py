"""Calls that the provider finishes whether or not anybody listens: Responses in the background.

::

    create ── refused, or done at once ──────────────▶ as any call
       │
       ▼
    its id is durable ── a crash: the next owner picks it up by id ──┐
       │                                                             │
       ├─ no stream was asked for: look until it is finished ◀───────┤
       └─ a stream: from connection to connection (`Followed`) ◀─────┘

The agent's request goes out with ``background`` and ``store`` (and is recorded as the agent made
it). What comes back under the id is paid for once, whoever reads it and how often.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentrun.core.events import Json
from agentrun.core.flow import Flow
from agentrun.core.parse import parsed
from agentrun.models.body import Body, Source, Stored, drained, sent
from agentrun.models.follow import Followed
from agentrun.models.lacking import BACKGROUND, refused
from agentrun.models.remote import OF_THE_BODY, SOONEST, Look, Remote
from agentrun.models.reply import Inflater, decoded, is_event_stream
from agentrun.models.request import rewritten
from agentrun.models.retry import pause

__all__ = ["Background"]

STATUS_OF = {"server_error": 500, "rate_limit_exceeded": 429}  # of a failure; any other is 400


@dataclass(frozen=True, slots=True)
class Background:
    """The two ways to a response: to begin it, and to find it where an earlier process began it."""

    remote: Remote
    stream: Callable[[Body], Any]  # a body as the byte stream of the transport

    def begin(self, fields: dict[str, Json]) -> Flow[tuple[Any, Body] | None]:
        """Create the response, with these fields in the request; None if the mode is refused.

        Raises a transport error, or Lost.
        """
        remote = self.remote
        request = rewritten(remote.hx, remote.request, fields | BACKGROUND)
        request.headers["Accept-Encoding"] = "identity"
        response = yield from sent(remote.send, request)
        source = Source(response.stream)
        if remote.asked.stream and response.status_code < 400 and is_event_stream(response):
            followed = Followed(remote, source, Inflater(remote.hx, response))
            response.headers.pop("content-encoding", None)
            return response, followed
        wire = b"".join((yield from drained(source)))
        body = parsed(decoded(remote.hx, response, wire))
        failed = response.status_code >= 400
        if failed and refused(remote.asked, response.status_code, body):
            return None
        if failed or (identifier := remote.under_way(body)) is None:
            return response, Stored([wire])
        return (yield from remote.unless_cancelled(identifier, self._awaited(identifier)))

    def _awaited(self, identifier: str) -> Flow[tuple[Any, Body]]:
        """What a plain call is answered with, once the response that was begun is finished."""
        yield from self.remote.accept(identifier)
        yield pause(SOONEST)
        look = yield from self.remote.look(identifier)
        if look.status == "cancelled":
            raise look.lost()
        if look.status == "failed":
            return self._refusal(look)
        return look.response, Stored([look.wire])

    def resume(self, identifier: str) -> Flow[tuple[Any, Body]]:
        """The response that an earlier process created. Raises Lost."""
        looking = self.remote.look(identifier, once=self.remote.asked.stream)
        look = yield from self.remote.unless_cancelled(identifier, looking)
        if look.status in ("failed", "cancelled"):
            raise look.lost()
        if not self.remote.asked.stream:
            return look.response, Stored([look.wire])
        streamed = self._response(look, 200, b"text/event-stream; charset=utf-8")
        return streamed, Followed(self.remote, Stored([]), bytes, identifier)

    def _refusal(self, look: Look) -> tuple[Any, Body]:
        """A response that failed, as the error that a plain call would have been answered with."""
        told = look.body.get("error")
        error: dict[str, Json] = told if isinstance(told, dict) else {"message": None}
        code = str(error.get("code"))
        wire = json.dumps({"error": {"type": code, "param": None, **error}}).encode()
        return self._response(look, STATUS_OF.get(code, 400), b"application/json"), Stored([wire])

    def _response(self, look: Look, status: int, content: bytes) -> Any:
        """One in the likeness of a look; its bytes come beside it."""
        headers = [h for h in look.response.headers.raw if h[0].lower() not in OF_THE_BODY]
        told = [*headers, (b"Content-Type", content)]
        return self.remote.hx.Response(status, headers=told, stream=self.stream(Stored([])))
