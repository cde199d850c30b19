"""`transaction` tools beside each other, cancelled in between, refused at COMMIT."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from crashing import die, killed, until

import agentrun
from agentrun.core import points
from agentrun.core.events import Event
from agentrun.steps.execution_point import current_context
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run


@pytest.fixture
def counted(db: Any) -> Callable[[], list[int]]:
    with db.connection() as conn:
        conn.execute("CREATE TABLE counted (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def read() -> list[int]:
        with db.connection() as conn:
            return [row["n"] for row in conn.execute("SELECT n FROM counted ORDER BY n")]

    return read


@agentrun.tool(effect="transaction")
async def count(n: int) -> int:
    await agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (n,))
    return n


@agentrun.tool(effect="idempotent")
async def beside(n: int) -> int:
    await asyncio.sleep(0)
    return n


def test_transactions_at_once_take_turns_at_the_journals_end(
    db: Any, counted: Any, events: Any
) -> None:
    @agentrun.agent
    async def run() -> int:
        return sum(await asyncio.gather(*(f(n) for n in range(12) for f in (count, beside))))

    assert run.with_options(key="k").run() == 132
    assert counted() == list(range(12))
    names = [event.event for event in events("k")]
    assert names.count("claimed") == 1
    assert names.count("step_finished") == 24
    assert [event.seq for event in events("k")] == list(range(1, len(names) + 1))


def test_transactions_in_threads_at_once_take_turns(db: Any, counted: Any, events: Any) -> None:
    @agentrun.tool(effect="transaction")
    def insert(n: int) -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (n,))
        return n

    @agentrun.agent
    def run() -> None:
        threads = [threading.Thread(target=insert, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run.with_options(key="k").run()
    assert counted() == list(range(8))
    assert [event.event for event in events("k")].count("claimed") == 1


def test_a_commit_that_is_refused_for_good_is_the_steps_error(
    db: Any, counted: Any, events: Any
) -> None:
    @agentrun.tool(effect="transaction")
    def twice() -> None:
        connection = agentrun.current_step().connection
        connection.execute("INSERT INTO counted VALUES (1), (1)")  # found out at COMMIT

    @agentrun.agent
    def run() -> str:
        try:
            twice()
        except psycopg.errors.UniqueViolation:
            return "refused"
        return "done"

    assert run.with_options(key="k").run() == "refused"
    assert counted() == []
    outcomes = [(e.event, e.status) for e in events("k") if e.event == "step_finished"]
    assert outcomes == [("step_finished", "error")]


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_body_that_cannot_see_the_runs_last_event_is_rerun(
    db: Any, counted: Any, events: Any, isolation: str
) -> None:
    """Its snapshot is older than the step within it, which the checkpoint is to follow."""

    @agentrun.tool(effect="idempotent")
    def within() -> int:
        return 7

    @agentrun.tool(effect="transaction")
    def insert() -> int:
        connection = agentrun.current_step().connection
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        connection.execute("SELECT FROM counted")
        connection.execute("INSERT INTO counted VALUES (%s)", (within(),))
        return 7

    @agentrun.agent
    def run() -> int:
        return insert()

    assert run.with_options(key="k").run() == 7
    assert counted() == [7]
    failed = [event.status for event in events("k") if event.event == "attempt_failed"]
    assert failed == ["rolled_back"]


@pytest.mark.parametrize("moment", ["before its seq", "at its checkpoint"])
def test_a_transaction_cancelled_while_it_commits_leaves_the_run_able_to_go_on(
    db: Any, dsn: str, counted: Any, events: Any, moment: str
) -> None:
    """The journal is locked, so that the commit has to wait; then the agent cancels it."""
    waits = "SELECT FROM pg_locks WHERE NOT granted"

    @agentrun.agent
    async def run() -> str:
        await beside(0)
        with psycopg.connect(dsn) as lock, psycopg.connect(dsn, autocommit=True) as conn:
            if moment == "at its checkpoint":
                current_context().flushed().sync()
            lock.execute("LOCK TABLE agentrun.journal IN EXCLUSIVE MODE")
            task = asyncio.create_task(count(7))
            while not conn.execute(waits).fetchall():
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.1)
            lock.rollback()
            await asyncio.wait([task], timeout=20)
            assert task.cancelled()
        return str(await beside(1))

    assert asyncio.run(asyncio.wait_for(run.with_options(key="k").arun(), 60)) == "1"
    names = [event.event for event in events("k")]
    assert names.count("claimed") == 1
    done = [e.status for e in events("k") if e.event == "step_finished" and e.name == "count"]
    assert len(counted()) == done.count("ok")


@pytest.mark.read_committed("counts how often a body runs")
def test_what_the_database_ends_is_no_try_of_the_tools_own(
    db: Any, counted: Any, events: Any
) -> None:
    calls: list[int] = []

    @agentrun.tool(effect="transaction", retries=1)
    def act() -> str:
        connection = agentrun.current_step().connection
        calls.append(1)
        connection.execute("INSERT INTO counted VALUES (%s)", (len(calls),))
        if len(calls) < 3:
            with db.connection() as conn:
                (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
                conn.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
            connection.execute("SELECT 1")
        if len(calls) == 3:
            raise ValueError("the one that may be retried")
        return "done"

    @agentrun.agent
    def run() -> str:
        return act()

    assert run.with_options(key="k").run() == "done"
    assert counted() == [4]
    failed = [event.status for event in events("k") if event.event == "attempt_failed"]
    assert failed == ["rolled_back", "rolled_back", None]


@pytest.mark.parametrize(
    "point", ["checkpoint:before", "checkpoint:after", "commit:before", "commit:after"]
)
def test_killed_around_its_commit_a_transaction_is_done_once(
    db: Any, dsn: str, counted: Any, point: str
) -> None:
    @agentrun.tool(effect="transaction")
    def insert(n: int) -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (n,))
        return n

    @agentrun.agent
    def run() -> int:
        return insert(7)

    keyed = run.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        points.arm(lambda reached: die() if reached == point else None)
        keyed.run()

    killed(action)
    assert counted() == ([7] if point == "commit:after" else [])
    assert keyed.run() == 7  # a second row would be refused
    assert counted() == [7]


def test_a_statement_beyond_a_limit_of_the_server_is_an_outcome(db: Any, events: Any) -> None:
    @agentrun.tool(effect="transaction")
    def sort() -> None:
        conn = agentrun.current_step().connection
        conn.execute("SET LOCAL temp_file_limit = '1MB'; SET LOCAL work_mem = '64kB'")
        conn.execute("SELECT count(*) FROM (SELECT generate_series(1, 999999) AS n ORDER BY n) s")

    @agentrun.agent
    def run() -> None:
        sort()

    with pytest.raises(agentrun.RunFailed, match="temp_file_limit"):
        run.with_options(key="k").run()
    assert "attempt_failed" not in [event.event for event in events("k")]


def test_a_full_disk_is_waited_for_and_is_no_outcome(
    counted: Any, events: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bodies: list[int] = []

    @agentrun.tool(effect="transaction")
    def insert() -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (1)")
        bodies.append(1)
        if len(bodies) == 1:
            raise psycopg.errors.DiskFull("could not extend file: No space left on device")
        return len(bodies)

    @agentrun.agent
    def run() -> int:
        return insert()

    assert run.with_options(key="k").run() == 2
    assert counted() == [1]
    assert [event.event for event in events("k")].count("attempt_failed") == 1
    assert "waiting for the database: could not extend file" in caplog.text


def test_answers_that_come_after_a_refused_checkpoint_are_kept(db: Any, dsn: str) -> None:
    """Its seq stays empty: what follows that is late, and no sign that the database lost rows."""
    started, taken = asyncio.Event(), asyncio.Event()

    @agentrun.tool(effect="transaction")
    async def robbed() -> None:
        await started.wait()  # a claim takes no run whose journal has moved since it was found
        claimed = other.claim(find_run(other, "k"), "test")
        assert claimed is not None
        cancelled = Event(event="run_cancelled", reason="test")
        other.writer.wait(other.writer.append(claimed[0], [cancelled]))

    @agentrun.tool
    async def slow() -> str:
        started.set()
        await taken.wait()
        return "paid for"

    @agentrun.agent
    async def both() -> None:
        async def first() -> None:
            try:
                await robbed()
            finally:
                taken.set()

        await asyncio.gather(first(), slow(), return_exceptions=True)

    with OpenDatabase(dsn) as other:
        with pytest.raises(agentrun.RunError, match="cancelled"):
            both.with_options(key="k").run()
        until(lambda: bool(db.query("late", run_id=find_run(db, "k").run_id, step=2, attempt=1)))
