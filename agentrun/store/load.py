"""How far the writer is behind: when its producers have to wait, and what shows a slow database."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentrun.store.rows import Row

__all__ = ["Load"]

FULL_ROWS = 10_000  # queued events; whoever would add another without waiting for it waits then
FULL_BYTES = 64 << 20  # and so many bytes of values


class Load:
    """What is queued for the database, and how long it takes over it.

    The writer counts under its own lock; the others only look.
    """

    def __init__(self) -> None:
        self._rows = self._bytes = 0
        self._sending: tuple[int, float] | None = None  # rows under way, and since when
        self._slowest = 0.0

    @property
    def full(self) -> bool:
        """Whether no more is to be queued that nobody waits for."""
        return self._rows >= FULL_ROWS or self._bytes >= FULL_BYTES

    def queued(self, rows: Iterable[Row]) -> None:
        """Count what has come into the queue."""
        for row in rows:
            self._rows += 1
            self._bytes += row.size

    def left(self, rows: Iterable[Row]) -> None:
        """Count anew: this is what the queue holds."""
        self._rows = self._bytes = 0
        self.queued(rows)

    def sends(self, rows: int) -> None:
        """So many rows are on their way."""
        self._sending = rows, time.monotonic()

    def sent(self) -> None:
        """And are committed."""
        self._slowest, self._sending = max(self._slowest, self._took()), None

    def told(self) -> tuple[int, float]:
        """Events that are not committed yet; seconds that the slowest commit took since this was
        last asked, or takes so far."""
        slowest, self._slowest = max(self._slowest, self._took()), 0.0
        sending = self._sending
        return self._rows + (sending[0] if sending else 0), slowest

    def _took(self) -> float:
        sending = self._sending
        return time.monotonic() - sending[1] if sending else 0.0
