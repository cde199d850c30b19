"""A parent hears of its child's end, and children end with their parent, whoever is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die, ended, killed, spawn, until

import agentrun
from agentrun.core import points

LETTERS = ("send_mail:before", "send_mail:after")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


class Family:
    """A parent whose child waits for a person; both are parked when this is made."""

    def __init__(self, dsn: str, world: World, *, deadline: float | None = None) -> None:
        self.dsn = dsn

        @agentrun.tool(approve=True)
        def pay() -> str:
            world.act("paid")
            return "paid"

        @agentrun.agent
        def below() -> str:
            return pay()

        @agentrun.agent
        def above() -> str:
            try:
                return f"above: {below()}"
            except agentrun.RunError as error:
                return f"no child: {error}"

        self.agents = [above, below]
        above.with_options(key="k", deadline=deadline).submit()
        with agentrun.Worker(self.agents):
            until(lambda: self.status("k") == "waiting" and bool(agentrun.inbox("k/1")))

    @staticmethod
    def status(key: str) -> str:
        return agentrun.get(key).status()

    def worked(self, until_: Callable[[], bool]) -> None:
        with agentrun.Worker(self.agents):
            until(until_)

    def work_until_killed_at(self, point: str) -> None:
        def work() -> None:
            points.arm(lambda at: die() if at == point else None)
            with agentrun.connect(self.dsn, lease=2.0), agentrun.Worker(self.agents):
                time.sleep(60)

        killed(work)


@pytest.mark.parametrize("at", LETTERS)
def test_a_parent_hears_of_its_childs_end(db: Any, dsn: str, world: World, at: str) -> None:
    family = Family(dsn, world)
    agentrun.approve("k/1", 1)
    family.work_until_killed_at(at)
    with agentrun.Worker(family.agents):
        assert agentrun.get("k").result(timeout=30) == "above: paid"
    assert world.effects == ["paid"]


@pytest.mark.parametrize("at", [*LETTERS, "claim:before", "claim:after"])
def test_children_are_cancelled_with_their_parent(db: Any, dsn: str, world: World, at: str) -> None:
    family = Family(dsn, world)

    def cancel() -> None:
        agentrun.connect(dsn)
        points.arm(lambda point: die() if point == at else None)
        agentrun.cancel("k", by="ada")

    killed(cancel)
    if at == "send_mail:before":
        agentrun.cancel("k", by="ada")  # nobody knows of the first one
    family.worked(lambda: family.status("k") == family.status("k/1") == "cancelled")


def test_a_child_is_cancelled_that_outlives_the_owner_of_both(
    db: Any, dsn: str, world: World
) -> None:
    @agentrun.tool(effect="idempotent")
    def slow(n: int) -> None:
        world.act(str(n))
        time.sleep(1.0)

    @agentrun.agent
    def below() -> None:
        for n in range(30):
            slow(n)

    @agentrun.agent
    def above() -> None:
        below()

    def work() -> None:
        with agentrun.connect(dsn, lease=2.0), agentrun.Worker([above, below]):
            time.sleep(60)

    above.with_options(key="k").submit()
    worker = spawn(work)
    until(lambda: bool(world.effects))
    os.kill(worker, signal.SIGSTOP)  # so that it cannot obey
    agentrun.cancel("k", by="ada")
    os.kill(worker, signal.SIGKILL)
    ended(worker)
    with agentrun.Worker([above, below]):
        until(lambda: agentrun.get("k").status() == "cancelled")
        until(lambda: agentrun.get("k/1").status() == "cancelled")


def test_a_child_does_not_outlive_its_parents_deadline(db: Any, dsn: str, world: World) -> None:
    family = Family(dsn, world, deadline=3.0)
    family.worked(lambda: family.status("k") == "failed")
    assert family.status("k/1") == "cancelled"
    assert agentrun.inbox() == []


def test_a_parent_hears_that_its_child_was_cancelled(db: Any, dsn: str, world: World) -> None:
    family = Family(dsn, world)
    agentrun.cancel("k/1", by="ada", reason="not now")
    family.worked(lambda: family.status("k") == "done")
    assert agentrun.get("k").result() == "no child: run 'k/1' was cancelled: by ada: not now"
