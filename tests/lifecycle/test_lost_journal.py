"""A database that lost what it had acknowledged: noticed, recorded again, held for a person.

Here the rows are taken away by hand; `proof/test_failover.py` has two real servers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from crashing import World, die, killed, until
from invariants import assert_invariants

import agentrun
from agentrun.core import points
from agentrun.core.events import Event
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run

LOST = "lost what it had acknowledged"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


def cut(dsn: str, *, after: int) -> None:
    """The journals end at this seq, as on a server that lagged behind; 0: the runs are gone too."""
    with psycopg.connect(dsn) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")  # past the append-only trigger
        conn.execute("DELETE FROM agentrun.journal WHERE seq > %s", [after])
        if after == 0:
            conn.execute("DELETE FROM agentrun.runs")
        elif after == 1:
            conn.execute("UPDATE agentrun.runs SET status = 'queued', owner = NULL, epoch = 0")


def acting(world: World, then: dict[int, Callable[[], object]]) -> Any:
    """An agent of three effects, in whose bodies something happens, once."""

    @agentrun.tool
    def act(n: int) -> int:
        world.act(f"act {n}")
        then.pop(n, lambda: None)()
        return n

    @agentrun.agent
    def three() -> int:
        return act(1) + act(2) + act(3)

    return three.with_options(key="k")


@pytest.mark.parametrize("after", [2, 3, 4])
def test_lost_steps_are_recorded_again_and_the_run_is_held(
    db: Any, dsn: str, world: World, after: int
) -> None:
    agent = acting(world, {2: lambda: cut(dsn, after=after)})
    for _ in range(2):
        with pytest.raises(agentrun.RunHeld, match=LOST) as held:
            agent.run()
    assert ("1 (act)" in str(held.value)) == (after < 4)
    assert "2 (act)" in str(held.value)
    assert world.effects == ["act 1", "act 2"]
    (waits,) = db.query("inbox", key=None)
    assert waits["key"] == "k"
    assert LOST in waits["reason"]
    assert agentrun.resume("k") == 6
    assert world.effects == ["act 1", "act 2", "act 3"]
    assert_invariants(dsn)


def test_a_death_once_the_loss_is_recorded_loses_nothing(db: Any, dsn: str, world: World) -> None:
    """The claim, what is recorded again and the park are one commit: killed behind it."""

    def lose() -> None:
        cut(dsn, after=2)
        points.arm(lambda point: die() if point == "claim:after" else None)

    def in_child() -> None:
        with agentrun.connect(dsn):
            acting(world, {2: lose}).run()

    killed(in_child)
    agent = acting(world, {})
    with pytest.raises(agentrun.RunHeld, match=LOST):
        agent.run()
    assert world.effects == ["act 1", "act 2"]
    assert agentrun.resume("k") == 6
    assert world.effects == ["act 1", "act 2", "act 3"]


def test_no_letter_lets_a_run_go_on_that_is_held_for_a_loss(
    db: Any, dsn: str, world: World
) -> None:
    agent = acting(world, {2: lambda: cut(dsn, after=2)})
    handle = agent.submit()
    with agentrun.Worker([agent]):
        until(lambda: handle.status() == "held")
        epoch = find_run(db, "k").epoch
        agentrun.send("k", "whatever")
        until(lambda: find_run(db, "k").epoch > epoch and handle.status() == "held")
        assert world.effects == ["act 1", "act 2"]
        with pytest.raises(agentrun.RunHeld, match=LOST):
            handle.result(timeout=30)
    # As after a death between the claim and the park that should have followed it.
    assert db.claim(find_run(db, "k"), "test") is not None
    with pytest.raises(agentrun.RunHeld, match=LOST):
        agent.run()
    assert agentrun.resume("k") == 6
    assert world.effects == ["act 1", "act 2", "act 3"]


def test_a_loss_of_the_claim_alone_lets_the_run_go_on(db: Any, dsn: str, world: World) -> None:
    @agentrun.tool(effect="read")
    def look() -> int:
        world.act("look")
        if len(world.effects) == 1:
            cut(dsn, after=1)
        return 1

    @agentrun.agent
    def looking() -> int:
        return look()

    assert looking.with_options(key="k").run() == 1
    assert world.effects == ["look", "look"], "nothing about it had been acknowledged"
    assert_invariants(dsn)


def test_a_run_that_is_gone_is_refused_and_not_begun_anew(db: Any, dsn: str, world: World) -> None:
    agent = acting(world, {1: lambda: cut(dsn, after=0)})
    with pytest.raises(agentrun.StoreError, match="itself is not there"):
        agent.run()
    assert world.effects == ["act 1"]


@pytest.mark.parametrize("after", [1, 2])
def test_whoever_went_on_without_what_was_lost_is_stopped(
    db: Any, dsn: str, world: World, after: int
) -> None:
    """With ``after=1`` its claim has the very epoch that was given before."""
    with OpenDatabase(dsn) as other:

        def go_on() -> None:
            cut(dsn, after=after)
            claimed = other.claim(find_run(other, "k"), "test")
            assert claimed is not None
            claims.append(claimed[0])
            other.writer.wait(other.writer.append(claims[0], [Event(event="resumed")]))

        claims: list[Any] = []
        agent = acting(world, {1: go_on})
        with pytest.raises(agentrun.RunHeld, match="has gone on without them") as held:
            agent.run()
        assert claims[0].worker in str(held.value)
        assert world.effects == ["act 1"]
        late = other.writer.append(claims[0], [Event(event="resumed")])
        with pytest.raises(agentrun.LeaseLost):
            other.writer.wait(late)
    assert_invariants(dsn)
