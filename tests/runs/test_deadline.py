"""A run's deadline: however it spends its time, it fails when that is over."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die_recorded, killed

import agentrun


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


def test_its_children_end_with_it(db: Any) -> None:
    @agentrun.agent
    async def parent() -> None:
        await stuck()

    fails_late(parent.with_options(key="k", deadline=0.3).run)
    assert agentrun.get("k/1").status() == "cancelled"


@pytest.mark.parametrize("deadline", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_a_time(deadline: float) -> None:
    with pytest.raises(agentrun.ConfigError, match="finite number of seconds above 0"):
        asleep.with_options(deadline=deadline)
