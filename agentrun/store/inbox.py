"""Questions of runs to people, and decisions that no worker has read yet.

The views `asked`, `inbox` and `decided` of the schema say which these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from agentrun.core.events import Json
from agentrun.core.waiting import Inbox, Waiting
from agentrun.store.session import Session

__all__ = [
    "Question",
    "UnreadDecision",
    "find_decision",
    "find_question",
    "list_unread_decisions",
    "list_waiting",
    "waiting_steps",
]


@dataclass(frozen=True, slots=True)
class Question:
    """What a run asks a person at one step."""

    waits_for: str  # as in `Waiting`
    name: str | None
    args: Json
    fingerprint: str | None
    suggested_budget: Json  # as in `Waiting`


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


def list_waiting(session: Session, key: str | None = None) -> Inbox:
    """The requests that wait for a person, of one run or of all, the oldest first."""
    return Inbox(session.rows(Waiting, "inbox", key=key))


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
