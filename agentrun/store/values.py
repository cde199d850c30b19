"""Read journals and payloads, for people or for workers.

People read masked values. Workers read the values that the agent's code saw, from `exact_values`.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

from agentrun.core.codec import Codec, unseal
from agentrun.core.errors import StoreUnavailable
from agentrun.core.events import Event
from agentrun.core.sharing import Shared
from agentrun.store.blobs import fetch
from agentrun.store.exact_values import read_exact
from agentrun.store.retention import refuse_pruned
from agentrun.store.rows import Reader
from agentrun.store.session import Session

__all__ = ["read_events", "read_exact_bytes", "read_payload"]

_MASKED = int(Codec.INPUT_MASKED | Codec.OUTPUT_MASKED)


def read_events(
    session: Session, run_id: UUID, *, exact: bool = False
) -> tuple[list[Event], Shared]:
    """The decoded journal of a run, and the table of texts that later requests may refer to.

    The values are as people see them; with ``exact``, as the agent's code saw them. Raises
    ConfigError if this login may not read exact values.
    """
    rows = session.query("events", run_id=run_id, after=0)
    if not rows:
        refuse_pruned(session, run_id=run_id)
    sealed = None
    if exact:
        masked = any(row["codec"] & _MASKED for row in rows)
        sealed = read_exact(session, run_id, "input", "output") if masked else {}
    reader = Reader(partial(read_payload, session, run_id), sealed)
    return [reader.event(row) for row in rows], reader.shared


def read_exact_bytes(session: Session, run_id: UUID, name: str) -> bytes:
    """The exact bytes of a reply that contains a secret. Raises ConfigError, RunPruned."""
    found = read_exact(session, run_id, "raw", name=name)
    if ("raw", name) not in found:
        refuse_pruned(session, run_id=run_id)
        raise StoreUnavailable(f"the bytes {name} of run {run_id} are not in the database")
    return unseal(found["raw", name])


def read_payload(session: Session, run_id: UUID, digest: str) -> bytes:
    """The compressed bytes of a large value, by its digest.

    Raises StoreUnavailable if this process cannot get them, RunPruned if the run was pruned.
    """
    if not (rows := session.query("payload", run_id=run_id, digest=digest)):
        refuse_pruned(session, run_id=run_id)
        raise StoreUnavailable(f"payload {digest} of run {run_id} is not in the database")
    (row,) = rows
    try:
        return bytes(row["zstd"]) if row["blob"] is None else fetch(session.blobs, run_id, row)
    except StoreUnavailable:
        refuse_pruned(session, run_id=run_id)
        raise
