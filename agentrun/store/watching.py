"""Follow the journal of a run that another process executes.

This polls for rows after the last seq, so it works through every pooler. A run's journal is
append-only and has no gaps, so no event is missed and none comes twice. While the database is away
it waits, and logs that it waits, like every read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from agentrun.core.events import Event
from agentrun.core.state import ENDED, status_after
from agentrun.store.partials import Partial, read_partial
from agentrun.store.rows import Reader
from agentrun.store.runs import find_run, run_not_found
from agentrun.store.session import Session
from agentrun.store.values import read_payload

__all__ = ["EVERY", "Glance", "JournalFollower", "watch"]

EVERY = 0.25  # seconds between two looks at a journal


@dataclass(frozen=True, slots=True)
class Glance:
    """What one cheap look at a run shows: whether there is anything new to read."""

    seq: int  # of the last event
    owner_lost: bool
    partials: tuple[Partial, ...]  # the streamed replies so far


class JournalFollower:
    """Reads the journal of a run piece by piece. Raises RunNotFound if there is no such run."""

    def __init__(self, session: Session, key: str) -> None:
        self._session, self._key = session, key
        self.run_id = find_run(session, key).run_id
        self._reader = Reader(partial(read_payload, session, self.run_id))
        self._after = 0
        self.ended = False  # the last event that was read is the end of the run

    def glance(self) -> Glance:
        """Look by one statement whether the run has anything new. Raises RunPruned."""
        rows = self._session.query("glance", run_id=self.run_id)
        if not rows:
            find_run(self._session, self._key)
            raise run_not_found(self._session, self._key)
        streams = tuple(read_partial(row) for row in rows if row["step"] is not None)
        return Glance(rows[0]["seq"], bool(rows[0]["lost"]), streams)

    def read(self) -> list[Event]:
        """The events that are new since the last call. Raises RunPruned."""
        rows = self._session.query("events", run_id=self.run_id, after=self._after)
        if not rows:
            find_run(self._session, self._key)  # raises if the run was pruned in the meantime
        events = [self._reader.event(row) for row in rows]
        for event in events:
            self._after = event.seq
            if (status := status_after(event)) is not None:
                self.ended = status in ENDED
        return events


def watch(session: Session, key: str, *, every: float = EVERY) -> Iterator[list[Event]]:
    """Yield the events of the run's journal, then the new ones, until the run has ended.

    This polls every ``every`` seconds and yields an empty list if there was no new event. Raises
    RunNotFound.
    """
    follower = JournalFollower(session, key)
    while True:
        yield follower.read()
        if follower.ended:
            return
        time.sleep(every)
