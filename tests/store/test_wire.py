"""A lost answer is settled, not guessed: the wire is cut or goes silent around the commit."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from invariants import assert_invariants
from proxy import Fault, FaultProxy, Side

from agentrun.core.events import Event
from agentrun.core.sharing import Shared
from agentrun.store.connection import DeadlineConnection, connect
from agentrun.store.database import OpenDatabase
from agentrun.store.journal import JournalTail, Writer
from agentrun.store.rows import Row, to_row
from agentrun.store.runs import find_run
from agentrun.store.sending import Batch, Sender, append

# What happens, and whether to the answer instead.
CUTS = [(Fault.CUT_BEFORE, False), (Fault.CUT_BEFORE, True)]
HOLES = [(Fault.STALL, False), (Fault.STALL, True)]

# A dead socket is noticed after this many seconds.
impatient = partial(connect, deadline=0.5)


@pytest.fixture
def proxy(dsn: str) -> Iterator[FaultProxy]:
    with FaultProxy(dsn) as running:
        yield running


@pytest.fixture
def claim(dsn: str) -> Iterator[Callable[[str], JournalTail]]:
    """Make a run if there is none of this key, and take it over, whoever has it."""
    with OpenDatabase(dsn) as database:

        def take(key: str) -> JournalTail:
            database.create(key, "agent", {}, "")
            claimed = database.claim(find_run(database, key), "test")
            assert claimed is not None
            return claimed[0]

        yield take


def rows(tail: JournalTail, count: int) -> list[Row]:
    """The next events of a run."""
    first = tail.seq + 1
    tail.seq += count
    return [
        to_row(Event(event="attempt_started", step=n), tail.run_id, n, tail.epoch, tail.worker,
               Shared())
        for n in range(first, first + count)
    ]  # fmt: skip


def stored(dsn: str, run_id: UUID) -> list[int]:
    """The seqs of a run, whatever stands there."""
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            "SELECT seq FROM agentrun.journal WHERE run_id = %s ORDER BY seq", [run_id]
        )
        return [seq for (seq,) in found]


@pytest.mark.parametrize(("fault", "answer"), [*CUTS, *HOLES])
def test_a_batch_whose_answer_is_lost_is_accepted_and_there_once(
    dsn: str, proxy: FaultProxy, claim: Callable[[str], JournalTail], fault: Fault, answer: bool
) -> None:
    one, other = claim("one"), claim("other")
    batch = Batch(rows(one, 3) + rows(other, 1))
    proxy.arm(fault, answer=answer)
    sender = Sender(proxy.dsn, connection=impatient)

    accepted = sender.send(batch)

    sender.close()
    assert proxy.struck.is_set()
    assert accepted == {one.run_id, other.run_id}
    assert stored(dsn, one.run_id) == [1, 2, 3, 4, 5]
    assert stored(dsn, other.run_id) == [1, 2, 3]
    assert_invariants(dsn)


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_INSIDE, Fault.CUT_AFTER])
@pytest.mark.parametrize("by", ["client", "server"])
def test_every_frame_of_a_send_may_be_the_one_that_is_cut(
    dsn: str, proxy: FaultProxy, claim: Callable[[str], JournalTail], fault: Fault, by: Side
) -> None:
    tail = claim("run")
    for nth in range(1, 100):
        sender = Sender(proxy.dsn)
        proxy.arm(fault, b"", nth=nth, sender=by)
        batch = Batch(rows(tail, 2))
        with connect(dsn) as conn:
            append(conn, batch)  # it is in, and the sender does not know: it has to settle, too
        accepted = sender.send(batch)
        sender.close()
        assert accepted == {tail.run_id}
        if not proxy.struck.is_set():
            break
    else:
        raise AssertionError("no end of frames")
    assert nth > 10
    assert stored(dsn, tail.run_id) == list(range(1, tail.seq + 1))
    assert_invariants(dsn)


def test_a_call_on_a_dead_socket_ends_at_its_deadline(
    proxy: FaultProxy, claim: Callable[[str], JournalTail]
) -> None:
    tail = claim("run")
    batch = Batch(rows(tail, 1))
    conn = connect(proxy.dsn, deadline=0.5)
    proxy.arm(Fault.STALL, answer=True)
    ended = threading.Event()
    errors: list[Exception] = []

    def call() -> None:
        try:
            append(conn, batch)
        except Exception as error:
            errors.append(error)
        ended.set()

    threading.Thread(target=call, daemon=True).start()

    assert ended.wait(30), "the call hangs"
    assert isinstance(errors[0], psycopg.OperationalError)
    assert "no answer from the database within 0.5 s" in str(errors[0])
    assert conn.closed, "nothing on this connection can be trusted again"
    sender = Sender(proxy.dsn)
    assert sender.stored_runs(batch) == {tail.run_id}
    sender.close()


def test_a_batch_that_was_overtaken_while_unknown_is_lost_whole(
    dsn: str, proxy: FaultProxy, claim: Callable[[str], JournalTail]
) -> None:
    stale = claim("run")
    batch = Batch(rows(stale, 3))
    connected = 0

    def overtaken(target: str) -> DeadlineConnection:
        nonlocal connected
        connected += 1
        if connected == 2:
            claim("run")
        return connect(target)

    proxy.arm(Fault.CUT_BEFORE)
    sender = Sender(proxy.dsn, connection=overtaken)

    accepted = sender.send(batch)

    sender.close()
    assert (accepted, connected) == (set(), 2)
    assert stored(dsn, stale.run_id) == [1, 2, 3]
    assert_invariants(dsn)


def test_a_run_taken_over_after_the_lost_commit_is_not_lost_in_hindsight(
    dsn: str, proxy: FaultProxy, claim: Callable[[str], JournalTail]
) -> None:
    """The rows are in, and somebody has claimed after them: the batch was accepted all the same."""
    tail = claim("run")
    batch = Batch(rows(tail, 2))
    connected = 0

    def overtaken(target: str) -> DeadlineConnection:
        nonlocal connected
        connected += 1
        if connected == 2:
            claim("run")
        return connect(target)

    proxy.arm(Fault.CUT_BEFORE, answer=True)
    sender = Sender(proxy.dsn, connection=overtaken)

    assert sender.send(batch) == {tail.run_id}

    sender.close()
    assert stored(dsn, tail.run_id) == [1, 2, 3, 4, 5]
    assert_invariants(dsn)


# -- Ctrl-C in the thread that happens to flush ------------------------------------------------


def interrupted(dsn: str, tail: JournalTail, fault: Fault, answer: bool, results: Any) -> None:
    """A process whose main thread is interrupted by a real signal while it flushes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with FaultProxy(dsn, late=0.5) as proxy:
        writer = Writer(proxy.dsn)
        writer._sender = Sender(proxy.dsn, connection=impatient)
        proxy.arm(fault, answer=answer)

        def interrupt() -> None:
            proxy.struck.wait()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        # With the flush lock in hand before the writer's thread can have it.
        with writer._flushing:
            done = writer.append(tail, [Event(event="attempt_started", step=1)])
            try:
                writer._flush()
                outcome = "not interrupted"
            except KeyboardInterrupt:
                outcome = "interrupted"
        try:
            asyncio.run(asyncio.wait_for(done.wait(), 60))
            after = writer.append(tail, [Event(event="attempt_started", step=2)])
            writer.wait(after)
            results.put((outcome, "durable"))
        except BaseException as error:
            results.put((outcome, repr(error)))
        writer.close()


@pytest.mark.parametrize(("fault", "answer"), [(Fault.DELAY, True), *HOLES])
def test_an_interrupted_waiter_leaves_its_batch_to_the_next_who_finds_what_became_of_it(
    dsn: str, claim: Callable[[str], JournalTail], fault: Fault, answer: bool
) -> None:
    tail = claim("run")
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=interrupted, args=(dsn, tail, fault, answer, results))
    process.start()

    assert results.get(timeout=120) == ("interrupted", "durable")

    process.join(60)
    assert process.exitcode == 0
    assert stored(dsn, tail.run_id) == [1, 2, 3, 4]
    assert_invariants(dsn)


def test_the_proxy_is_transparent_until_it_is_armed(
    dsn: str, proxy: FaultProxy, claim: Callable[[str], JournalTail]
) -> None:
    tail = claim("run")
    sender = Sender(proxy.dsn)
    assert sender.send(Batch(rows(tail, 100))) == {tail.run_id}
    sender.close()
    assert not proxy.struck.is_set()
    assert len(stored(dsn, tail.run_id)) == 102
