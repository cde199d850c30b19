"""Schedules that matter most, each by its name: real processes, stopped and killed at points."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import books
import psutil
import psycopg
import pytest
import shapes
from children import STOPPED, Child
from crashing import until
from psycopg.rows import dict_row
from shapes import BY_NAME, Shape

from agentrun.store import budgets, embedded, liveness
from agentrun.store.migrate import migrate
from agentrun.testing import Fault

SHORT, LONG = 1.0, 30.0  # leases, in seconds


@pytest.fixture
def ground(grounds: Any) -> Iterator[str]:
    with grounds() as dsn:
        yield dsn


def elsewhere(action: Callable[[], object]) -> Callable[[], object]:
    """As on another machine, from where nobody can look whether a process is there."""

    def act() -> None:
        liveness._kernel = lambda: "another"
        action()

    return act


def asked(dsn: str, query: Any, *given: Any) -> list[dict[str, Any]]:
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        return conn.execute(query, given).fetchall()


def events(dsn: str, run: str, *names: str) -> list[dict[str, Any]]:
    return [row for row in books.read(dsn, run).journal if row["event"] in names]


# -- late results ----------------------------------------------------------------------------------


MAILS = [
    Shape(agent.name, agent, shapes.HAT, asks=2, acts=1) for agent in (shapes.mails, shapes.amails)
]
DOUBTS = [shape for shape in shapes.SHAPES if shape.name.startswith("doubt")]


def answered_late(dsn: str, shape: Shape, at: str, owner_at: str) -> list[str]:
    """A process is stopped with an answer in hand, and wakes when its run is another's.

    The new owner stands at a point of its own until the answer is kept. Returns what points they
    passed.
    """
    since = shapes.here.mark()
    see_through = partial(shape.see_through, dsn, "k")
    with Child(partial(see_through, SHORT), at, signal.SIGSTOP) as late:
        assert late.wait() == STOPPED
        with Child(partial(see_through, LONG), owner_at, signal.SIGSTOP) as owner:
            assert owner.wait() == STOPPED
            late.go_on()
            until(lambda: bool(asked(dsn, "SELECT FROM agentrun.late_results")))
            owner.go_on()
            assert owner.wait() == 0
        assert late.wait() == 0
    numbers = books.settle(shape, dsn, "k", shapes.here.effects("k", since), [])
    assert numbers["in_flight_repeated"] == numbers["possibly_billed"] == 0
    return [*late.passed(), *owner.passed()]


@pytest.mark.parametrize("shape", MAILS, ids=lambda shape: shape.name)
@pytest.mark.parametrize("at", ["send:after", "body:after"])
def test_a_late_answer_is_adopted_before_the_next_attempt_is_sent(
    ground: str, shape: Shape, at: str
) -> None:
    answered_late(ground, shape, at, "append:after")  # the intent of the next attempt
    (again,) = [e for e in events(ground, "k", "attempt_started") if e["attempt"] == 2]
    (outcome,) = [e for e in events(ground, "k", "step_finished") if e["key"] == again["key"]]
    assert outcome["attempt"] == 1


@pytest.mark.parametrize("shape", DOUBTS, ids=lambda shape: shape.name)
def test_a_late_answer_of_a_once_tool_resolves_its_doubt(ground: str, shape: Shape) -> None:
    answered_late(ground, shape, "body:after", "claim:after")
    (decision,) = events(ground, "k", "resolved")
    assert (decision["status"], decision["by"]) == ("happened", "late result")


# -- death that is not certain ---------------------------------------------------------------------


@pytest.mark.long
def test_a_dead_workers_once_attempt_waits_out_its_lease(ground: str) -> None:
    """Its session is gone, so its run is taken at once; but a cut network looks the same."""
    shape, lease = BY_NAME["stream"], 8.0
    since = shapes.here.mark()
    see_through = partial(shape.see_through, ground, "k", lease)
    server_older_than(ground, lease)
    with Child(elsewhere(see_through), "body:after") as dead:
        assert dead.wait() == -signal.SIGKILL
    with Child(see_through) as owner:
        assert owner.wait() == 0
    books.settle(shape, ground, "k", shapes.here.effects("k", since), [])
    first, taken = events(ground, "k", "claimed")
    (decision,) = events(ground, "k", "resolved")
    (dead_row,) = asked(
        ground, "SELECT beat_at + lease AS until FROM agentrun.workers WHERE worker = %s",
        first["worker"],
    )  # fmt: skip
    assert "session gone" in taken["reason"]
    assert taken["at"] < dead_row["until"] <= decision["at"]
    assert decision["by"] == "reconcile (find)"


def server_older_than(dsn: str, seconds: float) -> None:
    """Only then does a missing session mean anything."""
    query = "SELECT clock_timestamp() - pg_postmaster_start_time() > %s * interval '1 s' AS is"
    until(lambda: asked(dsn, query, seconds)[0]["is"])


@pytest.mark.long
@pytest.mark.parametrize("shape", DOUBTS, ids=lambda shape: shape.name)
def test_an_answer_that_comes_while_its_lease_is_waited_out_resolves_the_doubt(
    ground: str, shape: Shape
) -> None:
    """The worker was cut off, not dead, and its lease is still good."""
    since, lease = shapes.here.mark(), 8.0
    see_through = partial(shape.see_through, ground, "k", lease)
    server_older_than(ground, lease)
    with Child(elsewhere(see_through), "body:before", signal.SIGSTOP) as cut_off:
        assert cut_off.wait() == STOPPED
        cut = "SELECT pg_terminate_backend(session_pid) FROM agentrun.workers"
        assert asked(ground, cut)
        with Child(see_through) as owner:
            until(lambda: len(events(ground, "k", "claimed")) == 2)
            time.sleep(1.0)  # nemesis: it has looked for an answer, and begun to wait
            cut_off.go_on()
            assert owner.wait() == 0
        assert cut_off.wait() == 0
    books.settle(shape, ground, "k", shapes.here.effects("k", since), [])
    (decision,) = events(ground, "k", "resolved")
    assert (decision["status"], decision["by"]) == ("happened", "late result")


# -- a process that stops with the database in its hand --------------------------------------------


@pytest.mark.parametrize("name", ["budget", "budget, async"])
def test_a_process_that_stops_in_its_reservation_holds_up_nobody_for_long(
    ground: str, name: str
) -> None:
    shape, since = BY_NAME[name], shapes.here.mark()

    def stops() -> None:
        grant = budgets.grant

        def stopping(*given: Any) -> Any:
            budgets.grant = grant
            os.kill(os.getpid(), signal.SIGSTOP)
            return grant(*given)

        budgets.grant = stopping
        shape.see_through(ground, "k", SHORT)

    with Child(stops) as zombie:
        assert zombie.wait() == STOPPED
        with Child(partial(shape.see_through, ground, "k")) as owner:
            assert owner.wait() == 0
        zombie.go_on()
        assert zombie.wait() == 0
    books.settle(shape, ground, "k", shapes.here.effects("k", since), [])


# -- Postgres restarts -----------------------------------------------------------------------------


@pytest.mark.long
def test_a_restarted_postgres_makes_no_worker_take_anothers_runs(
    grounds: Any, new_home: Path
) -> None:
    """Its workers had no time yet to register again, and others want their runs."""
    shape, runs, since = BY_NAME["chain"], ("one", "two", "three"), shapes.here.mark()
    dsn = embedded.start(new_home)
    migrate(dsn)
    for run in runs:
        held = Fault.hold("received", when={"mentions": f", run {run}.", "turn": 2})
        shapes.here.provider.arm(held)
    with ExitStack() as stack:
        stack.enter_context(shapes.ground(partial(nullcontext, dsn)))

        def begin(run: str) -> Child:
            see_through = elsewhere(partial(shape.see_through, dsn, run, 20.0))
            return stack.enter_context(Child(see_through))

        owners = [begin(run) for run in runs]
        shapes.here.provider.wait_for("held", len(runs))
        others = [begin(run) for run in runs]
        until(lambda: all(child.passed() for child in others))
        for owner in owners:
            os.kill(owner.pid, signal.SIGSTOP)
            assert owner.wait() == STOPPED
        kill_server(new_home)
        embedded.start(new_home)
        away = "UPDATE agentrun.workers SET beat_at = beat_at - interval '1 hour' RETURNING worker"
        assert len(asked(dsn, away)) >= len(runs)
        time.sleep(1.5)  # nemesis: the others look several times
        for owner in owners:
            owner.go_on()
        shapes.here.provider.release()
        assert [child.wait() for child in [*owners, *others]] == [0] * 6
    for run in runs:
        assert len(events(dsn, run, "claimed")) == 1
        books.settle(shape, dsn, run, shapes.here.effects(run, since), [])


def kill_server(home: Path) -> None:
    pid = (embedded.where(home).data / "postmaster.pid").read_text().split()[0]
    server = psutil.Process(int(pid))
    server.kill()
    server.wait(60)
