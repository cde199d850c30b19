"""Is a worker alive? One heartbeat row a process, and what may be concluded from it.

A run is reclaimed because its owner is dead, never because it is old. Death is declared once,
by compare-and-swap on the last beat that was seen, and is final for that incarnation. The causes,
surest first:

``stopped``       the worker said so itself.
``process gone``  same kernel, same process namespace, and no such process: it can send nothing.
``session gone``  its database session has ended, the server has been up longer than a lease, and
                  the worker did not register again within the grace. Nearly always a crash, but a
                  cut network looks the same.
``lease expired`` no beat for a whole lease, by the database's clock; counted from the start of
                  the server where that is later, since nobody can beat while it is down.

After the last two the process may still be about to send something, so an interrupted `once`
effect is settled only when its worker's full lease has passed; a worker stops sending at 80 % of
its lease (`Heart.fence`).
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
from agentrun.core.log import logger, now_and_then
from agentrun.store.connection import DeadlineConnection, connect, is_transient
from agentrun.store.sql import QUERIES

LEASE = 10.0  # seconds
_BEAT = 0.1  # share of the lease between two beats
_GRACE = 1.5  # seconds that a worker whose session ended has to register again; over a beat
_FENCE = 0.8  # share of the lease after which nothing is sent without a new beat
_CERTAIN = frozenset({"stopped", "process gone"})


@dataclass(frozen=True, slots=True)
class Life:
    """What the database knows about one worker."""

    worker: str
    host: str
    pid: int
    process: str | None
    beat_at: datetime
    dead_at: datetime | None
    cause: str | None
    lease: float
    expired: bool
    lease_left: float
    session_gone: bool

    @property
    def settled_in(self) -> float:
        """Seconds until this dead worker can surely send nothing more."""
        return 0.0 if self.cause in _CERTAIN else self.lease_left


def life_of(conn: psycopg.Connection[Any], worker: str) -> Life | None:
    """Read a worker's row; None if no such worker ever registered."""
    row = conn.execute(QUERIES["owner"], {"worker": worker}).fetchone()
    return Life(**row) if row else None


def find_dead(
    conn: psycopg.Connection[Any], worker: str, sleep: Callable[[float], None] = time.sleep
) -> Life | None:
    """Declare ``worker`` dead if it is; return its row if it is dead, None if it lives.

    May take 30 % of a lease, when its session is gone and nothing surer is known.
    """
    life = life_of(conn, worker)
    if life is None or life.dead_at is not None:
        return life
    cause = "process gone" if _process_gone(life) else "lease expired" if life.expired else None
    if cause is None and life.session_gone:
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
    """Name a process for good: kernel boot, process namespace, pid and start time. Linux only."""
    kernel = _kernel()
    try:
        return None if kernel is None else f"{kernel}/{pid}/{_state_and_start(pid)[1]}"
    except (OSError, IndexError):
        return None


def _state_and_start(pid: int) -> tuple[str, str]:
    # The command name, in parentheses, may itself hold spaces and parentheses.
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
        return False  # it is there, or was a moment ago, and cannot be looked at
    return state in "ZX" or life.process != f"{kernel}/{life.pid}/{start}"


# -- our own life --------------------------------------------------------------------------------


def _now() -> tuple[float, float]:
    """Time since boot (which counts a suspended machine) and wall clock, in seconds."""
    since_boot = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    return since_boot, time.time()


class Heart:
    """This process as a worker: registered, beating on a connection and a thread of its own."""

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
        self._load = load  # events that are not committed yet, seconds of the slowest commit
        self._conn: DeadlineConnection | None = None
        self._confirmed = _now()
        self._clock = (self._confirmed[0], datetime.now(UTC))  # since boot; the database's then
        self._dead = False
        self.registered = 0  # times: a server that forgot this worker has a new, empty card of it
        self._beating = threading.Lock()
        self._stop = threading.Event()
        self._beat(register=True)
        self._thread = threading.Thread(target=self._run, name="agentrun-heart", daemon=True)
        Context().run(self._thread.start)  # it belongs to no run

    def fence(self) -> None:
        """The last act before an effect is sent.

        Raises LeaseLost when this worker was declared dead. When its last confirmed beat is
        older than 80 % of the lease, by the larger of boot time and wall clock, it beats first.
        """
        while self.stale and not self._dead:
            try:
                self._beat()
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                time.sleep(min(0.5, self.lease / 20))
        if self._dead:
            raise LeaseLost(f"worker {self.worker} was declared dead; its runs have new owners")

    @property
    def stale(self) -> bool:
        """Whether `fence` has to be asked: dead, or the last confirmed beat is too old."""
        return self._dead or self._age() > _FENCE * self.lease

    def now(self) -> datetime:
        """The time by the database's clock, whatever this machine's says: as of the last beat.

        Whatever is compared with a time of the journal or of `runs` is asked of this clock.
        """
        since_boot, at = self._clock
        return at + timedelta(seconds=_now()[0] - since_boot)

    @property
    def dead(self) -> bool:
        """Whether this incarnation was declared dead, which is final."""
        return self._dead

    def stop(self, *, settled: bool = True) -> None:
        """Stop beating, for good; if nothing is under way any more, say so: nobody has to wait."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(psycopg.Error), self._beating:
            dead, self._dead = self._dead, True  # first: from now on `fence` lets nothing pass
            if settled and not dead:
                points.reach("stop_worker", "before")
                self._connected().execute(QUERIES["stop_worker"], {"worker": self.worker})
                points.reach("stop_worker", "after")
        self._disconnect()

    def _age(self) -> float:
        return max(now - then for now, then in zip(_now(), self._confirmed, strict=True))

    def _run(self) -> None:
        failed = 0  # in a row
        while not self._stop.wait(_BEAT * self.lease) and not self._dead:
            try:
                self._beat()
                with self._beating:
                    self._after_beat(self._connected())
                failed = 0
            except psycopg.Error as error:
                if now_and_then(failed):
                    logger.warning("a heartbeat failed: %s", str(error).strip())
                failed += 1
            except Exception:  # the runs of this process depend on it
                logger.exception("a heartbeat failed")
        with self._beating:
            if self._dead:  # for good: another incarnation has a connection of its own
                self._disconnect()

    def _beat(self, *, register: bool = False) -> None:
        with self._beating:
            sent = _now()  # before sending: the lease counts from when the beat left here
            try:
                known = not register and self._conn is not None and not self._conn.closed
                row = self._say("beat") if known else None
                if row is None:
                    # Declared dead, or, seen through a pooler, a server that lost the row.
                    known, row = False, self._say("register")
                answered, _ = _now()
            except psycopg.Error:
                self._disconnect()
                raise
            if row is None:
                self._dead = True
            else:
                self.registered += not known
                self._confirmed = sent
                self._clock = ((sent[0] + answered) / 2, row["now"])

    def _say(self, what: Literal["beat", "register"]) -> dict[str, Any] | None:
        conn = self._connected()
        told = self._card(conn) if what == "register" else self._well_being()
        points.reach(what, "before")
        row = conn.execute(QUERIES[what], told).fetchone()
        points.reach(what, "after")
        return row

    def _card(self, conn: DeadlineConnection) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": process_identity(os.getpid()),
            "lease": self.lease,
            "direct": not conn.pooled,
        }

    def _well_being(self) -> dict[str, Any]:
        pending, slowest = self._load()
        return {"worker": self.worker, "pending": pending, "slowest": slowest}

    def _connected(self) -> DeadlineConnection:
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._dsn, deadline=max(1.0, self.lease / 3))
        return self._conn

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(Exception):
                conn.close()
