"""Follow the journal of a run that another process executes.

This polls for rows after the last seq, so it works through every pooler. A run's journal is
append-only and has no gaps, so no event is missed and none comes twice. While the database is away
it waits, and logs that it waits, like every read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from agentrun.core.events import Event
from agentrun.core.state import ENDED, status_after
from agentrun.store.rows import Reader
from agentrun.store.runs import find_run
from agentrun.store.session import Session
from agentrun.store.values import read_payload

__all__ = ["watch"]


def watch(session: Session, key: str, *, every: float = 0.25) -> Iterator[list[Event]]:
    """Yield the events of the run's journal, then the new ones, until the run has ended.

    This polls every ``every`` seconds and yields an empty list if there was no new event. Raises
    RunNotFound.
    """
    run_id = find_run(session, key).run_id
    reader = Reader(partial(read_payload, session, run_id))
    after, status = 0, None
    while True:
        rows = session.query("events", run_id=run_id, after=after)
        if not rows:
            find_run(session, key)  # raises if the run was pruned in the meantime
        events = [reader.event(row) for row in rows]
        for event in events:
            after, status = event.seq, status_after(event) or status
        yield events
        if status in ENDED:
            return
        time.sleep(every)
