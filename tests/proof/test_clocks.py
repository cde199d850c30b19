"""Clocks that jump: the worker's wall clock changes nothing, the database's is the reference.

A worker in a process of its own executes a run whose tools set that process's wall clock, by hours
or a day, before, between and inside its steps, while a rival asks all the time whether it may take
the run. Then the database's clock jumps, as seen in the beats it wrote, and a rival does take it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crashing import World, ended, spawn
from invariants import assert_invariants

import agentrun
from agentrun.store import liveness
from agentrun.store.connection import connect
from agentrun.store.runs import find_run
from agentrun.store.sql import QUERIES
from agentrun.store.values import read_events

if TYPE_CHECKING:
    from matrix import Proof

pytestmark = pytest.mark.long

LEASE = 2.0  # seconds
JUMPS = {"an hour ahead": 3600.0, "an hour back": -3600.0, "a day ahead": 86400.0,
         "a day back": -86400.0, "just over a lease ahead": LEASE + 0.5}  # fmt: skip
MOMENTS = ["before the claim", "in a step", "between steps", "in a wait"]
PAUSE = 0.4  # seconds that the run sleeps


class Clock:
    """The wall clock of this process, which is set at one moment of a run; the rest is as it is."""

    def __init__(self, moment: str, by: float) -> None:
        self._moment, self._by, self._ahead = moment, by, 0.0

    def __call__(self) -> tuple[float, float]:
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return since_boot, time.time() + self._ahead

    def at(self, moment: str, *, later: float = 0.0) -> None:
        """It is that moment, or will be in so many seconds."""
        if moment == self._moment:
            timer = threading.Timer(later, self._jump)
            # The timer is no thread of the run, which would wait for its first step.
            Context().run(timer.start) if later else self._jump()

    def _jump(self) -> None:
        self._ahead = self._by


class DatabaseClock(Clock):
    """The database's clock, an hour ahead from then on, as the run's owner sees it: in its beats.

    Somebody looks at once whether it is alive. Once, whoever executes the run.
    """

    def __init__(self, moment: str, dsn: str, key: str, done: Path) -> None:
        super().__init__(moment, 0.0)
        self._dsn, self._key, self._done = dsn, key, done

    def _jump(self) -> None:
        if self._done.exists():
            return
        self._done.touch()
        with connect(self._dsn) as conn:
            run = conn.execute(QUERIES["run"], {"key": self._key}).fetchone()
            assert run is not None
            dead = None
            while dead is None:  # it may beat in between; and the server must be as old as a lease
                conn.execute("UPDATE agentrun.workers SET beat_at = beat_at - interval '1 hour'")
                dead = liveness.find_dead(conn, run["owner"])
        assert dead.cause == "lease expired"


def clocked(world: World, clock: Clock) -> Any:
    @agentrun.tool
    def act(n: int) -> int:
        world.act(f"act {n}")
        if n == 1:
            clock.at("in a step")
        return n

    @agentrun.tool(effect="read")
    def look() -> int:
        return 3

    @agentrun.agent
    def by_the_clock() -> int:
        total = act(1)
        clock.at("between steps")
        clock.at("in a wait", later=PAUSE / 2)
        agentrun.sleep(PAUSE)
        return total + act(2) + look()

    return by_the_clock


def serve(dsn: str, agent: Any, clock: Clock) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    liveness._now = clock
    clock.at("before the claim")
    with agentrun.connect(dsn, lease=LEASE), agentrun.Worker([agent]):
        stop.wait(60)


def test_a_wall_clock_that_jumps_changes_nothing(dsn: str, tmp_path: Path, proof: Proof) -> None:
    names = [f"{jump}, {moment}" for jump in JUMPS for moment in MOMENTS]
    for case in proof.cases("clocks", names, share=4):
        with case, agentrun.connect(dsn, lease=LEASE) as db:
            jump, moment = case.name.split(", ")
            world, clock = World(tmp_path / case.name), Clock(moment, JUMPS[jump])
            agent = clocked(world, clock)
            handle = agent.with_options(key=case.name).submit()
            worker = spawn(partial(serve, dsn, agent, clock))
            asked = 0
            while handle.status() != "done":
                _, dead = db.owner_of(find_run(db, case.name))
                assert dead is None, "a rival may take the run"
                asked += 1
            assert handle.result() == 6
            os.kill(worker, signal.SIGTERM)
            assert ended(worker) == 0
            events, _ = read_events(db, find_run(db, case.name).run_id)
            assert world.effects == ["act 1", "act 2"]
            assert [e.event for e in events].count("claimed") == 2, "at first, and after the wait"
            began, woke = [e.at for e in events if e.kind == "wait"]
            assert (woke - began).total_seconds() >= PAUSE
            assert_invariants(dsn)
            case.count(asked=asked, taken=0)


def test_a_database_clock_that_jumps_ahead_costs_a_lease_and_repeats_nothing(
    dsn: str, tmp_path: Path, proof: Proof
) -> None:
    """Every lease has passed by then: the worker is declared dead, and another goes on."""
    for case in proof.cases("clocks, the database's", ["in a step", "between steps"], share=2):
        with case, agentrun.connect(dsn, lease=LEASE):
            world = World(tmp_path / case.name)
            clock = DatabaseClock(case.name, dsn, case.name, tmp_path / f"{case.name} done")
            agent = clocked(world, clock)
            keyed = agent.with_options(key=case.name, on_held="wait")
            handle = keyed.submit()
            worker = spawn(partial(serve, dsn, agent, clock))
            while handle.status() == "queued":
                time.sleep(0.01)
            assert keyed.run() == 6
            os.kill(worker, signal.SIGTERM)
            assert ended(worker) == 0
            assert world.effects == ["act 1", "act 2"]
            assert_invariants(dsn)
            case.count(taken=1, repeated=0)
