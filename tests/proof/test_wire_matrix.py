"""Every frame between a run and its database is cut, stalled or delayed once.

A proxy of our own stands on the wire, parses the protocol both ways, and strikes the n-th frame
that the client, or the server, sends over all connections of a whole run: create, claim, appends,
heartbeat, the connection of a `transaction` tool, reads, end. Each time the run comes to its
expected result before any deadline could have passed twice, its effects took place once, and the
invariants hold.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from crashing import World
from invariants import assert_invariants
from proxy import Fault, FaultProxy, Side

import agentrun
from agentrun.store.database import OpenDatabase

if TYPE_CHECKING:
    from matrix import Proof

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("impatient")]

LATE = 0.2  # seconds by which a frame is delayed
HANG = 60.0  # seconds; many times what all deadlines of a run add up to
TEXT = "x" * 70_000  # too large for its row: it lies in `payloads`


@dataclass(frozen=True)
class Shape:
    """A way to execute a run, what it does, and how many frames each side sends at most."""

    execute: Callable[[str, str], int]  # DSN, key
    effects: list[str]
    frames: dict[Side, int]


def connected(dsn: str) -> OpenDatabase:
    """The first connection is given up with a clear error; asking again is all it takes."""
    try:
        return agentrun.connect(dsn)
    except agentrun.StoreUnavailable:
        return agentrun.connect(dsn)


def here(world: World) -> Shape:
    """A sync run in the calling thread, then once more, to be answered from the journal."""

    @agentrun.tool
    def act(key: str, n: int) -> str:
        world.act(f"{key} act {n}")
        return TEXT

    @agentrun.tool(effect="transaction")
    def count(key: str) -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (key,))
        return 40

    @agentrun.agent
    def talk(key: str) -> int:
        return len({act(key, 1), act(key, 2)}) + count(key) + 1

    def execute(dsn: str, key: str) -> int:
        with connected(dsn):
            first = talk.with_options(key=key).run(key)
            assert talk.with_options(key=key).run(key) == first
            return first

    return Shape(execute, ["act 1", "act 2"], {"client": 170, "server": 370})


def submitted(world: World) -> Shape:
    """An async run that a worker takes, and that waits for a signal."""

    @agentrun.tool
    async def aact(key: str) -> int:
        world.act(f"{key} act 1")
        return 1

    @agentrun.tool(effect="transaction")
    async def acount(key: str) -> int:
        conn = agentrun.current_step().connection
        await conn.execute("INSERT INTO counted VALUES (%s)", (key,))
        return 40

    @agentrun.agent
    async def atalk(key: str) -> int:
        acted, counted = await asyncio.gather(aact(key), acount(key))
        return acted + counted + await agentrun.areceive("go")

    def execute(dsn: str, key: str) -> int:
        with connected(dsn), agentrun.Worker([atalk]):
            handle = atalk.with_options(key=key).submit(key)
            agentrun.send(key, "go", 1)
            return handle.result()

    return Shape(execute, ["act 1"], {"client": 250, "server": 520})


SHAPES = {"run here": here, "run by a worker": submitted}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_frame_may_be_struck(dsn: str, tmp_path: Path, proof: Proof, shape: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE TABLE counted (key text)")
    world = World(tmp_path / "effects")
    made = SHAPES[shape](world)
    counted = frames_of(made, dsn)
    print(shape, dict(counted))
    assert all(counted[side] <= bound for side, bound in made.frames.items()), "frames are missed"
    names = [
        f"{side} {nth:03} {fault.name}"
        for side, bound in made.frames.items()
        for nth in range(1, bound + 1)
        for fault in Fault
    ]
    for case in proof.cases(f"wire, {shape}", names, share=60):
        with case:
            side, nth, fault = case.name.split()
            with FaultProxy(dsn, tcp=True, late=LATE) as proxy:
                proxy.arm(Fault[fault], b"", nth=int(nth), sender=side)
                assert in_time(partial(made.execute, proxy.dsn, case.name)) == 42
                case.count(struck=proxy.struck.is_set())
            assert [e for e in world.effects if case.name in e] == [
                f"{case.name} {effect}" for effect in made.effects
            ]
            with psycopg.connect(dsn) as admin:
                rows = admin.execute("SELECT FROM counted WHERE key = %s", [case.name])
                assert rows.rowcount == 1
            assert_invariants(dsn)


def frames_of(shape: Shape, dsn: str) -> Counter[Side]:
    """How many frames a run takes that nothing happens to."""
    with FaultProxy(dsn, tcp=True) as proxy:
        assert shape.execute(proxy.dsn, "unharmed") == 42
        return proxy.passed


def in_time(action: Callable[[], int]) -> int:
    """Do it in a thread of its own; should it hang, say where."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(action)
        try:
            return done.result(HANG)
        except TimeoutError:
            faulthandler.dump_traceback(file=sys.__stderr__)
            raise
