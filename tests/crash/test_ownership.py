"""Who owns a run: takeover, zombies, busy keys, drain. Real processes, real signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from crashing import World, ended, in_child, spawn, until

import agentrun
from agentrun.store.runs import find_run
from agentrun.store.values import read_events

LEASE = 2.0


class Work:
    """An agent of three `once` steps, which waits before the second until a file appears."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.world = World(folder / "effects")
        self.gate = folder / "gate"
        world, gate = self.world, self.gate

        @agentrun.tool
        def act(n: int) -> int:
            world.act(f"{n} {os.getpid()}")
            return n

        @agentrun.agent
        def work() -> int:
            total = act(1)
            until(gate.exists)
            return total + act(2) + act(3)

        self.agent = work.with_options(key="k")

    def execute(self) -> None:
        with agentrun.connect(self.dsn, lease=LEASE):
            assert self.agent.run() == 6

    def recorded(self) -> bool:
        with agentrun.connect(self.dsn) as db:
            try:
                run = find_run(db, "k")
            except agentrun.RunNotFound:
                return False
            return any(e.event == "step_finished" for e in read_events(db, run.run_id)[0])


@pytest.fixture
def work(dsn: str, tmp_path: Path) -> Work:
    return Work(dsn, tmp_path)


def journal(dsn: str) -> list[Any]:
    with agentrun.connect(dsn) as db:
        return read_events(db, find_run(db, "k").run_id)[0]


def test_a_stopped_process_woken_after_its_lease_changes_nothing(work: Work, dsn: str) -> None:
    zombie = spawn(work.execute)
    until(work.recorded)
    os.kill(zombie, signal.SIGSTOP)
    work.gate.touch()
    assert in_child(work.execute) == 0  # waits for the lease, takes over, finishes
    before = journal(dsn)
    os.kill(zombie, signal.SIGCONT)
    assert ended(zombie) == 0  # finds that it lost the run, and returns the recorded result
    assert journal(dsn) == before
    assert len(work.world.effects) == 3
    assert "lease expired" in [e for e in before if e.event == "claimed"][1].reason


def test_a_killed_process_is_replaced_at_once_on_its_own_machine(work: Work, dsn: str) -> None:
    first = spawn(work.execute)
    until(work.recorded)
    os.kill(first, signal.SIGKILL)
    ended(first)
    work.gate.touch()
    work.execute()
    claims = [e.reason for e in journal(dsn) if e.event == "claimed"]
    assert claims[0] == "first claim"
    assert "process gone" in claims[1]
    assert len(work.world.effects) == 3


@pytest.mark.direct("a pooler's session outlives the process")
def test_a_killed_process_elsewhere_is_replaced_when_its_session_is_gone(
    work: Work, dsn: str
) -> None:
    def elsewhere() -> None:
        from agentrun.store import liveness

        liveness.process_identity = lambda pid: None  # as on another host
        work.execute()

    with agentrun.connect(dsn) as db, db.connection() as conn:
        until(lambda: conn.execute(
            "SELECT pg_postmaster_start_time() + interval '3 s' < now() AS up"
        ).fetchone()["up"])  # fmt: skip
    first = spawn(elsewhere)
    until(work.recorded)
    os.kill(first, signal.SIGKILL)
    ended(first)
    work.gate.touch()
    work.execute()
    claims = [e.reason for e in journal(dsn) if e.event == "claimed"]
    assert "session gone" in claims[1]
    assert len(work.world.effects) == 3


def test_a_busy_run_can_be_waited_for_or_refused(work: Work, dsn: str) -> None:
    owner = spawn(work.execute)
    until(work.recorded)

    def refused() -> None:
        agentrun.connect(dsn, lease=LEASE)
        with pytest.raises(agentrun.RunConflict, match="being executed by w-"):
            work.agent.with_options(on_busy="raise").run()

    assert in_child(refused) == 0
    waiter = spawn(work.execute)
    work.gate.touch()
    assert (ended(owner), ended(waiter)) == (0, 0)
    assert len(work.world.effects) == 3


def test_many_processes_on_one_key_are_one_owner(work: Work, dsn: str) -> None:
    work.gate.touch()
    assert [ended(pid) for pid in [spawn(work.execute) for _ in range(6)]] == [0] * 6
    assert len(work.world.effects) == 3
    assert len([e for e in journal(dsn) if e.event == "claimed"]) == 1


def test_threads_of_one_process_on_one_key_are_one_owner(work: Work, dsn: str) -> None:
    work.gate.touch()
    with agentrun.connect(dsn):
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda: results.append(work.agent.run())) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [6] * 6
    assert len(work.world.effects) == 3


def test_sigterm_drains_and_hands_the_run_back(work: Work, dsn: str) -> None:
    owner = spawn(work.execute)
    until(work.recorded)
    os.kill(owner, signal.SIGTERM)
    time.sleep(0.1)  # nemesis: let the signal arrive while the agent waits
    work.gate.touch()
    assert ended(owner) == 128 + signal.SIGTERM
    with agentrun.connect(dsn):
        assert agentrun.get("k").status() == "queued"
        assert len(work.world.effects) == 1
        assert work.agent.run() == 6
    assert len(work.world.effects) == 3


def test_a_forked_child_cannot_use_its_parents_run(dsn: str) -> None:
    """In the child every step must be refused, and say why."""

    @agentrun.tool
    def act() -> int:
        return 1

    @agentrun.agent
    def forks() -> int:
        act()

        def child() -> None:
            signal.alarm(20)  # not refused, it would wait for ever for a thread it does not have
            with pytest.raises(agentrun.Interrupt, match="forked"):
                act()

        return in_child(child)

    with agentrun.connect(dsn):
        assert forks.run() == 0


def test_close_drains_the_runs_of_other_threads(work: Work, dsn: str) -> None:
    database = agentrun.connect(dsn)
    outcome: list[BaseException] = []

    def execute() -> None:
        try:
            work.agent.run()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    until(work.recorded)
    threading.Timer(0.1, work.gate.touch).start()
    database.close()
    thread.join()
    assert isinstance(outcome[0], agentrun.RunHeld)
    with agentrun.connect(dsn):
        assert agentrun.get("k").status() == "queued"
