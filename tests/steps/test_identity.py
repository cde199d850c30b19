"""Which recorded step is meant: divergence, tasks, threads, branches, equal calls."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crashing import World, die_recorded, killed

import agentrun
from agentrun.steps.execution_point import current_context


def crash_then_run(dsn: str, agent: Any, switch: list[bool]) -> Any:
    """Kill the agent where its switch says so, then run it again here."""

    def action() -> None:
        agentrun.connect(dsn)
        agent.run()

    switch[0] = True
    killed(action)
    switch[0] = False
    return agent.run()


def test_changed_code_is_refused_with_a_diff_before_any_effect(
    db: Any, dsn: str, world: World
) -> None:
    version = [1]
    crash = [True]

    @agentrun.tool
    def act(what: str) -> str:
        world.act(what)
        return what

    @agentrun.agent
    def run() -> str:
        result = act("one" if version[0] == 1 else "two")
        if crash[0]:
            die_recorded()
        return result + act("after")

    keyed = run.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    crash[0], version[0] = False, 2
    with pytest.raises(agentrun.Diverged) as diverged:
        keyed.run()
    assert '- "what": "one"' in diverged.value.diff
    assert '+ "what": "two"' in diverged.value.diff
    assert world.effects == ["one"]
    assert agentrun.get("k").status() == "held"
    version[0] = 1
    assert keyed.run() == "oneafter"


def test_an_accepted_divergence_goes_on_from_there(db: Any, dsn: str, world: World) -> None:
    version, crash = [1], [True]
    keys: list[str] = []

    @agentrun.tool(effect="idempotent")
    def act(what: str, idempotency_key: str = "") -> str:
        world.act(f"{what} {idempotency_key}")
        return what

    @agentrun.agent
    def run() -> str:
        result = act("same") + act("one" if version[0] == 1 else "two")
        if crash[0]:
            die_recorded()
        return result

    keyed = run.with_options(key="k", on_divergence="accept")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    version[0] = 2
    killed(action)  # the accepted path is itself recorded
    crash[0] = False
    assert keyed.run() == "sametwo"
    effects = [line.split() for line in world.effects]
    assert [what for what, _ in effects] == ["same", "one", "two"]
    keys = [key for _, key in effects]
    assert len(set(keys)) == 3


def test_gathered_tasks_are_told_apart_by_creation(db: Any, dsn: str, world: World) -> None:
    crash = [True]

    @agentrun.tool
    async def act(who: str, n: int) -> str:
        await asyncio.sleep(random.random() / 50)
        world.act(f"{who}{n}")
        return f"{who}{n}"

    async def conversation(who: str) -> list[str]:
        return [await act(who, n) for n in range(4)]

    @agentrun.agent
    async def run() -> list[list[str]]:
        results = await asyncio.gather(*(conversation(who) for who in "abcde"))
        if crash[0]:
            die_recorded()
        return results

    keyed = run.with_options(key="k")
    assert crash_then_run(dsn, keyed, crash) == [[f"{w}{n}" for n in range(4)] for w in "abcde"]
    assert len(world.effects) == 20


def test_equal_calls_in_parallel_are_matched(db: Any, dsn: str, world: World) -> None:
    crash = [True]

    @agentrun.tool
    async def act() -> int:
        await asyncio.sleep(random.random() / 50)
        world.act("x")
        return len(world.effects)

    @agentrun.agent
    async def run() -> list[int]:
        results = await asyncio.gather(*(act() for _ in range(6)))
        if crash[0]:
            die_recorded()
        return results

    assert sorted(crash_then_run(dsn, run.with_options(key="k"), crash)) == list(range(1, 7))
    assert len(world.effects) == 6


def test_threads_and_pools_carry_the_run(db: Any, dsn: str, world: World) -> None:
    crash = [True]

    @agentrun.tool
    def act(n: int) -> int:
        world.act(str(n))
        return n

    @agentrun.agent
    def run() -> list[int]:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(act, range(10)))
        thread = threading.Thread(target=lambda: results.append(act(10)))
        thread.start()
        thread.join()
        if crash[0]:
            die_recorded()
        return results

    assert crash_then_run(dsn, run.with_options(key="k"), crash) == list(range(11))
    assert len(world.effects) == 11


def test_to_thread_and_executors_carry_the_run(db: Any, dsn: str, world: World) -> None:
    crash = [True]

    @agentrun.tool
    def act(n: int) -> int:
        world.act(str(n))
        return n

    @agentrun.agent
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        results = [await asyncio.to_thread(act, 0)]
        results += await asyncio.gather(*(asyncio.to_thread(act, n) for n in range(1, 5)))
        results += await asyncio.gather(*(loop.run_in_executor(None, act, n) for n in range(5, 9)))
        if crash[0]:
            die_recorded()
        return results

    assert crash_then_run(dsn, run.with_options(key="k"), crash) == list(range(9))
    assert len(world.effects) == 9


def test_a_shift_in_task_numbers_does_not_repeat_what_tasks_did(
    db: Any, dsn: str, world: World
) -> None:
    """A library that starts a task of its own in one process and not in the next."""
    crash = [True]

    @agentrun.tool
    async def act(who: str, n: int) -> str:
        world.act(f"{who}{n}")
        return f"{who}{n}"

    async def conversation(who: str) -> list[str]:
        return [await act(who, n) for n in range(3)]

    @agentrun.agent
    async def run() -> list[list[str]]:
        if crash[0]:
            await asyncio.create_task(asyncio.sleep(0))
        results = await asyncio.gather(conversation("a"), conversation("b"))
        if crash[0]:
            die_recorded()
        return results

    crash_then_run(dsn, run.with_options(key="k"), crash)
    assert sorted(world.effects) == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_branches_are_found_by_name(db: Any, dsn: str, world: World) -> None:
    crash, order = [True], ["eu/1", "us>2", "\x00"]

    @agentrun.tool
    def act(n: int) -> int:
        world.act(str(n))
        return n

    @agentrun.agent
    def run() -> dict[str, int]:
        results = {}
        for region in order:
            with agentrun.branch(region):
                results[region] = act(len(region))
        if crash[0]:
            die_recorded()
        return results

    def action() -> None:
        agentrun.connect(dsn)
        run.with_options(key="k").run()

    killed(action)
    crash[0] = False
    order.reverse()
    assert run.with_options(key="k").run() == {"eu/1": 4, "us>2": 4, "\x00": 1}
    assert len(world.effects) == 3


def test_overlapping_once_steps_of_one_scope_are_refused(db: Any) -> None:
    """Two threads on one line of control, handed on by hand: no code outside ours can."""
    from agentrun.api.tool import tool_of
    from agentrun.core.flow import run_sync
    from agentrun.steps.execution_point import current_point

    entered, leave = threading.Event(), threading.Event()

    @agentrun.tool
    def slow() -> None:
        entered.set()
        leave.wait(10)

    @agentrun.tool
    def quick() -> None: ...

    @agentrun.agent
    def run() -> str:
        line, first, second = current_point(), tool_of(slow), tool_of(quick)
        assert line is not None
        assert first is not None
        assert second is not None
        thread = threading.Thread(target=lambda: run_sync(first.perform(line, {})))
        thread.start()
        entered.wait(10)
        try:
            run_sync(second.perform(line, {}))
        except Exception as error:
            return f"a framework tells the model: {error}"
        finally:
            leave.set()
            thread.join()
        return ""

    with pytest.raises(agentrun.RunFailed, match=r"agentrun\.branch") as failed:
        run.with_options(key="k").run()
    assert isinstance(failed.value.__cause__, agentrun.ConfigError)
    assert agentrun.get("k").status() == "failed"


def test_after_an_interrupt_every_further_effect_is_refused(db: Any, world: World) -> None:
    @agentrun.tool
    def doubtful() -> None:
        world.act("doubtful")

    @agentrun.tool
    def cleanup() -> None:
        world.act("cleanup")

    @agentrun.agent
    def run() -> str:
        try:
            doubtful()
            current_context().drain()  # type: ignore[union-attr]
            doubtful()
        except BaseException:
            cleanup()
        return "as if nothing had happened"

    with pytest.raises(agentrun.RunHeld, match="handed back"):
        run.with_options(key="k").run()
    assert world.effects == ["doubtful"]
    assert agentrun.get("k").status() == "queued"


def test_except_exception_does_not_swallow_an_interrupt(db: Any, world: World) -> None:
    swallowed: list[Exception] = []

    @agentrun.tool
    def act() -> None:
        world.act("act")

    @agentrun.agent
    def run() -> None:
        act()
        current_context().drain()  # type: ignore[union-attr]
        try:
            act()
        except Exception as error:
            swallowed.append(error)

    with pytest.raises(agentrun.RunHeld, match="handed back"):
        run.with_options(key="k").run()
    assert swallowed == []
    assert world.effects == ["act"]


def test_an_accepted_divergence_keeps_what_other_tasks_of_the_same_claim_did(
    db: Any, dsn: str, world: World
) -> None:
    version, crash = [1], [True]

    @agentrun.tool
    async def act(what: str) -> str:
        world.act(what)
        return what

    async def aside(begun: asyncio.Event) -> str:
        result = await act("aside")
        begun.set()
        return result

    @agentrun.agent
    async def run() -> str:
        await act("same")
        begun = asyncio.Event()
        task = asyncio.create_task(aside(begun)) if version[0] == 2 else None
        if task is not None:
            await begun.wait()
        result = await act("one" if version[0] == 1 else "two")
        if crash[0]:
            die_recorded()
        return result + (await task if task is not None else "")

    keyed = run.with_options(key="k", on_divergence="accept")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    version[0] = 2
    killed(action)
    crash[0] = False
    assert keyed.run() == "twoaside"
    assert world.effects == ["same", "one", "aside", "two"]


def test_a_child_in_a_loop_of_its_own_does_not_shift_the_threads_after_it(
    db: Any, dsn: str, world: World
) -> None:
    """The loop ends with tasks and threads of its own, but only where the child executed in it."""
    crash = [True]

    @agentrun.tool
    def act(n: int) -> int:
        world.act(str(n))
        return n

    def in_branch(n: int) -> int:
        with agentrun.branch(f"b{n}"):
            return act(n)

    @agentrun.agent
    async def child() -> str:
        return "done"

    @agentrun.agent
    def run() -> list[int]:
        child.run()
        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(in_branch, range(3)))
        if crash[0]:
            die_recorded()
        return results

    assert crash_then_run(dsn, run.with_options(key="k"), crash) == [0, 1, 2]
    assert len(world.effects) == 3


def test_a_child_awaited_in_a_loop_of_the_agents_own_does_not_shift_the_tasks_after_it(
    db: Any, dsn: str, world: World
) -> None:
    crash = [True]

    @agentrun.tool
    async def act(n: int) -> int:
        world.act(str(n))
        return n

    @agentrun.agent
    async def child() -> str:
        return "done"

    async def main() -> list[int]:
        await child.arun()
        return await asyncio.gather(*(act(n) for n in range(3)))

    @agentrun.agent
    def run() -> list[int]:
        results = asyncio.run(main())
        thread = threading.Thread(target=lambda: results.append(asyncio.run(act(3))))
        thread.start()
        thread.join()
        if crash[0]:
            die_recorded()
        return results

    assert crash_then_run(dsn, run.with_options(key="k"), crash) == [0, 1, 2, 3]
    assert len(world.effects) == 4


def test_a_shift_in_task_numbers_does_not_repeat_what_their_branches_did(
    db: Any, dsn: str, world: World
) -> None:
    crash = [True]

    @agentrun.tool
    async def act(who: str, n: int) -> str:
        world.act(f"{who}{n}")
        return f"{who}{n}"

    async def conversation(who: str) -> list[str]:
        with agentrun.branch(who):
            return [await act(who, n) for n in range(3)]

    @agentrun.agent
    async def run() -> list[list[str]]:
        if crash[0]:
            await asyncio.create_task(asyncio.sleep(0))
        results = await asyncio.gather(conversation("a"), conversation("b"))
        if crash[0]:
            die_recorded()
        return results

    crash_then_run(dsn, run.with_options(key="k"), crash)
    assert sorted(world.effects) == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_equal_calls_of_tasks_stay_two_though_only_one_of_them_is_recorded(
    db: Any, dsn: str, world: World
) -> None:
    crash = [True]

    @agentrun.tool
    async def act() -> int:
        world.act("x")
        return len(world.effects)

    async def first() -> int:
        if not crash[0]:
            await asyncio.sleep(0.1)
        result = await act()
        if crash[0]:
            die_recorded()
        return result

    async def second() -> int:
        if crash[0]:
            await asyncio.sleep(60)
        return await act()

    @agentrun.agent
    async def run() -> list[int]:
        return await asyncio.gather(first(), second())

    assert sorted(crash_then_run(dsn, run.with_options(key="k"), crash)) == [1, 2]
    assert len(world.effects) == 2
