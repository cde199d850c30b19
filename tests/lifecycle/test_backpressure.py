"""A database that does not keep up: producers wait for it, and nothing is dropped or piled up."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

import agentrun
from agentrun.store import backpressure

FULL = 40  # events


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "FULL_ROWS", FULL)


@contextmanager
def stalled(dsn: str) -> Iterator[None]:
    """No event is committed meanwhile."""
    with psycopg.connect(dsn) as conn:
        conn.execute("LOCK TABLE agentrun.journal IN SHARE MODE")
        yield


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


def has_come_to_rest(done: list[int]) -> int:
    """How many steps there are once no more come."""
    seen = -1
    while len(done) != seen:
        seen = len(done)
        time.sleep(0.3)
    return seen


def committed(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        found = "SELECT count(*) FROM agentrun.journal WHERE event = 'step_finished'"
        return int((conn.execute(found).fetchone() or (0,))[0])


@pytest.mark.parametrize("large", [False, True])
def test_who_waits_for_nothing_waits_for_a_full_queue(
    db: Any, dsn: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes of `read` tools are the events that nobody waits for."""
    done: list[int] = []
    if large:
        monkeypatch.setattr(backpressure, "FULL_ROWS", 1_000_000)
        monkeypatch.setattr(backpressure, "FULL_BYTES", FULL * 10_000)

    @agentrun.tool(effect="read")
    def look(n: int) -> str:
        done.append(n)
        return "x" * 10_000

    @agentrun.agent
    def reads(steps: int) -> int:
        gate.wait(30)
        return sum(len(look(n)) for n in range(steps))

    gate = threading.Event()
    handle = reads.with_options(key="k")
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(handle.run(400)))
    thread.start()
    until(lambda: len(db.active) == 1)
    with stalled(dsn):
        gate.set()
        until(lambda: len(done) > FULL // 2)
        # What was sent before the queue filled is under way; then one more, which waits.
        assert has_come_to_rest(done) <= 2 * FULL
        pending, slowest = db.load.measure()
        assert pending >= FULL
        assert slowest > 0
    thread.join(60)
    assert results == [400 * 10_000]
    assert done == list(range(400))
    assert committed(dsn) == 400
    assert db.load.measure()[0] == 0


def test_tasks_wait_and_their_event_loop_does_not(db: Any, dsn: str) -> None:
    done: list[int] = []
    ticks: list[float] = []

    @agentrun.tool(effect="read")
    async def look(n: int) -> int:
        done.append(n)
        return n

    @agentrun.agent
    async def reads(steps: int) -> int:
        await asyncio.to_thread(gate.wait, 30)
        return sum([await look(n) for n in range(steps)])

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def main() -> list[int]:
        ticking = asyncio.create_task(tick())
        runs = asyncio.gather(*(reads.arun(100) for _ in range(10)))
        try:
            return await runs
        finally:
            ticking.cancel()

    gate = threading.Event()
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.extend(asyncio.run(main())))
    thread.start()
    until(lambda: len(db.active) == 10)
    with stalled(dsn):
        gate.set()
        until(lambda: db.load.measure()[0] >= FULL)
        assert has_come_to_rest(done) <= 2 * FULL + 10
        before = len(ticks)
        until(lambda: len(ticks) > before + 5)
    thread.join(60)
    assert results == [sum(range(100))] * 10
    assert committed(dsn) == 1000


def test_ctrl_c_while_the_queue_is_full_drops_nothing(db: Any, dsn: str) -> None:
    done: list[int] = []
    begun = threading.Event()

    @agentrun.tool(effect="read")
    def look(n: int) -> int:
        done.append(n)
        return n

    @agentrun.agent
    def reads(steps: int) -> int:
        begun.set()
        return sum(look(n) for n in range(steps))

    def interrupt() -> None:
        assert begun.wait(30)
        with stalled(dsn):
            until(lambda: db.load.measure()[0] >= FULL)
            has_come_to_rest(done)
            os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    handle = reads.with_options(key="k")
    with pytest.raises(KeyboardInterrupt):
        handle.run(3000)
    interrupting.join(60)
    assert len(done) < 3000
    assert handle.run(3000) == sum(range(3000))
    assert done == list(range(3000)), "what was queued is recorded, and not performed again"
