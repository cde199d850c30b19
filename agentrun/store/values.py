"""Read journals and payloads, for people or for workers.

People read masked values. Workers read the values that the agent's code saw, from `exact_values`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from agentrun.core.codec import Codec, unseal
from agentrun.core.errors import StoreUnavailable
from agentrun.core.events import Event
from agentrun.core.sharing import Shared
from agentrun.store.blobs import fetch
from agentrun.store.exact_values import read_exact
from agentrun.store.retention import refuse_pruned
from agentrun.store.rows import Reader

if TYPE_CHECKING:
    from agentrun.store.database import Database

__all__ = ["events_of", "exact_bytes", "payload_of"]

_MASKED = int(Codec.INPUT_MASKED | Codec.OUTPUT_MASKED)


def events_of(database: Database, run_id: UUID, *, exact: bool) -> tuple[list[Event], Shared]:
    """`Database.events`."""
    rows = database.query("events", run_id=run_id, after=0)
    if not rows:
        refuse_pruned(database.query, run_id=run_id)
    sealed = None
    if exact:
        masked = any(row["codec"] & _MASKED for row in rows)
        sealed = read_exact(database.query, run_id, "input", "output") if masked else {}
    reader = Reader(partial(database.payload, run_id), sealed)
    return [reader.event(row) for row in rows], reader.shared


def exact_bytes(database: Database, run_id: UUID, name: str) -> bytes:
    """`Database.exact_bytes`."""
    found = read_exact(database.query, run_id, "raw", name=name)
    if ("raw", name) not in found:
        refuse_pruned(database.query, run_id=run_id)
        raise StoreUnavailable(f"the bytes {name} of run {run_id} are not in the database")
    return unseal(found["raw", name])


def payload_of(database: Database, run_id: UUID, digest: str) -> bytes:
    """`Database.payload`."""
    if not (rows := database.query("payload", run_id=run_id, digest=digest)):
        refuse_pruned(database.query, run_id=run_id)
        raise StoreUnavailable(f"payload {digest} of run {run_id} is not in the database")
    (row,) = rows
    try:
        return bytes(row["zstd"]) if row["blob"] is None else fetch(database.blobs, run_id, row)
    except StoreUnavailable:
        refuse_pruned(database.query, run_id=run_id)
        raise
