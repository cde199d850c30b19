"""The events of the journal: one `Event` is one row. The journal is the only source of truth.

Everything else (runs, steps, transcripts, spend) is computed from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias
from uuid import UUID

# Any JSON value. A recursive type would force a cast on every caller, so it is `Any`.
Json: TypeAlias = Any


class PackedInput(Protocol):
    """A value that is built when it is asked for: `core.sharing` has it."""

    @property
    def stored(self) -> Json:
        """The value as it is stored, with references to earlier rows."""
        ...

    def unpack(self) -> Json:
        """The value."""
        ...

    def outline(self) -> Json:
        """The value without what earlier rows hold."""
        ...


UNNAMED = "somebody"  # stands where a decision has no name

Kind = Literal["turn", "model", "tool", "function", "wait", "child"]
Effect = Literal["read", "idempotent", "transaction", "once"]
RunStatus = Literal["queued", "running", "waiting", "held", "done", "failed", "cancelled"]

# What a parked run waits for. A `waiting` run goes on by itself:
#   time        a moment has come: a sleep has ended, a failed call is tried again
#   signal      somebody has sent the signal
#   child       the child run has ended
#   response    the provider has finished a response that it makes in the background
# A `held` run goes on when a person has acted:
#   doubt       `agentrun resolve` says what became of the attempt
#   approval    `agentrun approve` or `reject` decides about the call
#   budget      `agentrun approve` raises the budget, or `reject` ends the run
#   divergence  `agentrun resume` decides; a worker with other code tries by itself
#   review      to go on could do harm, for example because events were lost: no letter ends the
#               park, only a person who resumes the run
WaitingFor = Literal["time", "signal", "child", "response"]
HeldFor = Literal["doubt", "approval", "budget", "divergence", "review"]
ParkedFor = WaitingFor | HeldFor

EventName = Literal[
    "created",  # seq 1, written with the run: agent in `name`, arguments in `input`
    "claimed",  # a worker took the run: epoch is one higher than before; why in `reason`
    "attempt_started",  # the intent: durable before the effect begins; arguments in `input`
    "attempt_accepted",  # the provider works on the attempt in the background; its id in `output`
    "attempt_failed",  # this attempt failed and another follows; error in `output`
    "step_finished",  # the outcome: `status` ok | error | abandoned | cancelled, value in `output`
    "approval_requested",  # a call waits for a person, before any attempt; arguments in `input`
    "in_doubt",  # a `once` attempt has an intent and no outcome; the run will park
    "resolved",  # a decision about a step: `status` (below), `by`, `reason`
    "diverged",  # a new path begins at `ident`; the steps that it sets aside in `output`
    "step_reused",  # the new path asks for a step that was set aside: it moves to `ident`
    "request_changed",  # the request of a model call differs; the recorded reply is kept for it
    "received",  # a letter of the mail was read: its id in `key`; its consequences follow
    "parked",  # the run waits without an owner: `status` waiting | held, for what in `parked_for`
    "handed_back",  # the owner stopped before the end (drain, Ctrl-C): status queued
    "run_finished",  # the agent returned; result in `output`
    "run_failed",  # an exception left the agent; error in `output`, failing step in `step`
    "run_cancelled",
    "resumed",  # a person asked a failed run to go on
]

# Kinds of letters to a run. `child` says that a child run has ended, `budget` that a budget was
# raised; the others come from people and from other programs.
LetterKind = Literal[
    "signal", "approve", "reject", "resolve", "resume", "cancel", "child", "budget"
]

# `status` of an `attempt_failed` event that does not count as a retry of the step:
#   rolled_back   the database ended the transaction of the tool
#   unreached     nothing was sent, because the provider could not be reached
#   not_sent      nothing was sent, because the run was stopped first
FailureStatus = Literal["rolled_back", "unreached", "not_sent"]

# `status` of a `parked` event, and of a `received` event whose letter does not count.
ParkStatus = Literal["waiting", "held"]
LetterStatus = Literal["ignored"]

# `status` of a `resolved` event: the decision. If it is an outcome of the step, `step_finished`
# follows in the same commit. If it came in a letter of `mail`, `key` is the id of the letter.
#   happened      the effect took place; its result is the step's outcome
#   not_happened  the effect did not take place; another attempt may be made
#   unknown       the outcome stays unknown, and the model is told so; this is the step's outcome
#   retry         another attempt is made although the outcome is unknown
#   fail          the step failed; this is its outcome
#   reopened      resume() sets a recorded error aside; another attempt may be made
#   approved      the call may be made; edited arguments, beside the original ones, in `output`
#   rejected      the call may not be made; this is the outcome, which the model gets
#   expired       no decision came in time; this is the outcome, which the model gets
Resolution = Literal[
    "happened",
    "not_happened",
    "unknown",
    "retry",
    "fail",
    "reopened",
    "approved",
    "rejected",
    "expired",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model call used: tokens, from the provider's reply, and the cost in US dollars.

    ``cost`` is None, not zero, if no price list has the model.

    Example:
        >>> for step in agentrun.transcript("ticket-42").steps:
        ...     if step.usage is not None:
        ...         print(step.name, step.usage.output_tokens, step.usage.cost)
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: Decimal | None = None
    priced_by: str | None = None  # e.g. "genai-prices 0.2.3"
    audio_tokens: int | None = None
    cache_write_tokens: int | None = None  # input tokens written to the provider's cache
    # For the first call after a resume: the input tokens that an earlier call had read from the
    # provider's cache and this call had not, and their additional cost in US dollars.
    cache_lost_tokens: int | None = None
    cache_lost: Decimal | None = None


class _Stored:
    """Lets the ``input`` of an event stay packed, as it is stored, until somebody reads it."""

    __slots__ = ("packed",)

    input: Json
    packed: (
        PackedInput | None
    )  # what ``input`` is built from at each access; None if it is not packed

    def keep_packed(self, packed: PackedInput) -> None:
        """Set the input of this event, which has none yet."""
        self.packed = packed
        del self.input

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Json:
            """Python calls this for a slot that is empty."""
            if name == "packed":
                return None
            if name == "input" and self.packed is not None:
                return self.packed.unpack()
            raise AttributeError(name)


@dataclass(slots=True, kw_only=True)
class Event(_Stored):
    """One journal row. Fields that do not apply to an event stay None.

    An event is never changed once made. The class is not frozen, because creation would take four
    times as long. The writer sets ``run_id``, ``seq``, ``epoch`` and ``worker``, and the database
    clock sets ``at``.

    The input of a model call that was read is built at each access, because each request of a
    conversation repeats all of it. ``packed`` has it as it is stored, and None for other events.
    """

    event: EventName
    run_id: UUID | None = None
    seq: int = 0
    epoch: int = 0
    worker: str | None = None
    at: datetime | None = None

    step: int | None = None  # the integer that `show` prints
    turn: int | None = None
    kind: Kind | None = None
    name: str | None = None
    ident: str | None = None  # the place of the step in the run: core.identity
    attempt: int | None = None  # 1, 2, …
    effect: Effect | None = None
    key: str | None = None  # idempotency key, the same for every attempt of the step
    status: str | None = None
    started_at: datetime | None = None  # outcome rows repeat the start of their attempt
    fingerprint: str | None = None
    overlapping: bool = False  # began while another step of its scope was under way

    model: str | None = None
    usage: Usage | None = None
    by: str | None = None
    reason: str | None = None  # for people; no code decides by it
    parked_for: ParkedFor | None = None  # of `parked`: what the run waits for
    wake_at: datetime | None = None  # for a parked run: when it is due again at the latest
    input: Json = None
    output: Json = None
    has_input: bool = field(default=False)  # distinguishes a JSON null from no input
    has_output: bool = field(default=False)
    # Exact bytes that belong to `output`. They are stored compressed in `payloads` by their digest,
    # or, if they contain a secret, in `exact_values` under `raw_name`.
    raw: bytes | None = None
    raw_name: str | None = None
    # The bytes of claim checks in `input`: the files of an upload.
    attached: tuple[bytes, ...] = ()
    masked: Json = None  # in a row that was read: how much of it is masked, by kind


def first_name(*names: str | None) -> str:
    """The first of these names that is there, best one first; UNNAMED if none is."""
    return next(filter(None, names), UNNAMED)
