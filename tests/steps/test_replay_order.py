"""Concurrent tasks get their recorded outcomes in the order in which they got them live."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from crashing import World, die_once, die_recorded
from openai import AsyncOpenAI

import agentrun
from agentrun.steps.replay_order import ReplayOrder
from agentrun.testing import Provider, Reply, Rule

DELAYS = {"a": 0.3, "b": 0.1, "c": 0.2}


@agentrun.tool(effect="idempotent")
async def look_up(name: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return name


async def as_completed() -> list[str]:
    calls = [look_up(name, seconds) for name, seconds in DELAYS.items()]
    return [await call for call in asyncio.as_completed(calls)]


async def through_a_queue() -> list[str]:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def work(name: str, seconds: float) -> None:
        await queue.put(await look_up(name, seconds))

    async with asyncio.TaskGroup() as group:
        for name, seconds in DELAYS.items():
            group.create_task(work(name, seconds))
        return [await queue.get() for _ in DELAYS]


async def in_a_list() -> list[str]:
    got: list[str] = []

    async def work(name: str, seconds: float) -> None:
        found = await look_up(name, seconds)
        for _ in range(6 if name == "b" else 0):
            await asyncio.sleep(0)  # as code that hands the result on to another task
        got.append(found)

    async with asyncio.TaskGroup() as group:
        for name, seconds in DELAYS.items():
            group.create_task(work(name, seconds))
    return got


@pytest.mark.parametrize("gather", [as_completed, through_a_queue, in_a_list])
def test_results_come_in_the_order_in_which_they_came(
    world: World, resumed: Any, gather: Callable[[], Awaitable[list[str]]]
) -> None:
    @agentrun.agent(name=f"collector {gather.__name__}")
    async def collector() -> list[str]:
        got = await gather()
        world.act(" ".join(got))
        die_once(str(world.path))
        return got

    assert resumed(collector) == ["b", "c", "a"]
    assert world.effects == ["b c a", "died", "b c a"]


def test_replies_come_in_the_order_in_which_they_came(
    provider: Provider, world: World, resumed: Any
) -> None:
    rules = [
        Rule({"contains": f"letter {name}"}, Reply(name * size, delay_s=seconds * 3))
        for (name, seconds), size in zip(DELAYS.items(), (1, 1_000_000, 1), strict=True)
    ]
    provider.say([], rules)

    @agentrun.agent
    async def reader() -> list[str]:
        async with AsyncOpenAI(base_url=provider.base_url, api_key="k") as opened:
            client = agentrun.wrap(opened)

            async def ask(name: str) -> str:
                with agentrun.branch(name):
                    reply = await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": f"letter {name}"}]
                    )
                return str(reply.choices[0].message.content)[:1]

            calls = [ask(name) for name in DELAYS]
            got = [await call for call in asyncio.as_completed(calls)]
        die_once(str(world.path))
        return got

    assert resumed(reader) == ["b", "c", "a"]
    assert len(provider.ledger()) == 3


@pytest.mark.parametrize("seed", range(4))
def test_any_tasks_take_turns_as_before(world: World, resumed: Any, seed: int) -> None:
    drawn = random.Random(seed)
    plans = [[drawn.choice((0.0, 0.01, 0.02, 0.05)) for _ in range(6)] for _ in range(8)]

    @agentrun.agent
    async def team() -> list[str]:
        got: list[str] = []

        async def work(number: int, plan: list[float]) -> None:
            for at, seconds in enumerate(plan):
                got.append(await look_up(f"{number}.{at}", seconds))

        async with asyncio.TaskGroup() as group:
            for number, plan in enumerate(plans):
                group.create_task(work(number, plan))
        world.act(" ".join(got))
        die_once(str(world.path))
        return got

    got = resumed(team)
    before, _, after = world.effects
    assert before == after == " ".join(got)


@pytest.mark.parametrize("seed", range(4))
def test_killed_half_way_the_recorded_turns_come_first(
    world: World, resumed: Any, seed: int
) -> None:
    drawn = random.Random(seed)
    plans = [[drawn.choice((0.0, 0.01, 0.02, 0.05)) for _ in range(6)] for _ in range(8)]
    fatal = drawn.randrange(10, 40)

    @agentrun.tool(effect="idempotent")
    async def two_looks(name: str, seconds: float) -> str:
        return await look_up(f"{name}a", seconds) + await look_up(f"{name}b", seconds)

    @agentrun.agent
    async def crew() -> list[str]:
        first = not world.effects
        got: list[str] = []

        async def work(number: int, plan: list[float]) -> None:
            look = two_looks if number % 2 else look_up
            for at, seconds in enumerate(plan):
                got.append(await look(f"{number}.{at}", seconds))
                if first:
                    world.act(got[-1])
                if first and len(got) == fatal:
                    die_recorded()

        async with asyncio.TaskGroup() as group:
            for number, plan in enumerate(plans):
                group.create_task(work(number, plan))
        return got

    got = resumed(crew)
    assert got[:fatal] == world.effects


def test_an_outcome_that_is_not_asked_for_holds_nobody_up_for_long(
    world: World, resumed: Any
) -> None:
    @agentrun.agent
    async def distracted() -> float:
        first = "died" not in world.effects

        asks: asyncio.Queue[int] = asyncio.Queue()
        answers: asyncio.Queue[str] = asyncio.Queue()

        async def watch() -> None:
            while True:
                answers.put_nowait(await look_up(f"watch {await asks.get()}", 0.0))

        watching = asyncio.create_task(watch())
        began = time.monotonic()
        for number in range(100):
            if first:
                asks.put_nowait(number)
                await answers.get()
            await look_up(f"main {number}", 0.0)
        took = time.monotonic() - began
        die_once(str(world.path))
        watching.cancel()
        return took

    assert resumed(distracted) < 4.0


def test_sequential_code_never_waits(
    world: World, resumed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    wait = ReplayOrder.wait

    async def noted(order: ReplayOrder, step: Any, me: Any) -> None:
        waits.append(step.ident)
        await wait(order, step, me)

    monkeypatch.setattr(ReplayOrder, "wait", noted)

    @agentrun.tool(effect="idempotent")
    async def outer(number: int) -> str:
        return await look_up(f"inner {number}", 0.0)

    @agentrun.agent
    async def sequence() -> list[str]:
        got = [await outer(number) for number in range(5)]
        agentrun.now()
        die_once(str(world.path))
        return got

    assert resumed(sequence) == [f"inner {number}" for number in range(5)]
    assert waits == []
