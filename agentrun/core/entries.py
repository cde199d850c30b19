"""What a transcript consists of: messages, steps with their attempts and doubts, resume bands.

Plain frozen values, built by `core.folding` and rendered by the room `view`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from agentrun.core.events import Effect, Json, Kind, Usage
from agentrun.core.messages import Message

__all__ = [
    "Attempt",
    "AttemptStatus",
    "Decision",
    "Doubt",
    "Entry",
    "Failure",
    "Note",
    "Resume",
    "Said",
    "Step",
    "StepStatus",
]

Ended = Literal["ok", "error", "abandoned", "cancelled"]
AttemptStatus = Ended | Literal["failed", "settled", "not_sent", "unknown"]
StepStatus = Ended | Literal["unknown", "open", "in_doubt"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it was recorded: the type's name and the message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a step.

    ``status`` is ``failed`` where another try follows, ``unknown`` where an intent has no
    outcome (in flight, or lost with its worker), ``settled`` where somebody decided what became
    of it, and ``not_sent`` where an earlier attempt's late answer made it needless.
    """

    number: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None = None
    status: AttemptStatus = "unknown"
    error: Failure | None = None
    reason: str | None = None
    retry_in: float | None = None  # seconds until the next try
    partial: str | None = None  # what a stream had said when the call had to be made again


@dataclass(frozen=True, slots=True)
class Decision:
    """Who settled a doubt, approved or rejected a call, or reopened a step; how and why."""

    resolution: str  # events.Resolution
    by: str | None
    reason: str | None
    at: datetime | None
    arguments: Json = None  # those that an approval put in place of what was asked for


@dataclass(frozen=True, slots=True)
class Doubt:
    """A `once` attempt whose outcome was unknown; ``decision`` is None while it is open."""

    attempt: int
    since: datetime | None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded unit: a model call, a tool call, a function, a wait, a child run."""

    step: int
    turn: int | None
    kind: Kind | None
    name: str
    status: StepStatus
    effect: Effect | None = None
    idempotency_key: str | None = None
    input: Json = None  # the arguments; for a model call its settings, see `core.folding`
    output: Json = None  # the result; for a model call the reply
    error: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    approvals: tuple[Decision, ...] = ()
    reopened: tuple[Decision, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    model: str | None = None
    usage: Usage | None = None
    set_aside: bool = False  # an accepted divergence: recorded, and served no more
    possibly_billed: int = 0  # model attempts whose answer nobody has seen

    @property
    def unpriced(self) -> bool:
        """True for an answered model call whose price is not known.

        A call that ended in an error and reports no tokens cost nothing that we know of.
        """
        if self.kind != "model" or self.status not in ("ok", "abandoned", "error"):
            return False
        if self.usage is None:
            return self.status != "error"
        return self.usage.cost is None


@dataclass(frozen=True, slots=True)
class Said:
    """A message that is new in this model call: part of its request, or its reply."""

    step: int
    turn: int | None
    message: Message
    at: datetime | None
    echo: bool = False  # a tool's message that only repeats the result of a recorded step


@dataclass(frozen=True, slots=True)
class Resume:
    """The run changed hands: what was taken from the journal, and what was done again."""

    worker: str | None
    at: datetime | None
    reason: str | None
    replayed: int  # steps finished before, served from the journal
    rerun: int  # steps that were open and were attempted again
    saved: Decimal  # US dollars of model calls not paid again
    saved_unpriced: int  # such calls whose price is not known
    in_doubt: int  # doubts raised by this resume


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened to the run itself: parked, handed back, failed, …"""

    event: str
    at: datetime | None
    text: str
    step: int | None = None


Entry: TypeAlias = Said | Step | Resume | Note
