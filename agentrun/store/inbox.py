"""Questions of runs to people, and decisions that no worker has read yet.

The views `asked`, `inbox` and `decided` of the schema say which these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from agentrun.core.events import Effect, Json
from agentrun.store.session import Session

__all__ = [
    "Question",
    "UnreadDecision",
    "Waiting",
    "find_decision",
    "find_question",
    "list_unread_decisions",
    "list_waiting",
    "waiting_steps",
]


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request that waits for a person, as `inbox` returns it.

    The command `agentrun inbox` and the view `inbox` list the same requests.

    Example:
        >>> for waiting in agentrun.inbox():
        ...     print(waiting.key, waiting.step, waiting.waits_for, waiting.name, waiting.args)
    """

    key: str
    agent: str
    step: int | None  # the number for `approve`, `reject`, `resolve`; None: the run as a whole
    # "doubt": resolve it. "decision": approve or reject it, or see the reason. "divergence": the
    # code asks for another step than this one; the reason lists the ways on and their prices.
    waits_for: str
    name: str | None  # of the tool
    effect: Effect | None
    attempt: int | None
    args: Json  # the arguments of the call
    idempotency_key: str | None
    reason: str
    since: datetime
    fingerprint: str | None  # of the exact request; None: no letter can answer it
    masked: Json = None  # how many values in the arguments are masked, by kind


@dataclass(frozen=True, slots=True)
class Question:
    """What a run asks a person at one step."""

    waits_for: str  # as in `Waiting`
    name: str | None
    args: Json
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class UnreadDecision:
    """A decision that no worker has read yet."""

    key: str
    agent: str
    step: int | None
    name: str | None
    args: Json
    decision: str  # the kind of the letter: approve, reject or resolve
    by: str | None  # the login of the sender
    claimed_by: str | None  # the name that the sender gave
    signed_by: str | None  # the name that a signed link proves
    reason: str | None
    since: datetime
    decided_at: datetime


def list_waiting(session: Session, key: str | None = None) -> list[Waiting]:
    """The requests that wait for a person, of one run or of all, the oldest first."""
    return session.rows(Waiting, "inbox", key=key)


def list_unread_decisions(session: Session, key: str | None = None) -> list[UnreadDecision]:
    """The decisions that no worker has read yet, in one run or in all, the oldest first."""
    return session.rows(UnreadDecision, "decided", key=key)


def find_question(session: Session, run_id: UUID, step: int) -> Question | None:
    """What the run asks a person at this step; None if it asks nothing."""
    return next(iter(session.rows(Question, "asked", run_id=run_id, step=step)), None)


def find_decision(session: Session, run_id: UUID, step: int, *, doubt: bool) -> str | None:
    """The last decision about a step that the journal has, in words: who decided what, and when.

    ``doubt``: about an attempt in doubt; otherwise about an approval.
    """
    rows = session.query("taken", run_id=run_id, step=step, doubt=doubt)
    return rows[0]["decision"] if rows else None


def waiting_steps(session: Session, run_id: UUID, waits_for: str) -> list[int]:
    """The steps at which a run waits for a person: a ``doubt`` or a ``decision``."""
    return [row["step"] for row in session.query("asking", run_id=run_id, waits_for=waits_for)]
