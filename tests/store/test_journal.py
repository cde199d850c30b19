"""The writer: group commit, order, fencing, bad rows, interrupted and cancelled waiters, ends."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
import pytest
from invariants import assert_invariants

from agentrun.core.errors import LeaseLost, StoreError
from agentrun.core.events import Event, Usage
from agentrun.core.flow import Flow, run_async
from agentrun.core.sharing import Shared
from agentrun.steps.run_context import RunContext
from agentrun.store import embedded
from agentrun.store.commit_waiters import PendingCommit
from agentrun.store.database import OpenDatabase
from agentrun.store.journal import JournalTail, Writer
from agentrun.store.migrate import migrate
from agentrun.store.rows import Row, to_row
from agentrun.store.runs import find_run

Claim = Callable[[str], JournalTail]


@pytest.fixture
def database(dsn: str) -> Iterator[OpenDatabase]:
    with OpenDatabase(dsn) as opened:
        yield opened


@pytest.fixture
def claim(database: OpenDatabase) -> Claim:
    return lambda key: taken(database, key)


@pytest.fixture
def late() -> list[Row]:
    """What the writer was handed back because its run was lost."""
    return []


@pytest.fixture
def writer(dsn: str, late: list[Row]) -> Iterator[Writer]:
    opened = Writer(dsn, late.append)
    yield opened
    opened.close()


def taken(database: OpenDatabase, key: str) -> JournalTail:
    """Make a run if there is none of this key, and take it over, whoever has it."""
    database.create(key, "agent", {}, "")
    claimed = database.claim(find_run(database, key), "test")
    assert claimed is not None
    return claimed[0]


def event(step: int, **columns: Any) -> Event:
    return Event(event="attempt_started", step=step, **columns)


def steps(dsn: str, run_id: UUID) -> list[int]:
    """The step column of a run's journal, after `created` and the claims."""
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            "SELECT step FROM agentrun.journal WHERE run_id = %s AND step IS NOT NULL ORDER BY seq",
            [run_id],
        )
        return [step for (step,) in found]


def outcome(done: PendingCommit) -> None:
    """Wait as a task does, who flushes nothing; raise what kept the events out."""
    asyncio.run(asyncio.wait_for(done.wait(), 60))


