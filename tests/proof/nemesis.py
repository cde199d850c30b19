"""What befalls the workers and their database, at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psycopg
import servers
from nursery import Nursery

from agentrun.store import embedded


class Nemesis:
    """Keeps one process in each slot, and strikes. Only what it started dies."""

    def __init__(
        self,
        nursery: Nursery,
        slots: Sequence[str],
        home: Path,
        dsn: str,
        lease: float,
        chance: random.Random,
    ) -> None:
        self.nursery, self.home, self.dsn, self.lease = nursery, home, dsn, lease
        self.chance = chance
        self.slots = slots  # what the process in each does
        self.pids = [nursery.spawn(action) for action in slots]
        self.frozen: dict[int, float] = {}  # stopped processes, and when they go on
        self.counts: Counter[str] = Counter()
        self._strikes = [
            *[self.kill] * 12, *[self.freeze] * 4, *[self.cut] * 4, self.drain, self.crash,
        ]  # fmt: skip

    def strike(self) -> None:
        """Something happens."""
        blow = self.chance.choice(self._strikes)
        blow()
        self.counts[blow.__name__] += 1

    def kill(self) -> None:
        """SIGKILL."""
        slot = self.chance.randrange(len(self.slots))
        os.kill(self.pids[slot], signal.SIGKILL)
        self._replace(slot)

    def freeze(self) -> None:
        """SIGSTOP, for less than a lease or for more."""
        awake = [pid for pid in self.pids if pid not in self.frozen]
        if len(awake) < 2:
            return
        pid = self.chance.choice(awake)
        os.kill(pid, signal.SIGSTOP)
        leases = self.chance.choice([self.chance.uniform(0.05, 0.9), self.chance.uniform(1.2, 2.2)])
        self.frozen[pid] = time.monotonic() + leases * self.lease

    def thaw(self, now: float | None = None) -> None:
        """SIGCONT for those whose time has come; without a time, for all."""
        for pid, until in list(self.frozen.items()):
            if now is None or now >= until:
                os.kill(pid, signal.SIGCONT)
                del self.frozen[pid]

    def drain(self) -> None:
        """SIGTERM: it hands its runs back and ends."""
        slot = self.chance.randrange(len(self.slots))
        pid = self.pids[slot]
        os.kill(pid, signal.SIGTERM)
        if self.frozen.pop(pid, None):
            os.kill(pid, signal.SIGCONT)
        self._replace(slot)

    def cut(self) -> None:
        """Some sessions end, in the middle of whatever they do."""
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " ORDER BY random() LIMIT %s",
                [self.chance.choice([1, 2, 4, 100])],
            )

    def crash(self) -> None:
        """SIGKILL for Postgres; it comes back after a moment."""
        servers.kill(self.home)
        time.sleep(self.chance.choice([0.0, 0.0, 1.0]))
        embedded.start(self.home)

    def end(self) -> None:
        """Ask all to end."""
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)

    def _replace(self, slot: int) -> None:
        self.frozen.pop(self.pids[slot], None)
        self.pids[slot] = self.nursery.spawn(self.slots[slot])
