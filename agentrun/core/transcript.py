"""A run as people read it: `fold` turns its journal into a `Transcript`, and nothing else.

A transcript is a function of the journal alone. Folding makes no call, reads no clock and
writes nothing; every viewer (terminal, notebook, JSON) renders what is here. Values are taken as
they were recorded: a malformed reply is shown as far as it can be read and is never an error.

How a transcript shows itself belongs to the room `view`, which `core` may not import: `view`
puts its renderers into `renderers`, by MIME type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from agentrun.core.entries import (
    Attempt,
    Decision,
    Doubt,
    Entry,
    Failure,
    Note,
    Resume,
    Said,
    Step,
)
from agentrun.core.events import Event, Json, RunStatus
from agentrun.core.folding import Fold
from agentrun.core.messages import Message, ToolRequest

__all__ = [
    "Attempt",
    "Decision",
    "Doubt",
    "Entry",
    "Failure",
    "Message",
    "Note",
    "Resume",
    "Said",
    "Step",
    "ToolRequest",
    "Totals",
    "Transcript",
    "fold",
    "renderers",
]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the run's model calls. ``cost`` covers the priced ones only."""

    model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0  # answered calls whose price is not known: never counted as zero
    possibly_billed: int = 0  # attempts in flight when a worker was lost


@dataclass(frozen=True, slots=True, repr=False)
class Transcript:
    """A run, folded from its journal. Prints as text of 80 columns; shows itself in a notebook."""

    key: str
    agent: str
    status: RunStatus
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    input: Json
    result: Json
    error: Failure | None
    turns: int
    entries: tuple[Entry, ...]
    totals: Totals

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps alone, in the order in which they began."""
        return tuple(entry for entry in self.entries if isinstance(entry, Step))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: times as ISO 8601, money as decimal text, entries with a `type`."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_json(self) -> str:
        """`to_dict` as ASCII JSON text, so that no terminal can be addressed by it."""
        return json.dumps(self.to_dict())

    def __repr__(self) -> str:
        return f"<Transcript {self.key!r}: {self.status}, {len(self.steps)} steps>"

    def __str__(self) -> str:
        return _rendered(self, "text/plain")

    def _repr_html_(self) -> str | None:
        return _rendered(self, "text/html") if "text/html" in renderers else None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        mimes = {"text/plain", *renderers}
        return {mime: _rendered(self, mime) for mime in sorted(mimes)}


# How a transcript shows itself, by MIME type. Filled by `agentrun.view`.
renderers: dict[str, Callable[[Transcript], str]] = {}


def fold(events: Iterable[Event], *, key: str | None = None) -> Transcript:
    """Rebuild what happened from a run's journal, given in order and with decoded values.

    ``key`` is the run's key where the caller knows it; else it is taken from the first event.
    """
    run = Fold()
    for event in events:
        run.add(event)
    entries = run.entries()
    return Transcript(
        key=key or run.key,
        agent=run.agent,
        status=run.status,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        input=run.input,
        result=run.result,
        error=run.error,
        turns=len({entry.turn for entry in entries if isinstance(entry, Step)} - {None}),
        entries=entries,
        totals=_totals([entry for entry in entries if isinstance(entry, Step)]),
    )


def _totals(steps: list[Step]) -> Totals:
    calls = [step for step in steps if step.kind == "model"]
    used = [step.usage for step in calls if step.usage is not None]
    return Totals(
        model_calls=len(calls),
        tool_calls=sum(step.kind == "tool" for step in steps),
        input_tokens=sum(usage.input_tokens or 0 for usage in used),
        output_tokens=sum(usage.output_tokens or 0 for usage in used),
        cached_tokens=sum(usage.cached_tokens or 0 for usage in used),
        reasoning_tokens=sum(usage.reasoning_tokens or 0 for usage in used),
        audio_tokens=sum(usage.audio_tokens or 0 for usage in used),
        cost=sum((usage.cost for usage in used if usage.cost is not None), Decimal(0)),
        unpriced=sum(step.unpriced for step in calls),
        possibly_billed=sum(step.possibly_billed for step in calls),
    )


def _rendered(transcript: Transcript, mime: str) -> str:
    """Shown in a notebook or a debugger: it must not raise, whatever the run holds."""
    try:
        return renderers[mime](transcript)
    except Exception:
        return repr(transcript)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Said | Step | Resume | Note):
            return {"type": type(value).__name__.lower(), **plain}
        return plain
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value
