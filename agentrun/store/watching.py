"""Follow a run that another process executes: its journal, piece by piece.

Polling by seq, so it works through any pooler and on any connection; and since a run's journal
is append-only and without holes, nothing is missed and nothing comes twice. While the database
is away it waits and says so, like every read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from agentrun.core.events import Event
from agentrun.core.state import ENDED, status_after
from agentrun.store.database import Database
from agentrun.store.rows import Reader

__all__ = ["watch"]


def watch(database: Database, key: str, *, every: float = 0.25) -> Iterator[list[Event]]:
    """What the run's journal holds, then what it gains, until the run has ended.

    Looks every ``every`` seconds; a piece is empty where nothing was new. Raises RunNotFound.
    """
    run_id = database.find(key)["run_id"]
    reader = Reader(partial(database.payload, run_id))
    after, status = 0, None
    while True:
        rows = database.query("events", run_id=run_id, after=after)
        if not rows:
            database.find(key)  # it may have been pruned since the last look
        events = [reader.event(row) for row in rows]
        for event in events:
            after, status = event.seq, status_after(event) or status
        yield events
        if status in ENDED:
            return
        time.sleep(every)
