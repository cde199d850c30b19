"""A run for people to read: `fold` builds a `Transcript` from its journal.

A transcript depends on the journal alone. `fold` makes no call, reads no clock and writes nothing,
and all viewers (terminal, notebook, JSON) render the same transcript. A malformed reply is never an
error: it is shown as far as it can be read.

How it is shown is decided in the room `view`: see `core/viewable.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
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
    NewMessage,
    Note,
    Resume,
    Step,
)
from agentrun.core.events import Event, Json, RunStatus
from agentrun.core.folding import Fold
from agentrun.core.messages import Image, Message, ToolRequest
from agentrun.core.viewable import Viewable

__all__ = [
    "Attempt",
    "Decision",
    "Doubt",
    "Entry",
    "Failure",
    "Image",
    "Message",
    "NewMessage",
    "Note",
    "Resume",
    "Step",
    "ToolRequest",
    "Totals",
    "Transcript",
    "as_transcript",
    "fold",
]


@dataclass(frozen=True, slots=True)
class Totals(Viewable):
    """Sums over the steps of a run. ``cost`` includes only the calls with a known price.

    Example:
        >>> totals = agentrun.transcript("ticket-42").totals
        >>> print(f"{totals.model_calls} model calls, ${totals.cost}")
    """

    form = "totals"

    model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # input tokens read from the provider's cache
    cache_write_tokens: int = 0  # input tokens written to the provider's cache
    cache_lost_tokens: int = 0  # input tokens that were no longer in the cache after a resume
    cache_lost: Decimal = Decimal(0)  # their additional cost in US dollars
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0  # answered calls whose price is not known; they are not in `cost`
    possibly_billed: int = 0  # attempts of model calls that were interrupted without an answer


@dataclass(frozen=True, slots=True, repr=False)
class Transcript(Viewable):
    """A run, built from its journal. It prints as text of 80 columns, and as HTML in a notebook.

    Example:
        >>> print(agentrun.transcript("ticket-42"))
    """

    form = "transcript"

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
    owner_lost: bool = False  # the process that had the run is known to be dead
    # The step that the run's error comes from: the one that raised it, or else the model call whose
    # reply the agent had read last. None if the run did not fail, or before any step.
    failed_step: int | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps without the other entries, in the order in which they began."""
        return tuple(entry for entry in self.entries if isinstance(entry, Step))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: times in ISO 8601, money as decimal text, entries with a `type`.

        It grows with the text of the run: a message is in it once, as the entry that is new in
        a request, and no step repeats its conversation. `Step.request` has the whole request.

        Example:
            >>> agentrun.transcript("ticket-42").to_dict()["status"]
            'done'
        """
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_json(self) -> str:
        """`to_dict` as ASCII JSON text, which cannot contain terminal escape sequences.

        Example:
            >>> Path("ticket-42.json").write_text(agentrun.transcript("ticket-42").to_json())
        """
        return json.dumps(self.to_dict())

    def __repr__(self) -> str:
        return f"<Transcript {self.key!r}: {self.status}, {len(self.steps)} steps>"


def fold(
    events: Iterable[Event], *, key: str | None = None, owner_lost: bool = False
) -> Transcript:
    """Build the transcript of a run from its journal.

    Args:
        events: the journal or its beginning, in order and with decoded values.
        key: the key of the run. Without it, the first event's key is used.
        owner_lost: the process that owned the run at the end of this journal is known to be dead.
            Its open attempts are then shown as ``unknown`` and not as ``running``.
    """
    run = Fold()
    for event in events:
        run.add(event)
    if owner_lost:
        run.mark_attempts_lost()
    return as_transcript(run, run.entries(), key=key, owner_lost=owner_lost)


def as_transcript(
    run: Fold, entries: tuple[Entry, ...], *, key: str | None = None, owner_lost: bool = False
) -> Transcript:
    """The transcript of a run that was folded, with the entries that the fold gave."""
    begun = [entry for entry in entries if isinstance(entry, Step) and _has_begun(entry)]
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
        turns=len({step.turn for step in begun} - {None}),
        entries=entries,
        totals=_totals(begun),
        owner_lost=owner_lost,
        failed_step=run.failed_step,
    )


def _has_begun(step: Step) -> bool:
    """Whether a step counts. A model call that no budget has allowed yet was never made."""
    return step.kind != "model" or bool(step.attempts)


def _totals(steps: list[Step]) -> Totals:
    calls = [step for step in steps if step.kind == "model"]
    used = [step.usage for step in calls if step.usage is not None]
    seen = {_response(step) for step in calls if step.effect == "read" and step.usage is not None}
    return Totals(
        model_calls=sum(step.effect != "read" for step in calls),  # a lookup is not a call
        tool_calls=sum(step.kind == "tool" for step in steps),
        input_tokens=sum(usage.input_tokens or 0 for usage in used),
        output_tokens=sum(usage.output_tokens or 0 for usage in used),
        cached_tokens=sum(usage.cached_tokens or 0 for usage in used),
        cache_write_tokens=sum(usage.cache_write_tokens or 0 for usage in used),
        cache_lost_tokens=sum(usage.cache_lost_tokens or 0 for usage in used),
        cache_lost=sum((usage.cache_lost or Decimal(0) for usage in used), Decimal(0)),
        reasoning_tokens=sum(usage.reasoning_tokens or 0 for usage in used),
        audio_tokens=sum(usage.audio_tokens or 0 for usage in used),
        cost=sum((usage.cost for usage in used if usage.cost is not None), Decimal(0)),
        unpriced=sum(step.unpriced and _response(step) not in seen for step in calls),
        possibly_billed=sum(step.possibly_billed for step in calls),
    )


def _response(step: Step) -> str | None:
    """The id of the response in the reply to a model call; None if a garbled reply has no text."""
    body = step.output.get("body") if isinstance(step.output, dict) else None
    identifier = body.get("id") if isinstance(body, dict) else None
    return identifier if isinstance(identifier, str) else None


# The field `type` of an entry in JSON. Users read it, so renaming a class must not change it.
_TYPES: dict[type, str] = {NewMessage: "said", Step: "step", Resume: "resume", Note: "note"}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.name != "recorded_request"]
        plain = {name: _plain(getattr(value, name)) for name in names}
        kind = _TYPES.get(type(value))
        return plain if kind is None else {"type": kind, **plain}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value
