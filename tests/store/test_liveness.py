"""Who is alive? Hearts of real processes that are killed, stopped, cut off and revived."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from servers import Pair, kill

from agentrun.core.errors import LeaseLost
from agentrun.store import embedded, liveness
from agentrun.store.connection import DeadlineConnection, connect
from agentrun.store.liveness import Heart, find_dead, life_of
from agentrun.store.migrate import migrate
from agentrun.store.sql import QUERIES

# A worker in a process of its own: says its name, then whether it may send, each time it is asked.
WORKER = """
import sys
from agentrun.core.errors import LeaseLost
from agentrun.store.liveness import Heart
heart = Heart(sys.argv[1], float(sys.argv[2]))
print(heart.worker, flush=True)
for _ in sys.stdin:
    try:
        heart.fence()
        print("may send", flush=True)
    except LeaseLost:
        print("lease lost", flush=True)
"""


class Worker:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.name = self.said()

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def asked(self) -> str:
        assert self.process.stdin is not None
        print("?", file=self.process.stdin, flush=True)
        return self.said()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)


@contextlib.contextmanager
def worker(dsn: str, lease: float) -> Iterator[Worker]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, dsn, str(lease)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Worker(process)
        finally:
            process.kill()


@contextlib.contextmanager
def beating(dsn: str, lease: float) -> Iterator[Heart]:
    heart = Heart(dsn, lease)
    try:
        yield heart
    finally:
        heart.stop()


@pytest.fixture
def conn(dsn: str) -> Iterator[DeadlineConnection]:
    with connect(dsn) as opened:
        yield opened


def until(true: Callable[[], Any]) -> Any:
    """Wait for something that must come; its value."""
    deadline = time.monotonic() + 60
    while not (value := true()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return value


def row(conn: DeadlineConnection, name: str) -> dict[str, Any]:
    found = conn.execute("SELECT * FROM agentrun.workers WHERE worker = %s", [name]).fetchone()
    assert found is not None
    return dict(found)


def elsewhere(conn: DeadlineConnection, name: str) -> None:
    """As if the worker were on another machine, where we cannot look for its process."""
    conn.execute("UPDATE agentrun.workers SET process = NULL WHERE worker = %s", [name])


def server_older_than(conn: DeadlineConnection, seconds: float) -> None:
    """Only then does a missing session mean anything."""
    age = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()) AS age"
    until(lambda: (conn.execute(age).fetchone() or {"age": 0})["age"] > seconds)


# -- a heart --------------------------------------------------------------------------------------


def test_a_heart_registers_beats_and_says_that_it_stopped(
    dsn: str, conn: DeadlineConnection
) -> None:
    heart = Heart(dsn, 0.5)
    first = row(conn, heart.worker)
    until(lambda: row(conn, heart.worker)["beat_at"] > first["beat_at"])
    heart.fence()
    assert find_dead(conn, heart.worker) is None

    heart.stop()

    life = find_dead(conn, heart.worker)
    assert life is not None
    assert (life.cause, life.settled_in) == ("stopped", 0.0)


def test_a_worker_that_never_registered_is_not_declared_dead(conn: DeadlineConnection) -> None:
    assert find_dead(conn, "w-nobody") is None


def test_a_worker_declared_dead_stays_dead_and_may_send_nothing(
    dsn: str, conn: DeadlineConnection
) -> None:
    with beating(dsn, 0.5) as heart:
        until(lambda: declared_dead(conn, heart.worker))
        died = row(conn, heart.worker)
        until(lambda: heart.dead)
        with pytest.raises(LeaseLost, match="declared dead"):
            heart.fence()
    assert row(conn, heart.worker) == died, "neither a beat nor its stopping changes that"


def test_a_dead_worker_cannot_register_again(dsn: str, conn: DeadlineConnection) -> None:
    with beating(dsn, 0.5) as heart:
        until(lambda: declared_dead(conn, heart.worker))
        died = row(conn, heart.worker)
        end_session(conn, heart.worker)  # its next beat comes on a new connection
        until(lambda: heart.dead)
        assert row(conn, heart.worker) == died
        with pytest.raises(LeaseLost):
            heart.fence()


def test_the_fence_notices_death_without_waiting_for_a_beat(
    dsn: str, conn: DeadlineConnection
) -> None:
    """A process that slept through its lease asks before it sends."""
    with worker(dsn, 1.0) as sleeper:
        assert sleeper.asked() == "may send"
        sleeper.freeze()
        life = until(lambda: find_dead(conn, sleeper.name))
        sleeper.process.send_signal(signal.SIGCONT)
        assert life.cause == "lease expired"
        assert sleeper.asked() == "lease lost"


def test_a_process_that_slept_but_was_not_missed_may_go_on(
    dsn: str, conn: DeadlineConnection
) -> None:
    with worker(dsn, 0.5) as sleeper:
        sleeper.freeze()
        until(lambda: (life_of(conn, sleeper.name) or Any).expired)
        sleeper.process.send_signal(signal.SIGCONT)
        assert sleeper.asked() == "may send"


def declared_dead(conn: DeadlineConnection, name: str) -> bool:
    """Declare a worker dead on its last beat, as somebody would who saw no sign of life."""
    seen = {"worker": name, "beat_at": row(conn, name)["beat_at"], "cause": "lease expired"}
    return conn.execute(QUERIES["declare_dead"], seen).fetchone() is not None


def end_session(conn: DeadlineConnection, name: str) -> None:
    conn.execute("SELECT pg_terminate_backend(%s, 60000)", [row(conn, name)["session_pid"]])


# -- who is found dead, and by what --------------------------------------------------------------


def test_a_live_worker_is_left_alone(dsn: str, conn: DeadlineConnection) -> None:
    with worker(dsn, 60.0) as alive:
        assert find_dead(conn, alive.name) is None
        elsewhere(conn, alive.name)
        assert find_dead(conn, alive.name) is None


def test_a_killed_process_on_this_machine_is_found_at_once_and_is_surely_gone(
    dsn: str, conn: DeadlineConnection
) -> None:
    with worker(dsn, 3600.0) as victim:
        victim.kill()
        life = find_dead(conn, victim.name)
    assert life is not None
    assert (life.cause, life.settled_in) == ("process gone", 0.0)


def test_a_killed_process_that_nobody_has_buried_yet_is_gone_too(
    dsn: str, conn: DeadlineConnection
) -> None:
    with worker(dsn, 3600.0) as victim:
        victim.process.kill()
        until(lambda: psutil.Process(victim.process.pid).status() == psutil.STATUS_ZOMBIE)
        life = find_dead(conn, victim.name)
    assert life is not None
    assert life.cause == "process gone"


def test_a_process_that_cannot_be_looked_at_is_not_gone(
    dsn: str, conn: DeadlineConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with no file descriptor left, or another user's process under hidepid."""
    read_text = Path.read_text

    def refused(path: Path, *args: Any) -> str:
        if path.name == "stat":
            raise PermissionError(path)
        return read_text(path, *args)

    with worker(dsn, 60.0) as alive:
        monkeypatch.setattr(Path, "read_text", refused)
        assert find_dead(conn, alive.name) is None
        alive.kill()
        life = find_dead(conn, alive.name)
        assert life is not None
        assert life.cause == "process gone"


