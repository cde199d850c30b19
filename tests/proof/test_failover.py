"""The primary is killed and its standby takes over: two real servers, streaming replication.

Synchronous replication loses nothing, and runs go on. Asynchronous replication is made to lose
what was acknowledged: the run that lives on notices, is held for a person, and repeats nothing,
neither when it is run again nor when it is resumed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from crashing import World
from invariants import assert_invariants
from load import LEASE, load
from servers import Pair, kill

import agentrun

if TYPE_CHECKING:
    from matrix import Proof

pytestmark = pytest.mark.long

FAILOVERS = 10
STEPS = 5


@pytest.fixture
def pair(new_home: Path) -> Iterator[Pair]:
    both = Pair(new_home)
    yield both
    both.stop()


# -- synchronous: nothing is lost --------------------------------------------------------------


def test_failovers_to_a_synchronous_standby_lose_nothing_and_runs_go_on(
    pair: Pair, tmp_path: Path, proof: Proof
) -> None:
    def fault() -> None:
        kill(pair.primary)
        if case.random.random() < 0.2:
            time.sleep(LEASE + 1)  # nobody can beat meanwhile
        pair.promote()
        pair.follow()

    pair.require()
    failovers = [f"failover {number:02}" for number in range(1, FAILOVERS + 1)]
    with load(pair.dsn, tmp_path) as under:
        for case in proof.cases("failover, synchronous", failovers, share=1):
            with case:
                case.count(failovers=1, acknowledged_lost=0, **under.through(fault))


# -- asynchronous: acknowledged events are lost ----------------------------------------------------


class Nemesis:
    """In the body of one step replication ends; in that of a later one the primary dies."""

    def __init__(self, pair: Pair, part_at: int, fail_at: int) -> None:
        self._at = {part_at: self._part, fail_at: pair.fail_over}
        self._pair = pair

    def strike(self, step: int) -> None:
        self._at.pop(step, lambda: None)()

    def _part(self) -> None:
        self._pair.catch_up()
        self._pair.part()


class Loop:
    """Five steps of all classes with an intent, which the nemesis accompanies."""

    def __init__(self, world: World, nemesis: Nemesis) -> None:
        @agentrun.tool
        def act(n: int) -> int:
            world.act(f"act {n}")
            nemesis.strike(n)
            return n

        @agentrun.tool(effect="idempotent")
        def note(n: int) -> str:
            world.act(f"note {n}")
            nemesis.strike(n)
            return "x" * 70_000  # lies in `payloads`

        @agentrun.tool(effect="transaction")
        def count(key: str, n: int) -> int:
            agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (key,))
            nemesis.strike(n)
            return n

        @agentrun.agent
        def steps(key: str) -> int:
            return act(1) + len(note(2)) + count(key, 3) + act(4) + act(5)

        @agentrun.agent
        async def asteps(key: str) -> int:
            return act(1) + len(note(2)) + count(key, 3) + act(4) + act(5)

        self.agent, self.asynchronous = steps, asteps


EFFECTS = ["act 1", "note 2", "act 4", "act 5"]
RESULT = 70_000 + 1 + 3 + 4 + 5


def here(loop: Loop, key: str) -> int:
    return loop.agent.with_options(key=key).run(key)


def awaited(loop: Loop, key: str) -> int:
    return loop.asynchronous.with_options(key=key).run(key)


def submitted(loop: Loop, key: str) -> int:
    with agentrun.Worker([loop.agent]):
        return loop.agent.with_options(key=key).submit(key).result()


WAYS = [here, awaited, submitted]


def test_a_loss_of_what_was_acknowledged_is_noticed_and_nothing_is_repeated(
    pair: Pair, tmp_path: Path, proof: Proof
) -> None:
    with psycopg.connect(pair.dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE counted (key text)")
    steps = range(1, STEPS + 1)
    names = [
        f"lost from step {part}, killed at {at}" for part in steps for at in steps if part < at
    ]
    for number, case in enumerate(proof.cases("failover, asynchronous", names, share=2)):
        with case:
            part_at, fail_at = int(case.name[15]), int(case.name[-1])
            world = World(tmp_path / case.name)
            loop = Loop(world, Nemesis(pair, part_at, fail_at))
            run = WAYS[number % len(WAYS)]
            with agentrun.connect(pair.dsn):
                with pytest.raises(agentrun.RunHeld, match="lost what it had acknowledged") as held:
                    run(loop, case.name)
                assert all(f"{step} (" in str(held.value) for step in range(part_at, fail_at))
                done = world.effects
                with pytest.raises(agentrun.RunHeld):
                    run(loop, case.name)
                assert world.effects == done, "repeated silently"
                assert agentrun.resume(case.name, by="ada") == RESULT
            assert world.effects == EFFECTS
            with psycopg.connect(pair.dsn) as conn:
                rows = conn.execute("SELECT FROM counted WHERE key = %s", [case.name])
                assert rows.rowcount == 1, "a transaction and its checkpoint are lost together"
            assert_invariants(pair.dsn)
            case.count(losses=1, noticed=1, repeated=0)
            pair.follow()
