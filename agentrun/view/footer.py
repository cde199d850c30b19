"""The last line of `agentrun watch`: what the run does now, and what it has used so far.

It reads the journal event by event, so a long run costs no more than its new events.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from agentrun.core.events import Event
from agentrun.core.messages import reply_messages
from agentrun.core.state import ENDED, status_after
from agentrun.view.durations import brief
from agentrun.view.layout import TextLine, wrap_text
from agentrun.view.phrases import money

__all__ = ["Footer", "streamed_lines"]

_ENDS = ("step_finished", "attempt_failed", "handed_back", "parked", "in_doubt", "resolved")
_NAMED = 3  # steps under way that are named


class Footer:
    """Counts the events of one run."""

    def __init__(self) -> None:
        self._status = "queued"
        self._began: datetime | None = None
        self._ended: datetime | None = None  # when it ended, if it has not gone on since
        self._turns: set[int] = set()
        self._tokens = 0
        self._cost = Decimal(0)
        self._under_way: dict[int, tuple[str, datetime | None]] = {}

    def add(self, events: Iterable[Event]) -> None:
        """Count the next events of the journal."""
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        self._began = self._began or event.at
        if (status := status_after(event)) is not None:
            self._status = status
            self._ended = event.at if status in ENDED else None
        if event.turn is not None:
            self._turns.add(event.turn)
        if event.event == "step_finished" and event.usage is not None:
            self._tokens += (event.usage.input_tokens or 0) + (event.usage.output_tokens or 0)
            self._cost += event.usage.cost or 0
        if event.event in ("claimed", "run_finished", "run_failed"):
            self._under_way.clear()
        if event.step is None:
            return
        if event.event == "attempt_started":
            self._under_way[event.step] = event.name or event.kind or "", event.at
        elif event.event in _ENDS:
            self._under_way.pop(event.step, None)

    @property
    def ended(self) -> bool:
        return self._status in ENDED

    def line(self, now: datetime, width: int) -> TextLine:
        """``running · turn 3 · 2,345 tokens · $0.0123 · 42 s · step 7 pay 1.2 s``"""
        facts = [
            f"turn {len(self._turns)}" if self._turns else "",
            f"{self._tokens:,} tokens" if self._tokens else "",
            money(self._cost) if self._cost else "",
            brief(_since(self._began, self._ended or now)),
        ]
        for step, (name, began) in list(self._under_way.items())[:_NAMED]:
            facts.append(f"step {step} {name} {brief(_since(began, now))}")
        if (more := len(self._under_way) - _NAMED) > 0:
            facts.append(f"{more} more steps")
        line = TextLine().add(self._status, self._status)
        return line.add("".join(f" · {fact}" for fact in facts if fact), "dim").fit(width)


def _since(began: datetime | None, now: datetime) -> float | None:
    return None if began is None else max(0.0, (now - began).total_seconds())


def streamed_lines(body: object, width: int, most: int) -> list[TextLine]:
    """The last lines of the text of a reply that is still being written."""
    text = "\n".join(message.text for message in reply_messages(body))
    lines = list(wrap_text(text[-width * most * 2 :], width))
    return [TextLine().add(line, "dim") for line in lines[-most:]]
