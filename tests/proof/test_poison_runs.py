"""Runs that kill, freeze or starve whoever executes them: parked after some claims, or failed.

Two workers, each a process of its own, are replaced when they die and killed when they hang, as a
supervisor does. Every poison ends where a person finds it, and meanwhile other runs come through.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest
from crashing import World, die, spawn
from invariants import assert_invariants

import agentrun
from agentrun.core.events import Event, Usage
from agentrun.steps.execution_point import current_context
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run
from agentrun.store.values import read_events

if TYPE_CHECKING:
    from matrix import Proof

pytestmark = pytest.mark.long

LEASE = 2.0  # seconds
FINE = 6  # other runs
PATIENCE = 180.0  # seconds in which a poison must have been parked
ROOM = 600 << 20  # bytes of memory that a worker may have more than at its start

_hoard: list[bytearray] = []


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(PATIENCE)  # this thread may be stopped a moment later than the one that was struck


def starve() -> None:
    """Take all the memory there is, and then meet with what the kernel does to who did."""
    with contextlib.suppress(MemoryError):
        while True:
            _hoard.append(bytearray(1 << 20))
    die()


def unstorable() -> None:
    run: Any = current_context()
    too_much = Usage(input_tokens=1 << 40)
    run.append(Event(event="step_finished", step=1, kind="model", usage=too_much))


def give_up() -> None:
    raise asyncio.CancelledError


POISONS: dict[str, tuple[Callable[[], object], str]] = {
    "is killed": (die, "held"),
    "aborts": (os.abort, "held"),
    "reads where nothing is": (lambda: ctypes.string_at(0), "held"),
    "freezes": (freeze, "held"),
    "holds the interpreter": (lambda: re.match(r"(a+)+$", "a" * 60 + "b"), "held"),
    "cannot be stored": (unstorable, "held"),
    "takes all memory": (starve, "held"),
    "wants more memory than there is": (lambda: bytearray(1 << 40), "failed"),
    "imports what is not there": (lambda: __import__("not_there"), "failed"),
    "exits": (sys.exit, "failed"),
    "cancels itself": (give_up, "failed"),
}


class Poisoned:
    """An agent that does one step and then its worst, and one that is fine."""

    def __init__(self, dsn: str, world: World, worst: Callable[[], object]) -> None:
        self.dsn = dsn

        def find(key: str, what: str) -> Any:
            return agentrun.Happened() if what in world.effects else agentrun.NotHappened()

        @agentrun.tool(reconcile=find)
        def act(what: str) -> None:
            world.act(what)

        @agentrun.agent
        def poison() -> None:
            act("poison")
            worst()

        @agentrun.agent
        async def apoison() -> None:
            act("poison")
            worst()

        @agentrun.agent
        def fine(n: int) -> int:
            for step in range(3):
                act(f"fine {n} {step}")
                agentrun.sleep(0.05)
            return n

        self.poison, self.apoison, self.fine = poison, apoison, fine

    def serve(self) -> None:
        faulthandler.disable()  # how it dies is no news
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        agents = [self.poison, self.apoison, self.fine]
        with agentrun.connect(self.dsn, lease=LEASE), agentrun.Worker(agents, concurrency=4):
            time.sleep(PATIENCE)


@contextlib.contextmanager
def supervised(dsn: str, serve: Callable[[], None], count: int) -> Iterator[Callable[[], int]]:
    """Worker processes; the function replaces those that died, kills those taken for dead."""
    workers = [spawn(serve) for _ in range(count)]

    def look() -> int:
        with psycopg.connect(dsn) as conn:
            dead = "SELECT pid FROM agentrun.workers WHERE cause <> 'stopped'"
            taken_for_dead = {pid for (pid,) in conn.execute(dead)}
        replaced = 0
        for index, pid in enumerate(workers):
            if pid in taken_for_dead:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            elif not os.waitpid(pid, os.WNOHANG)[0]:
                continue
            workers[index] = spawn(serve)
            replaced += 1
        return replaced

    try:
        yield look
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_poison_is_parked_or_failed_while_others_go_on(
    dsn: str, tmp_path: Path, proof: Proof
) -> None:
    names = [f"{what}, {kind}" for what in POISONS for kind in ("sync", "async")]
    for case in proof.cases("poison", names, share=1):
        with case, agentrun.connect(dsn, lease=LEASE) as db:
            what, kind = case.name.split(", ")
            worst, expected = POISONS[what]
            world = World(tmp_path / case.name)
            agents = Poisoned(dsn, world, worst)
            poison = agents.poison if kind == "sync" else agents.apoison
            bad = poison.with_options(key=case.name).submit()
            fine = [agents.fine.submit(n) for n in range(FINE)]
            deadline = time.monotonic() + PATIENCE
            replaced = 0
            with supervised(dsn, agents.serve, 2) as look:
                while bad.status() != expected or any(run.status() != "done" for run in fine):
                    assert time.monotonic() < deadline, states(db, bad, fine)
                    replaced += look()
                    time.sleep(0.1)
            assert expected == "failed" or "claims in a row" in (reasons(db, bad)[-1] or "")
            assert [run.result() for run in fine] == list(range(FINE))
            assert sorted(world.effects) == sorted(
                ["poison", *(f"fine {n} {step}" for n in range(FINE) for step in range(3))]
            )
            assert_invariants(dsn)
            case.count(poisons=1, workers_lost=replaced, others=FINE)


def states(db: OpenDatabase, bad: Any, fine: list[Any]) -> str:
    told = reasons(db, bad)
    return f"{bad.key}: {bad.status()}, {[run.status() for run in fine]}, {len(told)}: {told[-12:]}"


def reasons(db: OpenDatabase, run: Any) -> list[str | None]:
    """Why each event of a run happened."""
    return [event.reason for event in read_events(db, find_run(db, run.key).run_id)[0]]
