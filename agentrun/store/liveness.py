"""Decide whether a worker is alive, from one heartbeat row a process.

A run is taken from its owner because the owner is dead, never because the run is old. A worker is
declared dead once, by compare-and-swap on the last beat that was seen: if it beats in the meantime,
it is alive. The declaration is final for that worker name; a process that finds itself declared
dead registers under a new name. The causes of death, the most certain first:

``stopped``       The worker recorded its own end.
``process gone``  The worker ran on this kernel, in this process namespace, and its process does not
                  exist any more. It can send nothing.
``session gone``  The worker's database session has ended, the server has been up for longer than a
                  lease, and the worker did not register again within the grace period. Nearly
                  always this is a crash, but a broken network looks the same.
``lease expired`` The worker has not beaten for a whole lease, by the database's clock. The lease
                  counts from the start of the server if that is later than the beat, since no
                  worker can beat while the server is down.

After the last two causes the process may exist, and may be about to send an effect. A worker stops
sending at 80 % of its lease (`Heart.fence`). So the outcome of its interrupted `once` effects is
decided only when its full lease has passed; otherwise the effect could be repeated, and the first
attempt be sent afterwards.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import psycopg

from agentrun.core import points
from agentrun.core.errors import LeaseLost
from agentrun.core.log import logger, should_log_again
from agentrun.store.connection import DeadlineConnection, connect, is_transient
from agentrun.store.patience import PROCESS
from agentrun.store.sql import QUERIES

LEASE = 10.0  # seconds
_BEAT = 0.1  # share of the lease between two beats
_GRACE = 1.5  # seconds in which a worker whose session ended can register again; more than a beat
_FENCE = 0.8  # share of the lease after which no effect is sent without a new beat
Cause = Literal["stopped", "process gone", "session gone", "lease expired"]
# After these causes the worker certainly sends nothing more.
_CERTAIN: frozenset[Cause] = frozenset({"stopped", "process gone"})


@dataclass(frozen=True, slots=True)
class Life:
    """The row of one worker, and what follows from it by the database's clock."""

    worker: str
    host: str
    pid: int
    process: str | None
    beat_at: datetime
    dead_at: datetime | None
    cause: Cause | None
    lease: float
    expired: bool  # no beat for a whole lease
    lease_left: float  # seconds until the lease of the last beat ends
    session_gone: bool  # its database session has ended, and the server did not restart

    @property
    def settled_in(self) -> float:
        """The seconds until this dead worker certainly sends nothing more."""
        return 0.0 if self.cause in _CERTAIN else self.lease_left


def life_of(conn: psycopg.Connection[Any], worker: str) -> Life | None:
    """Read a worker's row; None if no such worker ever registered."""
    row = conn.execute(QUERIES["owner"], {"worker": worker}).fetchone()
    return Life(**row) if row else None


def find_dead(
    conn: psycopg.Connection[Any], worker: str, sleep: Callable[[float], None] = time.sleep
) -> Life | None:
    """Declare the worker dead if it is dead. Return its row if it is dead, None if it is alive.

    This may take 15 % of a lease, and at least 1.5 s, when only the worker's session is gone.
    """
    life = life_of(conn, worker)
    if life is None or life.dead_at is not None:
        return life
    cause: Cause | None = None
    if _process_gone(life):
        cause = "process gone"
    elif life.expired:
        cause = "lease expired"
    elif life.session_gone:
        sleep(max(_GRACE, 1.5 * _BEAT * life.lease))
        again = life_of(conn, worker)
        if again is not None and again.session_gone and again.beat_at == life.beat_at:
            cause = "session gone"
    if cause is None:
        return None
    points.reach("declare_dead", "before")
    conn.execute(
        QUERIES["declare_dead"], {"worker": worker, "beat_at": life.beat_at, "cause": cause}
    )
    points.reach("declare_dead", "after")
    declared = life_of(conn, worker)
    return declared if declared is not None and declared.dead_at is not None else None


# -- processes on this machine ---------------------------------------------------------------


def process_identity(pid: int) -> str | None:
    """Name a process so that no other process ever has the same name. None where unknown.

    The name consists of kernel boot, process namespace, pid and start time, as Linux shows them.
    """
    kernel = _kernel()
    try:
        return None if kernel is None else f"{kernel}/{pid}/{_state_and_start(pid)[1]}"
    except (OSError, IndexError):
        return None


def _state_and_start(pid: int) -> tuple[str, str]:
    # The command name, in parentheses, may itself contain spaces and parentheses.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return after_name[0], after_name[19]


def _kernel() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{boot}/{namespace}"


def _process_gone(life: Life) -> bool:
    kernel = _kernel()
    if kernel is None or life.process is None or not life.process.startswith(kernel + "/"):
        return False
    try:
        os.kill(life.pid, 0)
        state, start = _state_and_start(life.pid)
    except ProcessLookupError:
        return True
    except (OSError, IndexError):
        return False  # the process exists, or existed a moment ago, and cannot be examined
    return state in "ZX" or life.process != f"{kernel}/{life.pid}/{start}"


# -- this process as a worker --------------------------------------------------------------------


def _now() -> tuple[float, float]:
    """The time since boot, which goes on while the machine is suspended, and the wall clock."""
    since_boot = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    return since_boot, time.time()