@pytest.mark.direct("a pooler's session outlives the process")
def test_a_killed_worker_elsewhere_is_found_by_its_session_before_its_lease_ends(
    dsn: str, conn: DeadlineConnection
) -> None:
    lease = 4.0
    server_older_than(conn, lease)
    with worker(dsn, lease) as victim:
        elsewhere(conn, victim.name)
        victim.kill()
        until(lambda: (life_of(conn, victim.name) or Any).session_gone)
        life = find_dead(conn, victim.name, sleep=lambda _seconds: None)
    assert life is not None
    assert life.cause == "session gone"
    assert life.settled_in > 0, "a cut network looks the same: its effects may still be under way"


@pytest.mark.direct("ends the session of a worker, who has none of his own behind a pooler")
def test_a_worker_that_registers_again_within_the_grace_lives(
    dsn: str, conn: DeadlineConnection
) -> None:
    lease = 2.0
    server_older_than(conn, lease)
    with beating(dsn, lease) as heart:
        elsewhere(conn, heart.worker)
        before = row(conn, heart.worker)
        end_session(conn, heart.worker)
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            until(lambda: row(conn, heart.worker)["session_pid"] != before["session_pid"])

        assert find_dead(conn, heart.worker, sleep) is None
        heart.fence()
    assert waited
    assert waited[0] > liveness._BEAT * lease, "the grace must be longer than a beat takes"


def test_a_new_server_says_nothing_about_sessions(dsn: str, conn: DeadlineConnection) -> None:
    with worker(dsn, 3600.0) as victim:  # the server of these tests is younger than that
        elsewhere(conn, victim.name)
        victim.kill()
        assert find_dead(conn, victim.name, lambda _grace: pytest.fail("nothing is gone")) is None


