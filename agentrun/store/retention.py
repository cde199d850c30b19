"""Remove finished runs in batches; each run leaves a tombstone with its key.

The SQL function `agentrun.prune` decides which runs are removed, and in which order. A batch is one
call of it and one transaction. So a crash undoes at most one batch, and the next `prune` goes on.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from agentrun.core import points
from agentrun.core.errors import ConfigError, RunPruned
from agentrun.core.state import ENDED
from agentrun.store.arrays import INT8S, TEXTS, TIMESTAMPS, UUIDS
from agentrun.store.blobs import ABANDONED, Blobs
from agentrun.store.session import Session

__all__ = ["Pruned", "prune", "refuse_pruned"]

_OLDEST = timedelta(days=365_000)
_REST = 9.0  # pause after a batch, in times of its duration, so that workers are not slowed down
_KEYS = 5_000  # tombstones that are removed in a batch
_LONGEST = 5.0  # the longest pause in seconds, after a batch that had to wait for locks


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much `prune` removed, or with ``dry_run`` would have removed.

    ``bytes`` is the size of the recorded values in the database, compressed as they were stored.
    ``keys`` is the number of removed tombstones. ``blobs`` is the number of values outside the
    database that belong to no run any more; a dry run does not count those of the runs that it
    would have removed.

    Example:
        >>> agentrun.prune(timedelta(days=90), dry_run=True).runs
        0
    """

    runs: int = 0
    events: int = 0
    bytes: int = 0
    workers: int = 0
    keys: int = 0
    blobs: int = 0


def prune(
    session: Session,
    older_than: timedelta | None,
    *,
    forget_keys: timedelta | None,
    status: Collection[str],
    agent: str | None,
    dry_run: bool,
) -> Pruned:
    """See `agentrun.prune`."""
    if older_than is None and forget_keys is None:
        raise ConfigError("prune needs an age: older_than (--older-than), forget_keys, or both")
    for age in (older_than, forget_keys):
        if age is not None and not timedelta() <= age <= _OLDEST:
            raise ConfigError(f"prune takes an age from 0 to {_OLDEST.days:,} days")
    if not status or not ENDED.issuperset(status):
        raise ConfigError(f"only runs that ended are pruned: {', '.join(sorted(ENDED))}")
    asked = {"statuses": list(status), "agent": agent, "dry_run": dry_run}
    removed: dict[str, int] = {}
    # Read once for all batches. Otherwise `prune` would never end while runs end all the time.
    now = session.now()
    if older_than is not None:
        before = now - older_than
        removed |= _prune_runs(session, before, now, asked)
        removed |= session.query("prune_workers", before=before, dry_run=dry_run)[0]
    if session.blobs is not None:
        removed["blobs"] = _sweep(session, session.blobs, now, dry_run=dry_run)
    if forget_keys is not None:
        removed["keys"] = _forget_keys(session, now - forget_keys, asked)
    return Pruned(**removed)


def _prune_runs(
    session: Session, before: datetime, now: datetime, asked: dict[str, Any]
) -> dict[str, int]:
    """Remove batch after batch, until one finds no run."""
    call = uuid4()
    seen = {"runs": 0, "events": 0, "bytes": 0}
    after: dict[str, Any] = {"after_at": None, "after_id": None}
    while True:
        began = time.monotonic()
        (found,) = session.query("prune", before=before, batch=call, **asked, **after)
        after = {"after_at": found["until_at"], "after_id": found["until_id"]}
        if found["until_at"] is None:
            break
        seen = {name: seen[name] + found[name] for name in seen}
        _pause(began)
    # Counted from the tombstones, since the answer to a batch may have been lost.
    return seen if asked["dry_run"] else session.query("pruned", batch=call, since=now)[0]


def _forget_keys(session: Session, before: datetime, asked: dict[str, Any]) -> int:
    limit = None if asked["dry_run"] else _KEYS
    total = 0
    while True:
        began = time.monotonic()
        keys: int = session.query("forget_keys", before=before, limit=limit, **asked)[0]["keys"]
        total += keys
        if limit is None or keys < limit:
            return total
        _pause(began)


def _pause(began: float) -> None:
    time.sleep(min(_REST * (time.monotonic() - began), _LONGEST))


def _sweep(session: Session, blobs: Blobs, now: datetime, *, dry_run: bool) -> int:
    """Remove blobs that no row names or ever will, such as those of pruned runs; return the number.

    A page is listed before its rows are read. So a blob that is uploaded in between is not in it.
    """
    swept = 0
    for page in blobs.pages():
        orphans = session.query(
            "orphans",
            blob=TEXTS([blob.name for blob in page]),
            run_id=UUIDS([blob.run_id for blob in page]),
            epoch=INT8S([blob.epoch for blob in page]),
            digest=TEXTS([blob.digest for blob in page]),
            modified=TIMESTAMPS([blob.modified for blob in page]),
            abandoned=ABANDONED,
        )
        swept += len(orphans)
        if orphans and not dry_run:
            points.reach("delete_blobs", "before")
            blobs.delete([orphan["name"] for orphan in orphans])
            points.reach("delete_blobs", "after")
    if not dry_run:
        blobs.delete_torn(before=now - ABANDONED)
    return swept


def refuse_pruned(session: Session, *, key: str | None = None, run_id: UUID | None = None) -> None:
    """Raise RunPruned if the run with this key or id was pruned."""
    for stone in session.query("tombstone", key=key, run_id=run_id):
        raise RunPruned(
            f"run {stone['key']!r} was pruned on {stone['pruned_at']:%F %T %Z}; it was"
            f" {stone['status']} on {stone['ended_at']:%F}. Its key is not executed again: choose"
            " another key, or see `agentrun prune --forget-keys`, which frees keys by their age",
            key=stone["key"],
            pruned_at=stone["pruned_at"],
        )