class Heart:
    """Registers this process as a worker and beats, on a connection and a thread of its own."""

    def __init__(
        self,
        dsn: str,
        lease: float = LEASE,
        after_beat: Callable[[psycopg.Connection[Any]], None] = lambda _conn: None,
        load: Callable[[], tuple[int, float]] = lambda: (0, 0.0),
    ) -> None:
        self.worker = f"w-{secrets.token_hex(5)}"
        self.lease = lease
        self._dsn = dsn
        self._after_beat = after_beat
        self._load = load  # returns the uncommitted events and the seconds of the slowest commit
        self._conn: DeadlineConnection | None = None
        self._confirmed = _now()
        self._clock = (self._confirmed[0], datetime.now(UTC))  # time since boot, database's clock
        self._dead = False
        # How often this worker registered. A server that lost its row has a new one, without the
        # agents and queues of this worker, which have to be written again.
        self.registrations = 0
        self._beating = threading.Lock()
        self._stop = threading.Event()
        self._beat(register=True)
        self._thread = threading.Thread(target=self._run, name="agentrun-heart", daemon=True)
        Context().run(self._thread.start)  # the thread belongs to no run

    def fence(self) -> None:
        """Check, as the last act before an effect is sent, that this worker may still send.

        If the last confirmed beat is older than 80 % of the lease, by the larger of boot time and
        wall clock, this beats first. Raises LeaseLost if this worker was declared dead, Parking if
        the process has to end while the database is away.
        """
        began = time.monotonic()
        while self.stale and not self._dead:
            try:
                self._beat()
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                PROCESS.check(began)
                time.sleep(min(0.5, self.lease / 20))
        if self._dead:
            raise LeaseLost(f"worker {self.worker} was declared dead; its runs have new owners")

    @property
    def stale(self) -> bool:
        """Whether `fence` would do more than return: the last confirmed beat is too old, or this
        worker was declared dead."""
        return self._dead or self._age() > _FENCE * self.lease

    def now(self) -> datetime:
        """The time by the database's clock, computed from the last beat.

        Use it to compare with times in the journal or in `runs`: this machine's clock may be wrong.
        """
        since_boot, at = self._clock
        return at + timedelta(seconds=_now()[0] - since_boot)

    @property
    def dead(self) -> bool:
        """Whether this worker was declared dead, which is final."""
        return self._dead

    def stop(self, *, idle: bool = True) -> None:
        """Stop beating for good.

        If the process is ``idle``, no effect is in flight. The worker's end is then recorded, so
        that other workers need not wait for its lease.
        """
        self._stop.set()
        if not PROCESS.join(self._thread):
            self._dead = True  # the thread waits for the database, so the end cannot be recorded
            return
        with contextlib.suppress(psycopg.Error), self._beating:
            dead, self._dead = self._dead, True  # before it is recorded: `fence` now always raises
            away = self._conn is None and PROCESS.hurried
            if idle and not dead and not away:
                points.reach("stop_worker", "before")
                self._connection().execute(QUERIES["stop_worker"], {"worker": self.worker})
                points.reach("stop_worker", "after")
        self._disconnect()

    def _age(self) -> float:
        return max(now - then for now, then in zip(_now(), self._confirmed, strict=True))

    def _run(self) -> None:
        failed = 0  # beats in a row
        while not self._stop.wait(_BEAT * self.lease) and not self._dead:
            try:
                self._beat()
                with self._beating:
                    self._after_beat(self._connection())
                failed = 0
            except psycopg.Error as error:
                if should_log_again(failed):
                    logger.warning("a heartbeat failed: %s", str(error).strip())
                failed += 1
            except Exception:  # go on beating, since the runs of this process depend on it
                logger.exception("a heartbeat failed")
        with self._beating:
            if self._dead:  # the next `Heart` opens a connection of its own
                self._disconnect()

    def _beat(self, *, register: bool = False) -> None:
        with self._beating:
            sent = _now()  # taken before sending, since the lease counts from then
            try:
                known = not register and self._conn is not None and not self._conn.closed
                row = self._send("beat") if known else None
                if row is None:
                    # Declared dead, or the server lost the row, which shows behind a pooler only.
                    known, row = False, self._send("register")
                answered, _ = _now()
            except psycopg.Error:
                self._disconnect()
                raise
            if row is None:
                self._dead = True
            else:
                self.registrations += not known
                self._confirmed = sent
                self._clock = ((sent[0] + answered) / 2, row["now"])

    def _send(self, what: Literal["beat", "register"]) -> dict[str, Any] | None:
        conn = self._connection()
        parameters = self._registration(conn) if what == "register" else self._load_report()
        points.reach(what, "before")
        row = conn.execute(QUERIES[what], parameters).fetchone()
        points.reach(what, "after")
        return row

    def _registration(self, conn: DeadlineConnection) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": process_identity(os.getpid()),
            "lease": self.lease,
            "direct": not conn.pooled,
        }

    def _load_report(self) -> dict[str, Any]:
        pending, slowest = self._load()
        return {"worker": self.worker, "pending": pending, "slowest": slowest}

    def _connection(self) -> DeadlineConnection:
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._dsn, deadline=max(1.0, self.lease / 3))
        return self._conn

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(Exception):
                conn.close()
