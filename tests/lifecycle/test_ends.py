"""However a run ends in a process, somebody can go on with it: cancelled, Ctrl-C, lease lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from crashing import World, in_child
from openai import AsyncOpenAI

import agentrun
from agentrun.steps.execution_point import current_context
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run
from agentrun.testing import Provider, Reply

Events = Callable[[str], list[Any]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


def declared_dead(worker: str, sql: Any) -> None:
    sql(
        "UPDATE agentrun.workers SET dead_at = now(), cause = 'lease expired' WHERE worker = %s "
        "RETURNING worker",
        worker,
    )


def handed_back() -> None:
    """Wait until the run is anybody's; nobody waits for that event's commit."""
    deadline = time.monotonic() + 30
    while agentrun.get("k").status() != "queued":
        assert time.monotonic() < deadline, "the run is still ours"
        time.sleep(0.01)


def test_a_worker_declared_dead_gives_its_run_up_and_does_not_fail_it(
    db: Any, sql: Any, world: World, events: Events
) -> None:
    @agentrun.tool(effect="read")
    def look() -> str:
        world.act("look")
        if len(world.effects) == 1:
            run = current_context()
            assert run is not None
            declared_dead(run.tail.worker, sql)
            run.heart._beat()  # as the heart does five times a lease
        return "seen"

    @agentrun.agent
    def watch() -> str:
        return look() + look()

    assert watch.with_options(key="k").run() == "seenseen"
    names = [event.event for event in events("k")]
    assert "run_failed" not in names
    assert names.count("claimed") == 2


def test_a_lost_lease_does_not_swallow_a_cancellation(db: Any, dsn: str) -> None:
    taken, forever = threading.Event(), asyncio.Event()

    @agentrun.agent
    async def patient() -> None:
        run = current_context()
        assert run is not None
        other = OpenDatabase(dsn)
        claimed = other.claim(find_run(other, "k"), "took over")  # as if we had been declared dead
        assert claimed is not None
        taken.set()
        try:
            await forever.wait()
        finally:
            other.close()

    async def main() -> None:
        task = asyncio.create_task(patient.with_options(key="k").arun())
        await asyncio.to_thread(taken.wait, 30)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()

    asyncio.run(main())


def test_a_run_cancelled_while_it_is_claimed_is_handed_back(db: Any, dsn: str) -> None:
    @agentrun.agent
    async def quick() -> int:
        return 1

    keyed = quick.with_options(key="k")
    db.create("k", "quick", {}, agentrun.core.codec.fingerprint({}))

    async def main(conn: psycopg.Connection[Any]) -> None:
        conn.execute("LOCK TABLE agentrun.journal IN EXCLUSIVE MODE")  # a claim has to wait
        task = asyncio.create_task(keyed.arun())
        while True:
            waiting = conn.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall()
            if waiting:
                break
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.1)
        conn.rollback()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()

    with psycopg.connect(dsn) as conn:
        asyncio.run(main(conn))
    handed_back()


def test_a_run_cancelled_twice_is_handed_back(db: Any) -> None:
    entered, leave = threading.Event(), threading.Event()

    @agentrun.tool
    def slow() -> None:
        entered.set()
        leave.wait(30)

    @agentrun.agent
    async def patient() -> None:
        await asyncio.to_thread(slow)

    async def main() -> None:
        task = asyncio.create_task(patient.with_options(key="k").arun())
        await asyncio.to_thread(entered.wait, 30)
        task.cancel()
        await asyncio.sleep(0.2)  # it waits for the step in flight
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()
        leave.set()

    asyncio.run(main())
    handed_back()


def test_a_cancelled_model_call_is_not_under_way_any_more(
    db: Any, provider: Provider, aclient: AsyncOpenAI
) -> None:
    provider.say([Reply("late", delay_s=30.0)])
    seen: list[Any] = []

    @agentrun.agent
    async def ask() -> None:
        seen.append(current_context())
        try:
            async with asyncio.timeout(0.5):
                await aclient.chat.completions.create(
                    model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}]
                )
        except TimeoutError:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        ask.with_options(key="k").run()
    assert not seen[0].in_flight()


def test_sigterm_during_the_last_step_ends_the_process_all_the_same(dsn: str) -> None:
    @agentrun.tool
    def last() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1

    @agentrun.agent
    def work() -> int:
        return last()

    def action() -> None:
        agentrun.connect(dsn)
        work.with_options(key="k").run()

    assert in_child(action) == 128 + signal.SIGTERM
    with agentrun.connect(dsn):
        assert agentrun.get("k").status() == "done"


def test_a_run_does_not_end_before_its_steps_in_flight(db: Any, events: Events) -> None:
    """One of two gathered steps fails; the outcome of the other belongs to the journal too."""
    entered, leave = threading.Event(), threading.Event()

    @agentrun.tool
    def slow() -> str:
        entered.set()
        leave.wait(30)
        return "done"

    @agentrun.tool
    async def broken() -> None:
        await asyncio.to_thread(entered.wait, 30)
        threading.Timer(0.3, leave.set).start()
        raise ValueError("no luck")

    @agentrun.agent
    async def both() -> None:
        await asyncio.gather(asyncio.to_thread(slow), broken())

    with pytest.raises(agentrun.RunFailed, match="no luck"):
        both.with_options(key="k").run()
    outcomes = {e.name: e.status for e in events("k") if e.event == "step_finished"}
    assert outcomes == {"slow": "ok", "broken": "error"}
    assert events("k")[-1].event == "run_failed"


def test_a_step_that_a_timed_out_attempt_still_performs_is_waited_for(
    db: Any, world: World, events: Events
) -> None:
    """The first attempt of the outer tool goes on in its thread; the second one joins it."""
    leave = threading.Event()

    @agentrun.step(effect="once", reconcile=lambda key: agentrun.NotHappened())
    def charge() -> str:
        world.act("charge")
        leave.wait(30)
        return "charged"

    @agentrun.tool(effect="idempotent", retries=3, timeout=1.0)
    def order() -> str:
        if agentrun.current_step().attempt == 2:
            leave.set()
        return charge()

    @agentrun.agent
    def shop() -> str:
        return order()

    assert shop.with_options(key="k").run() == "charged"
    assert world.effects == ["charge"]
    assert [e.event for e in events("k") if e.name == "charge"] == [
        "attempt_started",
        "step_finished",
    ]


def test_a_resume_of_a_run_whose_doubt_failed_it_asks_a_person(
    dsn: str, db: Any, world: World
) -> None:
    crash = [True]

    @agentrun.tool(on_doubt="fail")
    def act() -> str:
        world.act("act")
        if crash[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return "acted"

    @agentrun.agent
    def run() -> str:
        return act()

    keyed = run.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    assert in_child(action) == -signal.SIGKILL
    crash[0] = False
    with pytest.raises(agentrun.RunFailed, match="interrupted"):
        keyed.run()
    with pytest.raises(agentrun.RunHeld, match="agentrun inbox k"):
        agentrun.resume("k", by="ada")
    assert world.effects == ["act"]
    agentrun.resolve("k", 1, agentrun.NotHappened(), by="ada")
    assert keyed.run() == "acted"
    assert world.effects == ["act", "act"], "that is what ada said"


def test_resume_reopens_the_step_inside_a_tool_that_failed_it(db: Any, events: Events) -> None:
    broken = [True]

    @agentrun.step(effect="idempotent")
    def inner() -> str:
        if broken[0]:
            raise ValueError("no luck")
        return "inner"

    @agentrun.tool(effect="idempotent")
    def outer() -> str:
        return inner()

    @agentrun.agent
    def run() -> str:
        return outer()

    with pytest.raises(agentrun.RunFailed, match="no luck"):
        run.with_options(key="k").run()
    broken[0] = False
    assert agentrun.resume("k", by="ada") == "inner"
    assert [e.name for e in events("k") if e.status == "reopened"] == ["outer", "inner"]


def test_a_timeout_inside_an_async_once_tool_is_its_error_and_no_doubt(db: Any) -> None:
    @agentrun.step(effect="idempotent", timeout=0.1)
    async def slow() -> None:
        await asyncio.sleep(30)

    @agentrun.tool
    async def outer() -> None:
        await slow()

    @agentrun.agent
    async def run() -> str:
        try:
            await outer()
        except agentrun.ToolTimeout as error:
            return str(error)
        return ""

    assert "slow took longer" in run.run()


def test_a_decision_about_one_attempt_is_none_about_the_next(
    dsn: str, db: Any, world: World
) -> None:
    @agentrun.tool
    def act() -> None:
        world.act("act")
        os.kill(os.getpid(), signal.SIGKILL)

    @agentrun.agent
    def run() -> None:
        act()

    keyed = run.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    assert in_child(action) == -signal.SIGKILL
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    agentrun.resolve("k", 1, agentrun.NotHappened(), by="ada")
    with pytest.raises(agentrun.AlreadyDecided, match="ada"):  # about the same attempt
        agentrun.resolve("k", 1, agentrun.NotHappened(), by="bob")
    assert in_child(action) == -signal.SIGKILL
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    assert world.effects == ["act", "act"]


def test_a_live_worker_that_let_go_is_not_waited_for_longer_than_a_dead_one(
    dsn: str, world: World
) -> None:
    """Ctrl-C in the middle of a `once` tool of a process that lives on, as a notebook does."""
    crash = [True]

    @agentrun.tool(on_doubt="retry")
    def act() -> str:
        world.act("act")
        if crash[0]:
            raise KeyboardInterrupt
        return "acted"

    @agentrun.agent
    def run() -> str:
        return act()

    keyed = run.with_options(key="k")
    with agentrun.connect(dsn, lease=2.0):
        with pytest.raises(KeyboardInterrupt):
            keyed.run()
        crash[0] = False

        def action() -> None:
            agentrun.connect(dsn, lease=2.0)
            signal.alarm(60)
            keyed.run()

        assert in_child(action) == 0
    assert world.effects == ["act", "act"]


def test_what_a_forked_child_returns_or_raises_is_no_end_of_its_parents_run(
    db: Any, events: Events
) -> None:
    @agentrun.tool
    def act() -> int:
        return 1

    @agentrun.agent
    def forks(how: str) -> int:
        act()
        child = os.fork()
        if child == 0:
            if how == "raises":
                raise SystemExit(3)
            return 2
        return os.waitpid(child, 0)[0] and act()

    parent = os.getpid()
    for how in ("raises", "returns"):
        try:
            result = forks.with_options(key=how).run(how)
        except BaseException:
            if os.getpid() == parent:
                raise
            os._exit(0)
        if os.getpid() != parent:
            os._exit(1)
        assert result == 1
        names = [event.event for event in events(how)]
        assert names.count("claimed") == names.count("run_finished") == 1


def test_threads_of_the_harness_do_not_count_as_the_agents(dsn: str, tmp_path: Path) -> None:
    """The first process starts its writer in the middle of the run, the second one has it."""
    seen = tmp_path / "seen"
    crash = [True]

    @agentrun.tool
    def act() -> None: ...

    @agentrun.agent
    def run() -> str:
        act()
        ids: list[str] = []
        thread = threading.Thread(target=lambda: ids.append(str(agentrun.uuid())))
        thread.start()
        thread.join()
        if crash[0]:
            seen.write_text(ids[0])
            live = current_context()
            assert live is not None
            live.flushed().sync()
            os.kill(os.getpid(), signal.SIGKILL)
        return ids[0]

    keyed = run.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    assert in_child(action) == -signal.SIGKILL
    crash[0] = False
    with agentrun.connect(dsn):
        assert keyed.run() == seen.read_text()


@pytest.mark.parametrize("cause", ["deadline", "cancel"])
def test_an_end_that_takes_longer_than_a_beat_is_no_other_end_for_that(
    dsn: str, cause: str
) -> None:
    """Each beat asks again whether the run is to stop, also while it comes to its end."""

    @agentrun.tool(effect="idempotent")
    async def stubborn() -> None:
        until = asyncio.get_running_loop().time() + 1.5
        while (left := until - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(left)

    @agentrun.agent
    async def work() -> None:
        if cause == "cancel":
            await asyncio.to_thread(agentrun.cancel, "k")
        step = asyncio.create_task(stubborn())
        await asyncio.shield(step)

    limit = 0.3 if cause == "deadline" else None
    with agentrun.connect(dsn, lease=2.0):  # a beat each 0.2 s
        with pytest.raises(agentrun.RunError, match=r"deadline passed|: by ") as ended:
            work.with_options(key="k", deadline=limit).run()
        assert isinstance(ended.value, agentrun.RunFailed) == (cause == "deadline")
        assert agentrun.get("k").status() == ("failed" if cause == "deadline" else "cancelled")
