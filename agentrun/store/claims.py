"""What a worker asks for: runs that it may claim, and the claims of a run that came to nothing.

`claim_ready` claims in the same statement. The other runs have, or had, an owner; each of them is
claimed by `OpenDatabase.claim`, after its owner was found dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from agentrun.store.arrays import UUIDS
from agentrun.store.runs import RunAtEpoch, RunRow
from agentrun.store.session import Session

__all__ = [
    "ClaimedRun",
    "claim_ready",
    "count_fruitless_claims",
    "find_abandoned",
    "find_diverged",
]


@dataclass(frozen=True, slots=True)
class ClaimedRun(RunAtEpoch):
    """A run that was just claimed, and the seq of the claim in its journal."""

    seq: int


def claim_ready(
    session: Session, worker: str, *, agents: Sequence[str], queues: Sequence[str], limit: int
) -> list[ClaimedRun]:
    """Claim up to ``limit`` runs of these agents and queues that are queued or due."""
    return session.rows(
        ClaimedRun,
        "claim_ready",
        worker=worker,
        agents=list(agents),
        queues=list(queues),
        limit=limit,
        batch=uuid4(),
    )


def find_abandoned(
    session: Session,
    worker: str,
    *,
    agents: Sequence[str],
    queues: Sequence[str],
    here: Sequence[UUID],
    limit: int,
) -> list[RunRow]:
    """Runs whose owner has not beaten lately, or that ``worker`` owns and does not execute.

    The runs ``here``, which this process executes or has seen, are not among them.
    """
    return session.rows(
        RunRow,
        "abandoned",
        worker=worker,
        agents=list(agents),
        queues=list(queues),
        here=UUIDS(here),
        limit=limit,
    )


def find_diverged(
    session: Session,
    *,
    agents: Sequence[str],
    known: Sequence[str],
    queues: Sequence[str],
    here: Sequence[UUID],
    started: datetime,
    version: str,
    limit: int,
) -> list[RunRow]:
    """Parked runs whose code diverged, and which code of this ``version`` may fit.

    ``known`` are the agents that this process can execute as child runs. A run is tried once for
    each code version, and once for each worker, which was ``started`` at a time.
    """
    return session.rows(
        RunRow,
        "diverged",
        agents=list(agents),
        known=list(known),
        queues=list(queues),
        here=UUIDS(here),
        started=started,
        version=version,
        limit=limit,
    )


def count_fruitless_claims(session: Session, run_id: UUID) -> int:
    """How many claims in a row, up to the last one, added no step to the run's journal."""
    (row,) = session.query("fruitless", run_id=run_id)
    return int(row["claims"])