def commits(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        (number,) = conn.execute(
            "SELECT count(DISTINCT batch) FROM agentrun.journal"
        ).fetchone() or (0,)
    return int(number)


def in_threads(number: int, work: Callable[[int], None]) -> None:
    """Run ``work`` in so many threads at once and raise what the first to fail raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(number)

    def run(index: int) -> None:
        try:
            barrier.wait()
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


# -- groups and order ----------------------------------------------------------------------------


def test_events_of_many_threads_share_commits_and_stay_in_order(
    dsn: str, writer: Writer, claim: Claim
) -> None:
    tails = [claim(f"run-{n}") for n in range(16)]
    before = commits(dsn)

    def work(index: int) -> None:
        for step in range(1, 31):
            writer.wait(writer.append(tails[index], [event(step), event(-step)]))

    in_threads(16, work)

    expected = [signed for step in range(1, 31) for signed in (step, -step)]
    for tail in tails:
        assert steps(dsn, tail.run_id) == expected
    waits = 16 * 30
    assert commits(dsn) - before < waits / 2
    assert_invariants(dsn)


def test_a_future_is_done_only_when_its_events_are_durable(
    dsn: str, writer: Writer, claim: Claim
) -> None:
    tail = claim("run")
    for step in range(1, 20):
        done = writer.append(tail, [event(step)])
        outcome(done)  # nobody flushes but the writer's thread
        assert steps(dsn, tail.run_id)[-1] == step


def test_appending_nothing_waits_for_all_before_it(dsn: str, writer: Writer, claim: Claim) -> None:
    tail = claim("run")
    with writer._flushing:  # so that both go in one batch, and the next is empty
        first = writer.append(tail, [event(1)])
        nothing = writer.append(tail, [])
    writer.wait(nothing)
    assert first.finished
    writer.wait(writer.append(tail, []))
    writer.wait(writer.append(tail, [event(2)]))
    assert steps(dsn, tail.run_id) == [1, 2]


def test_a_batch_has_a_limit_and_what_is_over_it_follows_in_order(
    dsn: str, writer: Writer, claim: Claim
) -> None:
    tail = claim("run")
    with writer._flushing:
        queued = [writer.append(tail, [event(n)]) for n in range(2_500)]
    for done in queued:
        writer.wait(done)
    assert steps(dsn, tail.run_id) == list(range(2_500))
    assert commits(dsn) == 2 + 2  # created, claimed, and two batches


@pytest.mark.tampers
def test_one_row_is_stored_alike_alone_and_among_others(
    dsn: str, writer: Writer, claim: Claim
) -> None:
    at = datetime(2026, 11, 24, 12, 30, 15, 250_000, tzinfo=UTC)
    usage = Usage(1, 2, 3, 4, Decimal("0.00120"), "a list")
    full = Event(
        event="step_finished", step=70_000, turn=2, kind="model", name="na\0me", ident="b:é/1",
        attempt=3, effect="once", key="k", status="ok", started_at=at, fingerprint="f" * 32,
        overlapping=True, model="m", usage=usage, by="ada", reason="'\"\\", wake_at=at,
        input={"a": [1.5, None, "\ud83d\ude00"]}, has_input=True,
        output="\0\ud800", has_output=True,
    )  # fmt: skip
    bare = Event(event="attempt_started")
    alone, among, other = claim("alone"), claim("among"), claim("other")
    writer.wait(writer.append(alone, [full, bare]))
    with writer._flushing:
        waited = writer.append(among, [full, bare])
        writer.append(other, [bare])
    writer.wait(waited)
    with psycopg.connect(dsn) as conn:
        stored = conn.execute(
            "SELECT run_id, to_jsonb(j) - '{run_id,batch,at,worker}'::text[]"
            " FROM agentrun.journal j WHERE run_id = ANY(%s) AND seq > 2 ORDER BY run_id, seq",
            [[alone.run_id, among.run_id]],
        ).fetchall()
    rows = {run: [row for of, row in stored if of == run] for run, _ in stored}
    assert len(rows[alone.run_id]) == 2
    assert rows[alone.run_id] == rows[among.run_id]


# -- the stale owner -----------------------------------------------------------------------------


def test_a_stale_owner_gets_lease_lost_and_nothing_of_it_enters_the_journal(
    dsn: str, writer: Writer, claim: Claim, late: list[Row]
) -> None:
    stale, other = claim("run"), claim("other")
    writer.wait(writer.append(stale, [event(1)]))
    owner = claim("run")
    with writer._flushing:
        lost = writer.append(stale, [event(2), event(3)])
        kept = writer.append(other, [event(1)])
    writer.wait(kept)

    with pytest.raises(LeaseLost, match="taken over"):
        writer.wait(lost)
    with pytest.raises(LeaseLost):  # and from now on without asking the database
        outcome(writer.append(stale, [event(4)]))
    writer.wait(writer.append(owner, [event(10)]))

    assert steps(dsn, stale.run_id) == [1, 10]
    assert isinstance(stale.lost, LeaseLost)
    assert [row.event.step for row in late] == [2, 3, 4]
    assert_invariants(dsn)


def test_an_owner_of_long_ago_is_refused_however_far_the_journal_went(
    dsn: str, writer: Writer, claim: Claim
) -> None:
    for length in range(6):
        stale = claim("run")
        for _ in range(2):
            owner = claim("run")
            writer.wait(writer.append(owner, [event(7)] * length))
        with pytest.raises(LeaseLost):
            writer.wait(writer.append(stale, [event(666)] * 3))
    assert 666 not in steps(dsn, owner.run_id)
    assert_invariants(dsn)


def test_an_answer_that_cannot_be_kept_aside_does_not_stop_the_writer(
    dsn: str, claim: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_row: Row) -> None:
        raise OSError("disk full")

    writer = Writer(dsn, full)
    stale = claim("run")
    claim("run")
    with pytest.raises(LeaseLost):
        outcome(writer.append(stale, [event(1)]))
    other = claim("other")
    outcome(writer.append(other, [event(1)]))
    writer.close()
    assert "could not be kept" in caplog.text


# -- rows that cannot be stored ------------------------------------------------------------------


def bad_event(how: str) -> Event:
    if how == "refused by the database":
        too_large = Decimal((0, (1,), 200_000))  # numeric ends at 131,072 digits
        return event(13, usage=Usage(cost=too_large))
    return event(13, usage=Usage(input_tokens=1 << 40))


@pytest.mark.parametrize("how", ["refused by the database", "impossible to send"])
def test_one_bad_row_fails_one_run_only(dsn: str, writer: Writer, claim: Claim, how: str) -> None:
    tails = [claim(f"run-{n}") for n in range(5)]
    with writer._flushing:
        good = [writer.append(tail, [event(1), event(2)]) for tail in tails]
        bad = writer.append(tails[2], [bad_event(how)])
        follows = writer.append(tails[2], [event(14)])
    for index in (0, 1, 3, 4):
        writer.wait(good[index])

    with pytest.raises(StoreError, match="cannot be stored"):
        writer.wait(bad)
    with pytest.raises(StoreError, match="cannot be stored"):
        writer.wait(follows)
    for index, tail in enumerate(tails):
        if index != 2:
            writer.wait(writer.append(tail, [event(3)]))
            assert steps(dsn, tail.run_id) == [1, 2, 3]
    assert 13 not in steps(dsn, tails[2].run_id)
    assert_invariants(dsn)


# -- waiters that are interrupted or cancelled ---------------------------------------------------


def test_no_waiter_can_cancel_what_the_writer_owes_to_others(
    dsn: str, writer: Writer, claim: Claim
) -> None:
    tail = claim("run")

    async def give_up() -> None:
        with writer._flushing:
            done = writer.append(tail, [event(1)])
            waiter = asyncio.create_task(done.wait())
            await asyncio.sleep(0)
            waiter.cancel()
        await asyncio.wait_for(done.wait(), 20)
        assert waiter.cancelled()

    asyncio.run(give_up())
    outcome(writer.append(tail, [event(2)]))
    assert steps(dsn, tail.run_id) == [1, 2]


def test_a_task_may_be_cancelled_at_every_await_of_a_durable_wait(
    dsn: str, database: OpenDatabase, claim: Claim
) -> None:
    run = RunContext(database, "run", "agent", claim("run"), [], "refuse", "")

    def append_and_wait(step: int) -> Flow[None]:
        yield run.durable(run.append(event(step)))

    async def main() -> int:
        for turns in range(10_000):
            task = asyncio.create_task(run_async(append_and_wait(turns)))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.cancel():
                return turns
            with pytest.raises(asyncio.CancelledError):
                await task
        raise AssertionError("the wait never ends")

    ended = asyncio.run(main())

    assert ended > 1
    database.writer.wait(run.append(event(-1)))
    assert steps(dsn, run.run_id) == [*range(1, ended + 1), -1]


CHILD = """
import asyncio, os, signal, sys, threading
from agentrun.core.events import Event
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run

def interrupt_soon():
    waiting.wait()
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
with OpenDatabase(sys.argv[1]) as database:
    database.create("run", "agent", {}, "")
    tail, _ = database.claim(find_run(database, "run"), "test")
    for step in range(300):
        waiting = threading.Event()
        thread = threading.Thread(target=interrupt_soon)
        thread.start()
        try:
            done = database.writer.append(tail, [Event(event="attempt_started", step=step)])
            waiting.set()
            database.writer.wait(done)
            thread.join()
        except KeyboardInterrupt:
            thread.join()
        asyncio.run(done.wait())
    print("interrupted 300 times")
"""


def test_ctrl_c_anywhere_in_a_wait_loses_nothing_and_hangs_nobody(dsn: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, dsn], capture_output=True, text=True, timeout=120
    )
    assert child.stdout.strip() == "interrupted 300 times", child.stderr
    with OpenDatabase(dsn) as database:
        assert steps(dsn, find_run(database, "run").run_id) == list(range(300))
    assert_invariants(dsn)


# -- a transaction tool's reserved seq -----------------------------------------------------------


def fill(database: OpenDatabase, tail: JournalTail, seq: int, step: int) -> None:
    """What the tool's own connection does at its end: append at the reserved seq."""
    row = to_row(event(step), tail.run_id, seq, tail.epoch, tail.worker, Shared())
    assert database.fill(row)


def test_what_follows_a_reserved_seq_waits_until_it_is_used(
    dsn: str, database: OpenDatabase, writer: Writer, claim: Claim
) -> None:
    tail, other = claim("run"), claim("other")
    with writer._flushing:
        before = writer.append(tail, [event(1)])
        seq, pending = writer.reserve(tail)
        after = writer.append(tail, [event(3)])
    assert pending == [before]
    for done in pending:
        writer.wait(done)
    writer.wait(writer.append(other, [event(1)]))  # other runs go on
    assert not after.finished
    assert steps(dsn, tail.run_id) == [1]

    fill(database, tail, seq, 2)
    writer.unpause(tail)

    writer.wait(after)
    assert steps(dsn, tail.run_id) == [1, 2, 3]
    assert_invariants(dsn)


def test_a_waiter_behind_a_reserved_seq_sleeps(
    dsn: str, database: OpenDatabase, writer: Writer, claim: Claim
) -> None:
    tail = claim("run")
    seq, _ = writer.reserve(tail)
    done = writer.append(tail, [event(2)])
    used: list[float] = []

    def wait() -> None:
        writer.wait(done)
        used.append(time.thread_time())

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    fill(database, tail, seq, 1)
    writer.unpause(tail)
    thread.join(60)
    assert not thread.is_alive()
    assert used[0] < 0.2, "it burned the processor instead of waiting"


def test_a_second_reservation_does_not_hold_back_what_it_waits_for(
    dsn: str, database: OpenDatabase, writer: Writer, claim: Claim
) -> None:
    tail = claim("run")
    first, _ = writer.reserve(tail)
    between = writer.append(tail, [event(2)])
    fill(database, tail, first, 1)
    with writer._flushing:  # before the thread comes to it
        writer.unpause(tail)
        second, pending = writer.reserve(tail)
    assert pending == [between]
    outcome(between)
    fill(database, tail, second, 3)
    writer.unpause(tail)
    assert steps(dsn, tail.run_id) == [1, 2, 3]


def test_a_reservation_does_not_hold_back_who_waits_for_what_was_before_it(
    dsn: str, database: OpenDatabase, writer: Writer, claim: Claim
) -> None:
    tail = claim("run")
    with writer._flushing:  # before the thread comes to it
        flushed = writer.append(tail, [])
        seq, pending = writer.reserve(tail)
        after = writer.append(tail, [])
    assert pending == [flushed]
    outcome(flushed)
    time.sleep(0.05)  # nemesis
    assert not after.finished, "the reserved seq has not been used"
    fill(database, tail, seq, 1)
    writer.unpause(tail)
    outcome(after)


# -- the end -------------------------------------------------------------------------------------


def test_close_flushes_what_is_pending_and_refuses_what_comes_later(dsn: str, claim: Claim) -> None:
    tails = [claim(f"run-{n}") for n in range(4)]
    writer = Writer(dsn)
    with writer._flushing:
        pending = [writer.append(tail, [event(n)]) for n in range(50) for tail in tails]
    writer.close()

    assert all(done.finished and done.error is None for done in pending)
    for tail in tails:
        assert steps(dsn, tail.run_id) == list(range(50))
    with pytest.raises(StoreError, match="closed"):
        outcome(writer.append(tails[0], [event(99)]))


def test_close_leaves_nobody_waiting_behind_a_seq_that_is_never_used(
    dsn: str, claim: Claim
) -> None:
    tail = claim("run")
    writer = Writer(dsn)
    writer.reserve(tail)
    held = writer.append(tail, [event(2)])
    writer.close()
    with pytest.raises(StoreError, match="stopped"):
        outcome(held)


# -- Postgres is killed under the writer ---------------------------------------------------------


def kill_server(home: Path) -> None:
    """SIGKILL the postmaster; its children follow when they notice."""
    lines = (embedded.where(home).data / "postmaster.pid").read_text().split()
    postmaster = psutil.Process(int(lines[0]))
    postmaster.send_signal(signal.SIGKILL)
    postmaster.wait(60)


def test_a_killed_and_restarted_postgres_loses_nothing_acknowledged(new_home: Path) -> None:
    dsn = embedded.start(new_home)
    migrate(dsn)
    acknowledged: dict[UUID, int] = {}
    stop = threading.Event()
    with OpenDatabase(dsn) as database:
        tails = [taken(database, f"run-{n}") for n in range(4)]

        def work(index: int) -> None:
            tail, step = tails[index], 0
            while not stop.is_set():
                step += 1
                database.writer.wait(database.writer.append(tail, [event(step)]))
                acknowledged[tail.run_id] = step

        def nemesis() -> None:
            try:
                for _ in range(3):
                    goes_on(acknowledged, 4)
                    kill_server(new_home)
                    embedded.start(new_home)
                goes_on(acknowledged, 4)
            finally:
                stop.set()

        in_threads(5, lambda index: nemesis() if index == 4 else work(index))
    for tail in tails:
        found = steps(dsn, tail.run_id)
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= acknowledged[tail.run_id]
    assert_invariants(dsn)


def goes_on(acknowledged: dict[UUID, int], runs: int) -> None:
    """Wait until every run has had something more acknowledged."""
    before, deadline = dict(acknowledged), time.monotonic() + 60
    while len(acknowledged) < runs or any(acknowledged[run] == before[run] for run in before):
        assert time.monotonic() < deadline, "the writer does not go on"
        time.sleep(0.01)


# -- the projection ------------------------------------------------------------------------------


def test_a_run_that_a_person_resumed_is_not_up_for_grabs_while_it_executes(
    database: OpenDatabase, writer: Writer, claim: Claim
) -> None:
    tail = claim("run")
    writer.wait(writer.append(tail, [Event(event="run_failed")]))
    tail = claim("run")
    writer.wait(writer.append(tail, [Event(event="resumed", by="ann")]))
    run = find_run(database, "run")
    assert (run.status, run.owner) == ("running", tail.worker)
