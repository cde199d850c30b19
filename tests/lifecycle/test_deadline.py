"""A run's deadline: however it spends its time, it fails when that is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from crashing import World, die, die_recorded, killed, until

import agentrun
from agentrun.core import points
from agentrun.lifecycle.sigterm import executing


def fails_late(run: Any) -> None:
    with pytest.raises(agentrun.RunFailed, match="its deadline passed at") as failed:
        run()
    assert isinstance(failed.value.__cause__, agentrun.LimitExceeded)


@agentrun.agent
async def stuck() -> None:
    await asyncio.sleep(3600)


@agentrun.agent
def asleep() -> None:
    agentrun.sleep(3600)


@agentrun.agent
def listening() -> None:
    agentrun.receive("never")


@agentrun.agent
def stubborn() -> None:
    while True:
        try:
            agentrun.sleep(0.01)
        except Exception:
            continue


@pytest.mark.parametrize("agent", [stuck, asleep, listening, stubborn], ids=lambda a: a.name)
def test_a_run_fails_at_its_deadline(db: Any, agent: Any) -> None:
    late = agent.with_options(key="k", deadline=0.3)
    fails_late(late.run)
    assert agentrun.get("k").status() == "failed"
    fails_late(late.run)  # recorded: at once, and for good


@pytest.mark.parametrize("agent", [stuck, asleep, listening], ids=lambda a: a.name)
def test_also_in_a_worker_where_a_waiting_run_is_parked(db: Any, agent: Any) -> None:
    with agentrun.Worker([agent]):
        handle = agent.with_options(deadline=0.5).submit()
        fails_late(lambda: handle.result(timeout=60))


def test_a_run_that_waits_for_a_person_does_not_wait_for_ever(db: Any) -> None:
    @agentrun.tool(approve=True)
    def pay() -> None: ...

    @agentrun.agent
    def clerk() -> None:
        pay()

    with agentrun.Worker([clerk]):
        handle = clerk.with_options(deadline=0.5).submit()
        while handle.status() != "failed":
            time.sleep(0.05)
        fails_late(handle.result)


def test_it_counts_from_the_submission_whoever_executes_the_run(
    db: Any, dsn: str, tmp_path: Path
) -> None:
    world = World(tmp_path / "effects")

    @agentrun.tool(effect="idempotent")
    def act() -> None:
        world.act("acted")
        if len(world.effects) == 1:
            die_recorded()

    @agentrun.agent
    def work() -> None:
        act()
        act()

    late = work.with_options(key="k", deadline=0.5)

    def action() -> None:
        agentrun.connect(dsn)
        late.run()

    killed(action)
    time.sleep(0.5)
    fails_late(work.with_options(key="k").run)
    assert world.effects == ["acted"]
    agentrun.resume("k")  # gives it as long again
    assert world.effects == ["acted"] * 3


@agentrun.agent
async def has_stuck_child() -> None:
    await stuck()


def test_its_children_end_with_it(db: Any) -> None:
    fails_late(has_stuck_child.with_options(key="k", deadline=0.3).run)
    assert agentrun.get("k/1").status() == "cancelled"


def test_a_child_ends_that_is_created_while_its_parent_ends(db: Any, dsn: str) -> None:
    with psycopg.connect(dsn) as other:
        other.execute(  # until the rollback, this key keeps the child from being created
            "INSERT INTO agentrun.runs (run_id, key, agent, status) "
            "VALUES (gen_random_uuid(), 'k/1', 'stuck', 'queued')"
        )
        fails_late(has_stuck_child.with_options(key="k", deadline=0.3).run)
        other.rollback()
    until(lambda: has_status("k/1", "cancelled"))


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_child_ends_whose_creator_was_killed_while_its_parent_ended(
    db: Any, dsn: str, end: str
) -> None:
    @agentrun.agent
    async def child() -> None: ...

    @agentrun.agent
    async def above() -> None:
        await child()

    def end_parent_and_die(at: str) -> None:
        if at == "create:before" and has_status("k", "running"):
            if end == "cancelled":
                agentrun.cancel("k")
            else:
                (run,) = executing
                run.expires_at = run.heart.now()
            until(lambda: has_status("k", end))
        elif at == "create:after" and has_status("k/1", "queued"):
            die()

    def create_child() -> None:
        agentrun.connect(dsn)
        points.arm(end_parent_and_die)
        with contextlib.suppress(agentrun.RunError):
            above.with_options(key="k", deadline=3600).run()
        time.sleep(60)  # the thread that creates the child ends this process

    killed(create_child)
    assert has_status("k/1", "queued")
    with agentrun.Worker([above, child]):
        until(lambda: has_status("k/1", "cancelled") or has_status("k/1", "done"))
    assert has_status("k/1", "cancelled")


def test_a_child_ends_that_is_claimed_while_its_parent_ends(db: Any, dsn: str) -> None:
    interrupted = False

    @agentrun.agent
    async def child() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt
        await asyncio.sleep(3600)

    @agentrun.agent
    async def above() -> None:
        await child()

    late = above.with_options(key="k", deadline=2)
    with pytest.raises(KeyboardInterrupt):
        late.run()
    assert has_status("k/1", "queued")
    with psycopg.connect(dsn) as other, ThreadPoolExecutor() as threads:
        other.execute("SELECT FROM agentrun.runs WHERE key = 'k/1' FOR UPDATE")
        run = threads.submit(fails_late, late.run)
        until(lambda: has_status("k", "running"))
        time.sleep(2.5)  # the child's claim waits, the parent's deadline passes
        other.rollback()
        run.result()
    assert has_status("k/1", "cancelled")


def has_status(key: str, status: str) -> bool:
    with contextlib.suppress(agentrun.RunNotFound):
        return agentrun.get(key).status() == status
    return False


@pytest.mark.parametrize("deadline", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_a_time(deadline: float) -> None:
    with pytest.raises(agentrun.ConfigError, match="finite number of seconds above 0"):
        asleep.with_options(deadline=deadline)
