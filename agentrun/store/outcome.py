"""What became of a batch whose answer was lost, or whose rows were refused.

Whoever appends knows that the row he follows was committed. Where the next place is taken, the run
was taken over. Where the row itself is gone, the server is another one, which never had it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg.rows import scalar_row

from agentrun.core.errors import JournalLost, LeaseLost
from agentrun.store.arrays import INT8S, TEXTS, UUIDS
from agentrun.store.sql import QUERIES

if TYPE_CHECKING:
    from agentrun.store.sending import Batch


def settled(conn: psycopg.Connection[Any], batch: Batch) -> set[UUID]:
    """The runs of which this very batch is in the journal, whoever sent it last."""
    heads = batch.heads()
    parameters = {
        "run_id": UUIDS(list(heads)),
        "seq": INT8S(list(heads.values())),
        "batch": batch.nonce,
    }
    return set(conn.cursor(row_factory=scalar_row).execute(QUERIES["settled"], parameters))


def refusals(
    conn: psycopg.Connection[Any], batch: Batch, runs: Iterable[UUID]
) -> dict[UUID, LeaseLost]:
    """Why these runs of the batch were refused: taken over, or their journal was cut short."""
    heads = {row.run_id: row for row in reversed(batch.rows)}
    refused = [heads[run_id] for run_id in runs]
    parameters = {
        "run_id": UUIDS([head.run_id for head in refused]),
        "seq": INT8S([head.seq for head in refused]),
        "epoch": INT8S([head.epoch for head in refused]),
        "worker": TEXTS([head.worker for head in refused]),
    }
    cut = set(conn.cursor(row_factory=scalar_row).execute(QUERIES["cut_short"], parameters))
    return {
        head.run_id: JournalLost(head.seq - 1)
        if head.run_id in cut
        else LeaseLost(f"the run was taken over from {head.worker}")
        for head in refused
    }
