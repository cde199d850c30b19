"""A step that the agent cancels, and goes on from: recorded, so that a resume does the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from concurrent import futures
from typing import Any

import pytest
from crashing import World, die, die_once, in_child, killed
from openai import AsyncOpenAI

import agentrun
from agentrun.core import points
from agentrun.testing import Provider, Reply, Rule

CANCELLED_ERRORS = (asyncio.CancelledError, futures.CancelledError)
PATIENCE = 2.0  # seconds; a busy machine has sent its request by then


def test_a_model_call_given_up_is_not_asked_again(
    provider: Provider, world: World, resumed: Any, events: Any, sql: Any
) -> None:
    slow = Rule({"contains": "think"}, Reply("deep", delay_s=30))
    provider.say(["quick"], [slow])

    @agentrun.agent
    async def impatient() -> str:
        async with AsyncOpenAI(base_url=provider.base_url, api_key="k") as opened:
            client = agentrun.wrap(opened)

            async def ask(text: str) -> str:
                reply = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": text}]
                )
                return str(reply.choices[0].message.content)

            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await ask("think hard")
            except TimeoutError:
                answer = await ask("be quick")
            die_once(str(world.path))
            return answer

    assert resumed(impatient) == "quick"
    asked = [entry for entry in provider.ledger() if "think hard" in str(entry.body)]
    assert len(asked) == 1, "the call that the agent gave up was made again"
    assert provider.billed() <= 2
    outcomes = [e.status for e in events("k") if e.event == "step_finished" and e.kind == "model"]
    assert outcomes == ["cancelled", "ok"]
    first = agentrun.transcript("k").steps[0]
    assert (first.status, first.possibly_billed) == ("cancelled", 1)


@pytest.mark.parametrize("effect", ["read", "idempotent", "once", "transaction"])
def test_a_tool_given_up_is_not_performed_again(
    world: World, resumed: Any, events: Any, effect: Any
) -> None:
    @agentrun.tool(effect=effect)
    async def dawdle() -> str:
        world.act("began")
        await asyncio.sleep(30)
        return "at last"

    @agentrun.agent
    async def impatient() -> str:
        try:
            answer = await asyncio.wait_for(dawdle(), PATIENCE)
        except TimeoutError:
            answer = "gave up"
        die_once(str(world.path))
        return answer

    assert resumed(impatient) == "gave up"
    assert world.effects == ["began", "died"]
    tools = [e.status for e in events("k") if e.event == "step_finished" and e.kind == "tool"]
    assert tools == ["cancelled"]


@pytest.mark.parametrize("effect", ["idempotent", "once", "transaction"])
def test_killed_before_the_giving_up_is_on_disk_it_is_as_if_killed_in_the_effect(
    db: Any, dsn: str, world: World, effect: Any
) -> None:
    def find(key: str) -> agentrun.NotHappened:
        world.act(f"asked for {key}")
        return agentrun.NotHappened()

    @agentrun.tool(effect=effect, reconcile=find if effect == "once" else None)
    async def dawdle(idempotency_key: str = "") -> str:
        world.act(f"began {idempotency_key}")
        await asyncio.sleep(30)
        return "at last"

    @agentrun.step(effect="idempotent")
    async def next_step() -> None: ...

    fatal = [True]

    @agentrun.agent
    async def impatient() -> str:
        try:
            await asyncio.wait_for(dawdle(), PATIENCE)
        except TimeoutError:
            if fatal[0]:
                points.arm(lambda point: die() if point == "append:before" else None)
            await next_step()
        return "gave up"

    keyed = impatient.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    fatal[0] = False
    assert keyed.run() == "gave up"
    began = [line for line in world.effects if line.startswith("began")]
    assert len(began) == 2
    assert len(set(began)) == 1, "another attempt has the same key"
    asked = [line for line in world.effects if line.startswith("asked")]
    assert len(asked) == (effect == "once"), "a `once` effect is not repeated unasked"


def test_of_two_calls_the_slower_is_given_up_again(world: World, resumed: Any) -> None:
    @agentrun.tool
    async def race(seconds: float) -> float:
        world.act(f"began {seconds}")
        await asyncio.sleep(seconds)
        return seconds

    @agentrun.agent
    async def first_of_two() -> float:
        tasks = [asyncio.create_task(race(seconds)) for seconds in (0.1, 30.0)]
        done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        die_once(str(world.path))
        return done.pop().result()

    assert resumed(first_of_two) == 0.1
    assert sorted(world.effects) == ["began 0.1", "began 30.0", "died"]


def test_a_signal_not_waited_for_any_longer(world: World, resumed: Any) -> None:
    @agentrun.agent
    async def listener() -> str:
        try:
            async with asyncio.timeout(PATIENCE):
                await agentrun.areceive("news")
        except TimeoutError:
            pass
        die_once(str(world.path))
        return "no news"

    assert resumed(listener) == "no news"


def test_a_run_that_is_itself_cancelled_records_nothing_of_the_kind(
    db: Any, world: World, events: Any
) -> None:
    begun = asyncio.Event()

    @agentrun.tool(effect="idempotent")
    async def dawdle() -> str:
        world.act("began")
        begun.set()
        await asyncio.sleep(0 if len(world.effects) > 1 else 30)
        return "done"

    @agentrun.tool(effect="read")
    async def tidy() -> None: ...

    @agentrun.agent
    async def work() -> str:
        try:
            return await dawdle()
        finally:
            await tidy()

    async def give_up() -> None:
        running = asyncio.create_task(work.with_options(key="k").arun())
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(give_up())
    assert "cancelled" not in [event.status for event in events("k")]
    assert work.with_options(key="k").run() == "done"


@pytest.mark.parametrize("effect", ["read", "idempotent", "once", "transaction"])
def test_a_body_that_raises_the_cancellation_itself_raises_it_again(
    world: World, resumed: Any, events: Any, effect: Any
) -> None:
    @agentrun.tool(effect=effect)
    async def give_up_inside() -> str:
        world.act("began")
        inner = asyncio.create_task(asyncio.sleep(30))
        inner.cancel("enough")
        await inner
        return "at last"

    @agentrun.agent
    async def stoic() -> str:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(10):  # else a defect would hang here
                answer = await give_up_inside()
        except asyncio.CancelledError as error:
            answer = f"{type(error).__name__} {error} {task.cancelling()}"
        die_once(str(world.path))
        return answer

    assert resumed(stoic) == "CancelledError enough 0"
    assert world.effects == ["began", "died"]
    assert next(e.status for e in events("k") if e.event == "step_finished") == "error"


def test_sync_code_raises_both_cancellations_again(world: World, resumed: Any) -> None:
    @agentrun.tool(effect="once")
    def of_a_loop() -> None:
        world.act("loop")

        async def work() -> None:
            inner = asyncio.create_task(asyncio.sleep(30))
            inner.cancel()
            await inner

        asyncio.run(work())

    @agentrun.tool(effect="once")
    def of_a_pool() -> None:
        world.act("pool")
        future: futures.Future[None] = futures.Future()
        future.cancel()
        future.result()

    @agentrun.agent
    def stolid() -> list[str]:
        seen = []
        for tool in (of_a_loop, of_a_pool):
            try:
                tool()
            except (asyncio.CancelledError, futures.CancelledError) as error:
                seen.append(f"{type(error).__module__}.{type(error).__name__}")
        die_once(str(world.path))
        return seen

    named = [f"{kind.__module__}.{kind.__name__}" for kind in CANCELLED_ERRORS]
    assert resumed(stolid) == named
    assert world.effects == ["loop", "pool", "died"]


def test_a_step_is_cancelled_that_begins_in_a_task_that_cancelled_itself(
    world: World, resumed: Any, events: Any
) -> None:
    @agentrun.tool(effect="read")  # it has no intent to wait for before its body
    async def linger() -> str:
        world.act("began")
        await asyncio.sleep(30)
        return "at last"

    async def work() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # it comes at the next `await` that waits, which is the step's
        return await linger()

    @agentrun.agent
    async def patient() -> str:
        done = await asyncio.gather(work(), return_exceptions=True)
        die_once(str(world.path))
        return type(done[0]).__name__

    assert resumed(patient) == "CancelledError"
    assert "error" not in [e.status for e in events("k") if e.event == "step_finished"]


def test_sigterm_ends_the_wait_for_a_cancellation(db: Any, dsn: str, world: World) -> None:
    patience = [0.2]

    @agentrun.tool(effect="read")
    async def idle() -> None:
        await asyncio.sleep(60)

    @agentrun.agent
    async def changed() -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(idle(), patience[0])
        die_once(str(world.path))
        return "done"

    keyed = changed.with_options(key="k")

    def run() -> None:
        agentrun.connect(dsn)
        keyed.run()

    def run_and_terminate() -> None:
        signal.alarm(20)  # ends the child if SIGTERM does not
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        run()

    killed(run)
    patience[0] = 60.0
    assert in_child(run_and_terminate) == 128 + signal.SIGTERM
    patience[0] = 0.2
    assert keyed.run() == "done"
