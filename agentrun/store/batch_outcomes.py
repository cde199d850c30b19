"""Find the outcome of a batch whose answer was lost, and the reason why rows were refused.

A worker appends at seq n + 1 only after it knows that its row n is committed. So a refusal has one
of two reasons. Either row n + 1 exists: another worker took the run over. Or row n is missing: the
connection leads to a server that never had it, such as a standby promoted before it received the
row. Then the end of the journal is lost.
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


def stored_runs(conn: psycopg.Connection[Any], batch: Batch) -> set[UUID]:
    """The runs whose rows of this batch are in the journal, by whichever sending."""
    heads = batch.heads()
    parameters = {
        "run_id": UUIDS(list(heads)),
        "seq": INT8S(list(heads.values())),
        "batch": batch.nonce,
    }
    return set(conn.cursor(row_factory=scalar_row).execute(QUERIES["settled"], parameters))


def explain_refusals(
    conn: psycopg.Connection[Any], batch: Batch, runs: Iterable[UUID]
) -> dict[UUID, LeaseLost]:
    """Why these runs were refused: taken over, or JournalLost if the server lost their last row."""
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