def test_a_frozen_worker_is_found_by_its_lease_alone(dsn: str, conn: DeadlineConnection) -> None:
    with worker(dsn, 1.0) as frozen:
        frozen.freeze()
        began = row(conn, frozen.name)["beat_at"]
        life = until(lambda: find_dead(conn, frozen.name))
        assert life.cause == "lease expired"
        assert (life.dead_at - began).total_seconds() >= 1.0


def test_death_is_declared_only_on_the_beat_that_was_seen(
    dsn: str, conn: DeadlineConnection
) -> None:
    with beating(dsn, 0.5) as heart:
        seen = row(conn, heart.worker)["beat_at"]
        until(lambda: row(conn, heart.worker)["beat_at"] > seen)
        late = {"worker": heart.worker, "beat_at": seen, "cause": "lease expired"}
        assert conn.execute(QUERIES["declare_dead"], late).fetchone() is None
        assert row(conn, heart.worker)["dead_at"] is None
        heart.fence()


# -- Postgres restarts ----------------------------------------------------------------------------


def test_a_restarted_postgres_does_not_make_everyone_take_everyone(new_home: Path) -> None:
    dsn = embedded.start(new_home)
    migrate(dsn)
    lease = 15.0
    with worker(dsn, lease) as silent, beating(dsn, 2.0) as heart:
        silent.freeze()  # it had no time yet to register again
        kill(new_home)
        embedded.start(new_home)
        with connect(dsn) as conn:
            conn.execute(  # the server was away for longer than a lease
                "UPDATE agentrun.workers SET beat_at = beat_at - interval '1 hour', process = NULL"
                " WHERE worker = %s",
                [silent.name],
            )
            assert find_dead(conn, silent.name) is None
            assert find_dead(conn, heart.worker) is None
            new = conn.execute("SELECT pg_postmaster_start_time() AS at").fetchone() or {}
            until(lambda: row(conn, heart.worker)["server_start"] == new["at"])
            heart.fence()
            silent.process.send_signal(signal.SIGCONT)
            until(lambda: row(conn, silent.name)["server_start"] == new["at"])
            assert silent.asked() == "may send"
            assert find_dead(conn, silent.name) is None


def test_a_failover_does_not_make_everyone_take_everyone(new_home: Path) -> None:
    """The standby was up before it became the primary: its age says nothing about leases."""
    pair, lease = Pair(new_home), 1.0
    migrate(pair.dsn)
    with worker(pair.dsn, lease) as silent:
        pair.catch_up()
        silent.freeze()
        kill(pair.primary)
        time.sleep(lease + 0.5)
        pair.promote()
        with connect(pair.dsn) as conn:
            elsewhere(conn, silent.name)
            assert find_dead(conn, silent.name) is None, "nobody had a chance to beat"
            time.sleep(lease + 0.5)
            assert find_dead(conn, silent.name) is None, "nobody has reached this server yet"
            with beating(pair.dsn, lease):
                life = until(lambda: find_dead(conn, silent.name))
            assert life.cause == "lease expired"
            began = conn.execute(
                "SELECT min(session_start) AS at FROM agentrun.workers WHERE worker <> %s",
                [silent.name],
            ).fetchone()
            assert (life.dead_at - began["at"]).total_seconds() >= lease
    pair.stop()


def test_a_worker_that_its_server_forgot_registers_again(
    dsn: str, conn: DeadlineConnection
) -> None:
    """A pooler's connection outlives the server behind it, and the next one may lack the row."""
    with beating(dsn, 1.0) as heart:
        conn.execute("DELETE FROM agentrun.workers")
        until(lambda: life_of(conn, heart.worker))
        heart.fence()


def test_one_crashed_backend_does_not_cost_the_others_their_runs(new_home: Path) -> None:
    """All sessions end, while the server's start time stays."""
    dsn = embedded.start(new_home)
    migrate(dsn)
    lease = 2.0
    with beating(dsn, lease) as heart:
        with connect(dsn) as conn:
            server_older_than(conn, lease)
            elsewhere(conn, heart.worker)
            before = row(conn, heart.worker)["session_pid"]
            victim = psutil.Process(conn.info.backend_pid)
            victim.kill()
            victim.wait(60)
        again = until(lambda: reconnected(dsn))
        with again:
            assert find_dead(again, heart.worker) is None
            until(lambda: row(again, heart.worker)["session_pid"] != before)
            heart.fence()


def reconnected(dsn: str) -> DeadlineConnection | None:
    with contextlib.suppress(psycopg.OperationalError):
        conn = connect(dsn)
        with contextlib.suppress(psycopg.OperationalError):
            conn.execute("SELECT 1")
            return conn
    return None
