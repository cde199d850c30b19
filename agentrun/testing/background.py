"""The Responses API's background mode: a response is written whether or not anybody listens.

Created so, it is billed and under way at once, and takes as long as its reply says (``delay_s``,
then ``pace_s`` an event). By its id it can be asked for, streamed from an event on, and cancelled,
as long as the double lives. Like the real API this refuses to stream what was not created as a
stream, or is too old.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentrun.testing.replies import Reply
from agentrun.testing.responses import begun, describe, written
from agentrun.testing.speech import event, say
from agentrun.testing.wire import Answer, Request, json_answer

__all__ = ["RESTREAM_S", "Shelf"]

RESTREAM_S = 300.0  # seconds after which the real API streams a response no more


@dataclass(slots=True)
class _UnderWay:
    whole: Mapping[str, Any]
    events: Sequence[bytes]
    due: Sequence[float]  # when each event is written, by the monotonic clock
    streams: bool
    cancelled: bool = False

    def body(self) -> Mapping[str, Any]:
        """The response as it is by now."""
        if self.cancelled:
            return begun(self.whole, "cancelled")
        now = time.monotonic()
        return self.whole if now >= self.due[-1] else begun(self.whole, "in_progress")


class Shelf:
    """The responses of one double that were created in the background."""

    def __init__(self) -> None:
        self.restream_s = RESTREAM_S
        self._kept: dict[str, _UnderWay] = {}

    def create(self, body: Mapping[str, Any], reply: Reply) -> Answer:
        """Begin a response; its effect is the bill, whatever becomes of the answer."""
        whole, events = written(body, reply)
        now = time.monotonic()
        due = [now, *(now + reply.delay_s + reply.pace_s * n for n in range(1, len(events)))]
        facts = describe(body)
        answer = say(reply, facts, begun(whole, "queued"), map(event, events))
        bill = {**(answer.effect or {}), "usage": whole["usage"]}
        kept = _UnderWay(whole, tuple(map(event, events)), due, facts["stream"])
        self._kept[whole["id"]] = kept
        paced = tuple(due) if kept.streams else ()
        return replace(answer, effect=bill, delay_s=0.0, pace_s=0.0, due=paced)

    def problem(self, identifier: str, request: Request) -> tuple[int, str] | None:
        """Why the real API would refuse this request about a response, and its status."""
        kept = self._kept.get(identifier)
        if kept is None:
            return 404, f"Response with id '{identifier}' not found."
        if request.method == "GET" and _streamed(request):
            if not kept.streams:
                return 400, f"Response '{identifier}' was not created with stream=true."
            if time.monotonic() - kept.due[0] >= self.restream_s:
                return 400, (
                    f"Response '{identifier}' can no longer be streamed because it is more than "
                    "5 minutes old."
                )
        return None

    def answer(self, identifier: str, request: Request) -> Answer:
        """The response as it is, or its events; a POST cancels what is not finished."""
        kept = self._kept[identifier]
        if request.method == "POST":
            kept.cancelled = kept.cancelled or time.monotonic() < kept.due[-1]
        elif _streamed(request):
            after = int(request.query.get("starting_after", -1)) + 1
            return Answer(
                tuple(kept.events[after:]),
                {"content-type": "text/event-stream; charset=utf-8"},
                streamed=True,
                due=tuple(kept.due[after:]),
            )
        return json_answer(kept.body())


def _streamed(request: Request) -> bool:
    return request.query.get("stream") == "true"
