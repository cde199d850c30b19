"""The table `runs`: its rows as typed values, and the questions that are asked about a run.

Claims, which change who owns a run, are in `store/database.py` and `store/claims.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from agentrun.core.errors import RunNotFound
from agentrun.core.events import ParkedFor, RunStatus
from agentrun.core.summary import ChildRun, Relatives
from agentrun.store.keys import check_key
from agentrun.store.retention import refuse_pruned
from agentrun.store.session import Session

__all__ = [
    "FoundRun",
    "RunAtEpoch",
    "RunRow",
    "StuckRun",
    "find_relatives",
    "find_run",
    "find_stuck",
    "is_decided",
    "is_owner_lost",
    "list_diverged",
    "list_keys",
    "list_open_children",
    "look_up_run",
    "run_not_found",
    "wake_for_response",
]


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
    parked_for: ParkedFor | None
    parked_step: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class FoundRun(RunRow):
    """A run that was found by its key."""

    created_at: datetime
    changed_at: datetime
    due: bool  # its wake time has come, or a letter has set the wake time
    fingerprint: str  # of the arguments


@dataclass(frozen=True, slots=True)
class StuckRun:
    """A run that will not go on by itself."""

    key: str
    agent: str
    queue: str
    owner: str | None
    reason: str | None
    step: int | None  # the step that waits for a person
    since: datetime
    why: Literal["held", "owner dead", "no worker"]


def look_up_run(session: Session, key: str) -> FoundRun | None:
    """The run with this key; None if there is no such run."""
    return next(iter(session.rows(FoundRun, "run", key=check_key(key))), None)


def find_run(session: Session, key: str) -> FoundRun:
    """The run with this key. Raises RunNotFound, with similar keys, or RunPruned."""
    if (run := look_up_run(session, key)) is not None:
        return run
    raise run_not_found(session, key)


def run_not_found(session: Session, key: str) -> RunNotFound:
    """The error for a key that no run has, with similar keys. Raises RunPruned if a run had it."""
    refuse_pruned(session, key=key)
    near = list_keys(session, key[:3], 3)
    hint = f" Did you mean {', '.join(near)}?" if near else " `agentrun ls` lists the runs."
    return RunNotFound(f"no run has the key {key!r}.{hint}", key=key)


def list_keys(session: Session, prefix: str, limit: int) -> list[str]:
    """Keys that begin with ``prefix``, the newest first."""
    return [row["key"] for row in session.query("keys", prefix=prefix, limit=limit)]


def find_relatives(session: Session, run_id: UUID) -> Relatives:
    """The runs around a run, with what they cost by now. There are none if the run was pruned."""
    rows = session.query("relatives", run_id=run_id)
    children = (row for row in rows if row["key"] is not None)
    return Relatives(
        parent=rows[0]["parent"] if rows else None,
        children=tuple(ChildRun(row["key"], row["status"], row["cost"]) for row in children),
        tree_cost=rows[0]["tree_cost"] if rows else None,
    )


def list_open_children(session: Session, run_id: UUID) -> list[str]:
    """The keys of the child runs of a run that have not ended."""
    return [row["key"] for row in session.query("open_children", run_id=run_id)]


def list_diverged(session: Session, agent: str | None) -> list[str]:
    """The keys of runs that are parked because their code diverged, the longest parked first."""
    return [row["key"] for row in session.query("diverged_runs", agent=agent)]


def find_stuck(session: Session, key: str) -> StuckRun | None:
    """The run with this key, if it will not go on by itself; else None."""
    return next(iter(session.rows(StuckRun, "stuck", key=key, limit=1)), None)


def is_decided(session: Session, run_id: UUID) -> bool:
    """Whether every question of a run is decided, and no worker has read the decision yet."""
    (row,) = session.query("is_decided", run_id=run_id)
    return bool(row["yes"])


def is_owner_lost(session: Session, run_id: UUID) -> bool:
    """Whether the run's owner is dead, so that its effects in flight have no outcome."""
    (row,) = session.query("owner_lost", run_id=run_id)
    return bool(row["lost"])


def wake_for_response(session: Session, response: str) -> bool:
    """Make the run due that is parked for this response of a provider, and notify the workers;
    return False if there is none."""
    return bool(session.query("response_ended", response=response))
