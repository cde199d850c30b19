"""The entries of a transcript: messages, steps with their attempts and doubts, resumes and notes.

They are plain frozen values. `core.folding` builds them, and the room `view` renders them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from agentrun.core.events import Effect, Json, Kind, Usage, first_name
from agentrun.core.messages import Message

__all__ = [
    "Attempt",
    "AttemptStatus",
    "Decision",
    "Doubt",
    "Entry",
    "Failure",
    "NewMessage",
    "Note",
    "Resume",
    "Step",
    "StepStatus",
]

Ended = Literal["ok", "error", "abandoned", "cancelled"]
AttemptStatus = Ended | Literal["failed", "unreached", "settled", "not_sent", "running", "unknown"]
StepStatus = Ended | Literal["unknown", "open", "running", "in_doubt"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A recorded error: the name of its type, and its message.

    Example:
        >>> failure = agentrun.transcript("ticket-42").error   # None: the run did not fail
    """

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a step.

    ``status`` is one of the outcomes of the step (``ok``, ``error``, ``abandoned``, ``cancelled``)
    or one of these:

    * ``failed``: the attempt failed, and another one follows;
    * ``unreached``: nothing was sent, because the provider could not be reached;
    * ``not_sent``: nothing was sent, because the run was stopped first, or because the late answer
      of an earlier attempt arrived;
    * ``running``: the attempt is under way;
    * ``unknown``: the intent has no outcome, and the worker has lost the run;
    * ``settled``: a decision about a doubt closed the attempt.

    Example:
        >>> last = agentrun.transcript("ticket-42").steps[-1].attempts[-1]
        >>> print(last.number, last.status)
        1 ok
    """

    number: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None = None
    status: AttemptStatus = "unknown"
    error: Failure | None = None
    reason: str | None = None
    retry_in: float | None = None  # seconds until the next try
    partial: str | None = None  # text of an interrupted stream, after which the call was repeated


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about a doubt, an approval or a failed step: what, by whom and why.

    Example:
        >>> for step in agentrun.transcript("ticket-42").steps:
        ...     for decision in step.approvals:
        ...         print(step.name, decision.resolution, decision.decider)
    """

    resolution: str  # events.Resolution
    by: str | None
    reason: str | None
    at: datetime | None
    arguments: Json = None  # arguments that the person edited in an approval
    claimed_by: str | None = None  # who decided, according to the sender
    signed_by: str | None = None  # who signed the decision

    @property
    def decider(self) -> str:
        """Who decided: the signer, or else whom the sender names, or else the database user."""
        return first_name(self.signed_by, self.claimed_by, self.by)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A `once` attempt whose outcome was unknown; ``decision`` is None while it is open.

    Example:
        >>> for step in agentrun.transcript("ticket-42").steps:
        ...     for doubt in step.doubts:
        ...         print(step.name, doubt.since, doubt.decision)
    """

    attempt: int
    since: datetime | None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded unit: a model call, a tool call, a function, a wait, a child run.

    Example:
        >>> for step in agentrun.transcript("ticket-42").steps:
        ...     print(step.step, step.kind, step.name, step.status)
    """

    step: int
    turn: int | None
    kind: Kind | None
    name: str
    status: StepStatus
    effect: Effect | None = None
    idempotency_key: str | None = None
    input: Json = None  # the arguments, or the settings of a model call (see `core.folding`)
    output: Json = None  # the result, or the reply of a model call
    error: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    approvals: tuple[Decision, ...] = ()
    reopened: tuple[Decision, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    model: str | None = None
    usage: Usage | None = None
    set_aside: bool = False  # by an accepted divergence or a redo: not served on a resume
    possibly_billed: int = 0  # attempts of a model call that were interrupted without an answer
    masked: Json = None  # how much of input and output is masked, by kind; None: nothing

    @property
    def unpriced(self) -> bool:
        """True for an answered model call whose price is not known.

        A call that ended in an error and reports no tokens counts as free.
        """
        if self.kind != "model" or self.status not in ("ok", "abandoned", "error"):
            return False
        if self.effect == "read" and self.usage is None:  # a lookup of a background response
            return False
        if self.usage is None:
            return self.status != "error"
        return self.usage.cost is None


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that is new in this model call: part of its request, or its reply.

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.NewMessage):
        ...         print(entry.message.role, entry.message.text)
    """

    step: int
    turn: int | None
    message: Message
    at: datetime | None
    echo: bool = False  # a tool message that only repeats the result of a recorded step


@dataclass(frozen=True, slots=True)
class Resume:
    """Another claim of the run: what was served from the journal, and what was repeated.

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.Resume):
        ...         print(entry.worker, entry.replayed, entry.saved)
    """

    worker: str | None
    at: datetime | None
    reason: str | None
    replayed: int  # finished steps that are served from the journal
    rerun: int  # open steps that were attempted again
    saved: Decimal  # US dollars of the replayed model calls, which are not paid again
    saved_unpriced: int  # replayed model calls whose price is not known
    in_doubt: int  # doubts raised by this resume


@dataclass(frozen=True, slots=True)
class Note:
    """An event of the run itself: parked, handed back, failed, …

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.Note):
        ...         print(entry.at, entry.text)
    """

    event: str
    at: datetime | None
    text: str
    step: int | None = None


Entry: TypeAlias = NewMessage | Step | Resume | Note
