"""The table `runs`: its rows as typed values, and the questions that are asked about a run.

Claims, which change who owns a run, are in `store/database.py` and `store/claims.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from agentrun.core.events import RunStatus
from agentrun.store.keys import check_key
from agentrun.store.retention import run_not_found
from agentrun.store.session import Session

__all__ = ["FoundRun", "RunAtEpoch", "RunRow", "find_run", "look_up_run"]


@dataclass(frozen=True, slots=True)
class RunAtEpoch:
    """A run, and the epoch of its last claim: as much as the next claim has to know."""

    run_id: UUID
    key: str
    agent: str
    epoch: int


@dataclass(frozen=True, slots=True)
class RunRow(RunAtEpoch):
    """A run, and who owns it."""

    status: RunStatus
    owner: str | None  # the worker that executes it
    open_doubt: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class FoundRun(RunRow):
    """A run that was found by its key."""

    created_at: datetime
    changed_at: datetime
    due: bool  # its wake time has come, or a letter has set the wake time
    fingerprint: str  # of the arguments


def look_up_run(session: Session, key: str) -> FoundRun | None:
    """The run with this key; None if there is no such run."""
    return next(iter(session.rows(FoundRun, "run", key=check_key(key))), None)


def find_run(session: Session, key: str) -> FoundRun:
    """The run with this key. Raises RunNotFound, with similar keys, or RunPruned."""
    if (run := look_up_run(session, key)) is not None:
        return run
    raise run_not_found(session, key)
