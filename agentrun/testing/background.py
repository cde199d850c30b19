"""The background mode of the Responses API: a response is written even if no client is connected.

A background response is billed and begins when it is created, and takes as long as its reply says
(``delay_s``, then ``pace_s`` for each event). While the double runs, a client can retrieve it by
its id, stream it from any event on, and cancel it. Like the real API, the double refuses to stream
a response that was not created as a stream or is too old.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentrun.testing.replies import Reply
from agentrun.testing.responses import describe, unfinished_response, write_response
from agentrun.testing.speech import event, say
from agentrun.testing.wire import HttpAnswer, HttpRequest, json_answer

__all__ = ["RESTREAM_S", "BackgroundResponses"]

RESTREAM_S = 300.0  # seconds after which the real API no longer streams a response


@dataclass(slots=True)
class _BackgroundResponse:
    whole: Mapping[str, Any]
    events: Sequence[bytes]
    due: Sequence[float]  # when each event is written, by the monotonic clock
    streams: bool
    cancelled: bool = False

    def body(self) -> Mapping[str, Any]:
        """The response in its present state."""
        if self.cancelled:
            return unfinished_response(self.whole, "cancelled")
        now = time.monotonic()
        return self.whole if now >= self.due[-1] else unfinished_response(self.whole, "in_progress")


class BackgroundResponses:
    """The background responses of one double, by id."""

    def __init__(self) -> None:
        self.restream_s = RESTREAM_S
        self._responses: dict[str, _BackgroundResponse] = {}

    def create(self, body: Mapping[str, Any], reply: Reply) -> HttpAnswer:
        """Begin a response. Its effect is the bill, even if the answer never reaches the client."""
        whole, events = write_response(body, reply)
        now = time.monotonic()
        due = [now, *(now + reply.delay_s + reply.pace_s * n for n in range(1, len(events)))]
        facts = describe(body)
        answer = say(reply, facts, unfinished_response(whole, "queued"), map(event, events))
        bill = {**(answer.effect or {}), "usage": whole["usage"]}
        kept = _BackgroundResponse(whole, tuple(map(event, events)), due, facts["stream"])
        self._responses[whole["id"]] = kept
        paced = tuple(due) if kept.streams else ()
        return replace(answer, effect=bill, delay_s=0.0, pace_s=0.0, due=paced)

    def problem(self, identifier: str, request: HttpRequest) -> tuple[int, str] | None:
        """The status and message with which the real API would refuse this request, if it would."""
        kept = self._responses.get(identifier)
        if kept is None:
            return 404, f"Response with id '{identifier}' not found."
        if request.method == "GET" and _asks_for_stream(request):
            if not kept.streams:
                return 400, f"Response '{identifier}' was not created with stream=true."
            if time.monotonic() - kept.due[0] >= self.restream_s:
                return 400, (
                    f"Response '{identifier}' can no longer be streamed because it is more than "
                    "5 minutes old."
                )
        return None

    def answer(self, identifier: str, request: HttpRequest) -> HttpAnswer:
        """Answer with the response or its events; a POST cancels it if it is not finished."""
        kept = self._responses[identifier]
        if request.method == "POST":
            kept.cancelled = kept.cancelled or time.monotonic() < kept.due[-1]
        elif _asks_for_stream(request):
            after = int(request.query.get("starting_after", -1)) + 1
            return HttpAnswer(
                tuple(kept.events[after:]),
                {"content-type": "text/event-stream; charset=utf-8"},
                streamed=True,
                due=tuple(kept.due[after:]),
            )
        return json_answer(kept.body())


def _asks_for_stream(request: HttpRequest) -> bool:
    return request.query.get("stream") == "true"
