"""How far the journal writer is behind: when callers have to wait, and how slow commits are.

A step that does not wait for its outcome only queues it. Without a bound, a fast producer on a slow
database would fill the memory. So a caller waits for its commit while the backlog `is_full`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentrun.store.rows import Row

__all__ = ["WriterLoad"]

FULL_ROWS = 10_000  # queued events from which on a caller waits for the commit of its own
FULL_BYTES = 64 << 20  # the same, in bytes of queued values


class WriterLoad:
    """The writer's backlog, and the time that its commits take.

    Only the writer changes it, under its own lock; other threads only read.
    """

    def __init__(self) -> None:
        self._rows = self._bytes = 0
        self._sending: tuple[int, float] | None = None  # rows being committed, and since when
        self._slowest = 0.0

    @property
    def is_full(self) -> bool:
        """Whether a caller has to wait for the commit of its events, instead of only queueing."""
        return self._rows >= FULL_ROWS or self._bytes >= FULL_BYTES

    @property
    def stuck_for(self) -> float:
        """The seconds since the batch without an answer was sent; 0 if there is none."""
        return self._seconds_in_commit()

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Count rows that were queued."""
        for row in rows:
            self._rows += 1
            self._bytes += row.size

    def replace_rows(self, rows: Iterable[Row]) -> None:
        """Count anew: the queue now holds these rows."""
        self._rows = self._bytes = 0
        self.add_rows(rows)

    def begin_commit(self, rows: int) -> None:
        """Record that a batch of this many rows is being sent."""
        self._sending = rows, time.monotonic()

    def end_commit(self) -> None:
        """Record that the batch is committed."""
        self._slowest, self._sending = max(self._slowest, self._seconds_in_commit()), None

    def measure(self) -> tuple[int, float]:
        """Return the number of uncommitted events, and the seconds of the slowest commit since the
        last call, including one that still lasts."""
        slowest, self._slowest = max(self._slowest, self._seconds_in_commit()), 0.0
        sending = self._sending
        return self._rows + (sending[0] if sending else 0), slowest

    def _seconds_in_commit(self) -> float:
        sending = self._sending
        return time.monotonic() - sending[1] if sending else 0.0
