"""Submitted runs and the workers that execute them: real processes, killed while they work."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashing import World, ended, spawn, until

import agentrun
from agentrun.store.runs import find_run
from agentrun.store.values import read_events

SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


class Shop:
    """A sync and an async agent, whose steps act on a world outside."""

    def __init__(self, dsn: str, world: World) -> None:
        self.dsn, self.world = dsn, world

        def find(key: str, run: int, n: int) -> Any:
            done = f"{run} {n} {key}" in world.effects
            return agentrun.Happened(n) if done else agentrun.NotHappened()

        @agentrun.tool(reconcile=find)
        def act(run: int, n: int, idempotency_key: str = "") -> int:
            world.act(f"{run} {n} {idempotency_key}")
            return n

        @agentrun.agent(name="sync_work")
        def work(run: int) -> int:
            return act(run, 1) + act(run, 2)

        @agentrun.agent(name="async_work")
        async def awork(run: int) -> int:
            await asyncio.sleep(0)
            return act(run, 1) + act(run, 2)

        self.agents = [work, awork]

    def serve(self) -> None:
        """A worker process, until SIGTERM."""
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        with agentrun.connect(self.dsn, lease=2.0), agentrun.Worker(self.agents, concurrency=8):
            stop.wait(120)


def submitted(shop: Shop, count: int) -> list[agentrun.Handle[int]]:
    return [
        shop.agents[n % 2].with_options(key=f"run-{n}").submit(n)  # type: ignore[misc]
        for n in range(count)
    ]


def all_done(sql: Callable[[], int]) -> Callable[[], bool]:
    return lambda: sql() == 0


def storm(dsn: str, shop: Shop, count: int, pause: float) -> int:
    """Submit, execute over three processes, kill one again and again; how many were killed."""
    chance = random.Random(SEED)
    print(f"seed {SEED} (AGENTRUN_SEED)")
    kills = 0
    with agentrun.connect(dsn) as db:
        submitted(shop, count)
        workers = [spawn(shop.serve) for _ in range(3)]

        def left() -> int:
            with db.connection() as conn:
                row = conn.execute("SELECT count(*) AS n FROM agentrun.runs WHERE status <> 'done'")
                return int(row.fetchone()["n"])

        deadline = time.monotonic() + 240
        while left():
            assert time.monotonic() < deadline, f"{left()} runs are not done"
            time.sleep(pause)
            victim = chance.randrange(3)
            os.kill(workers[victim], signal.SIGKILL)
            ended(workers[victim])
            kills += 1
            workers[victim] = spawn(shop.serve)
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
        # One that was born a moment ago dies of the signal before it can handle it.
        assert {ended(worker) for worker in workers} <= {0, -signal.SIGTERM}
        with db.connection() as conn:
            doubly = conn.execute(
                "SELECT run_id FROM agentrun.journal GROUP BY run_id, epoch "
                "HAVING count(DISTINCT worker) > 1"
            ).fetchall()
            results = conn.execute(
                "SELECT output::text AS o FROM agentrun.journal WHERE event = 'run_finished'"
            ).fetchall()
    assert doubly == [], "two owners of one epoch"
    assert [row["o"] for row in results] == ["3"] * count
    effects = Counter(tuple(line.split()[:2]) for line in shop.world.effects)
    assert len(effects) == 2 * count
    assert set(effects.values()) == {1}, "a `once` effect was repeated"
    return kills


def test_submitted_runs_survive_the_death_of_their_workers(dsn: str, world: World) -> None:
    assert storm(dsn, Shop(dsn, world), 150, 0.7) >= 1


@pytest.mark.long
def test_a_thousand_runs_over_three_workers_killed_again_and_again(dsn: str, world: World) -> None:
    assert storm(dsn, Shop(dsn, world), 1000, 0.4) >= 3


def test_a_run_waits_for_an_approval_with_no_process_alive(
    dsn: str, world: World, tmp_path: Path
) -> None:
    @agentrun.tool(approve=True)
    def pay(cents: int) -> str:
        world.act(f"paid {cents}")
        return "paid"

    @agentrun.agent
    def clerk(cents: int) -> str:
        return pay(cents)

    def serve_until(status: str) -> Callable[[], None]:
        def serve() -> None:
            with agentrun.connect(dsn), agentrun.Worker([clerk]):
                until(lambda: agentrun.get("k").status() == status)

        return serve

    with agentrun.connect(dsn) as db:
        clerk.with_options(key="k").submit(5)
        assert ended(spawn(serve_until("held"))) == 0
        assert world.effects == []
        with db.connection() as conn:
            conn.execute("SELECT agentrun.send('k', 'approve', 1, '{}', 'ada', 'by hand')")
        assert ended(spawn(serve_until("done"))) == 0
        assert world.effects == ["paid 5"]
        assert agentrun.get("k").result() == "paid"
        decisions = read_events(db, find_run(db, "k").run_id)[0]
    asked = [(e.status, e.by) for e in decisions if e.event == "resolved"]
    assert asked == [("approved", "postgres")]  # as the database knows whoever wrote "ada"


def test_a_poisonous_run_is_parked_while_others_go_on(dsn: str, world: World) -> None:
    @agentrun.agent
    def poison() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @agentrun.agent
    def fine(n: int) -> int:
        return n

    def serve() -> None:
        with agentrun.connect(dsn, lease=2.0), agentrun.Worker([poison, fine]):
            time.sleep(60)

    with agentrun.connect(dsn):
        poison.with_options(key="bad").submit()
        handles = [fine.submit(n) for n in range(5)]
        worker = spawn(serve)
        while agentrun.get("bad").status() != "held":
            if os.waitpid(worker, os.WNOHANG)[0]:
                worker = spawn(serve)
            time.sleep(0.02)
        assert [handle.result(timeout=60) for handle in handles] == list(range(5))
        os.kill(worker, signal.SIGKILL)
        ended(worker)
        with pytest.raises(agentrun.RunHeld, match="claims in a row"):
            agentrun.get("bad").result()
