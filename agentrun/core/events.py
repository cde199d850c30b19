"""The journal's vocabulary: one `Event` is one row, and the journal is the only truth.

Everything else (runs, steps, transcripts, spend) is a function of these rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias
from uuid import UUID

# Any JSON value. `Any` inside, because a recursive alias helps no caller.
Json: TypeAlias = Any

Kind = Literal["turn", "model", "tool", "function", "wait", "child"]
Effect = Literal["read", "idempotent", "transaction", "once"]
RunStatus = Literal["queued", "running", "waiting", "held", "done", "failed", "cancelled"]

EventName = Literal[
    "created",  # seq 1, written with the run: agent in `name`, arguments in `input`
    "claimed",  # a worker took the run: epoch is one higher than before; why in `reason`
    "attempt_started",  # the intent: durable before the effect begins; arguments in `input`
    "attempt_accepted",  # the provider works on this try by itself: the id there in `output`
    "attempt_failed",  # this try failed and another follows; error in `output`
    "step_finished",  # the outcome: `status` ok | error | abandoned | cancelled, value in `output`
    "approval_requested",  # a call waits for a person, before any attempt; arguments in `input`
    "in_doubt",  # a `once` attempt has an intent and no outcome; the run will park
    "resolved",  # somebody decided about a doubt or reopened a step: `by`, `reason`, `status`
    "diverged",  # a divergence was accepted: recorded steps from `ident` on count no more
    "received",  # a letter was read: its id in `key`; what came of it follows
    "parked",  # the run waits, with no owner: `status` waiting | held, why in `reason`
    "handed_back",  # the owner let go without finishing (drain, Ctrl-C): status queued
    "run_finished",  # the agent returned; result in `output`
    "run_failed",  # an exception left the agent; error in `output`, failing step in `step`
    "run_cancelled",
    "resumed",  # a person asked a failed run to go on
]

# `status` of an `attempt_failed` event: `rolled_back` where the database ended the transaction, so
# that it was no try of the tool's own. No retry of its is used up.

# `status` of a `resolved` event: what was decided about the attempt, by whom (`by`) and why. Where
# that is an outcome, its `step_finished` follows in the same commit. `key` is the id of the letter
# in `mail` that was followed, if one was.
#   happened      the effect took place; its result is the step's outcome
#   not_happened  it did not; a further attempt may be made
#   unknown       nobody knows, and the model is told so; that is the step's outcome
#   retry         make a further attempt although nobody knows
#   fail          the step failed; that is its outcome
#   reopened      a recorded error is set aside by resume(); a further attempt may be made
#   approved      the call may be made; edited arguments, beside the original ones, in `output`
#   rejected      the call may not be made; that is the outcome, told to the model
Resolution = Literal[
    "happened", "not_happened", "unknown", "retry", "fail", "reopened", "approved", "rejected"
]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model call used, from the provider's reply (tokens), and its price (US dollars).

    ``cost`` is None when the model is in no price list: unpriced, never zero.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: Decimal | None = None
    priced_by: str | None = None  # e.g. "genai-prices 0.2.3"
    audio_tokens: int | None = None


@dataclass(slots=True, kw_only=True)
class Event:
    """One journal row. Fields that say nothing about an event stay None.

    Never changed once made; `frozen=True` would only make each one take four times as long.
    ``run_id … worker`` are filled in by the writer, ``at`` by the database clock.
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
    ident: str | None = None  # where in the code's path the step stands: core.identity
    attempt: int | None = None  # 1, 2, …
    effect: Effect | None = None
    key: str | None = None  # idempotency key, the same for every attempt of the step
    status: str | None = None
    started_at: datetime | None = None  # outcome rows repeat when their attempt began
    fingerprint: str | None = None
    overlapping: bool = False  # began while another step of its scope was under way

    model: str | None = None
    usage: Usage | None = None
    by: str | None = None
    reason: str | None = None
    wake_at: datetime | None = None  # of a run let go: when it is due again, at the latest
    input: Json = None
    output: Json = None
    has_input: bool = field(default=False)  # tells a JSON null from nothing
    has_output: bool = field(default=False)
    # Exact bytes that belong to `output`; kept compressed in `payloads`, named by digest there.
    raw: bytes | None = None
