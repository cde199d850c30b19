"""Async agents that sync code runs: on one event loop for all threads."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crashing import in_child, until
from openai import AsyncOpenAI

import agentrun
from agentrun.steps.execution_point import current_context
from agentrun.testing import Provider


def test_threads_and_the_main_thread_share_an_async_client(db: Any) -> None:
    with Provider(script=["because"]) as provider:
        client = agentrun.wrap(AsyncOpenAI(base_url=provider.base_url, api_key="k"))

        @agentrun.agent
        async def ask(question: str) -> str:
            reply = await client.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": question}]
            )
            return str(reply.choices[0].message.content)

        @agentrun.agent
        async def close() -> None:
            await client.close()

        found = []
        for number in range(4):  # one after the other, each in a thread that then ends
            thread = threading.Thread(target=lambda: found.append(ask.run("why")))
            thread.start()
            thread.join()
            found.append(ask.run(f"why {number}"))
        with ThreadPoolExecutor(4) as pool:
            found += pool.map(ask.run, ["a", "b", "c", "d"])
        close.run()
    assert found == ["because"] * 12


def test_an_exit_of_one_run_ends_no_other(db: Any) -> None:
    entered, leave = threading.Event(), threading.Event()

    @agentrun.agent
    async def waits() -> str:
        entered.set()
        while not leave.is_set():
            await asyncio.sleep(0.01)
        return "done"

    @agentrun.agent
    async def exits() -> None:
        async def leaves() -> None:
            raise SystemExit(3)

        await asyncio.gather(leaves())

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waits.run)
        entered.wait(30)
        with pytest.raises(SystemExit):
            exits.run()
        leave.set()
        assert waiting.result(timeout=30) == "done"


def test_what_an_agent_leaves_running_ends_with_it_and_nothing_else_does(db: Any) -> None:
    ended: list[str] = []

    async def lingers(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    @agentrun.agent
    async def begins(name: str) -> None:
        current_context()
        begun.append(asyncio.create_task(lingers(name)))
        await asyncio.sleep(0)
        if name == "outer":
            await asyncio.to_thread(begins_inside)

    def begins_inside() -> None:
        with agentrun.steps.execution_point.at_point(None):
            begins.run("inner")
        assert ended == ["inner"]

    begun: list[Any] = []
    begins.run("outer")
    assert ended == ["inner", "outer"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_hands_the_run_back(db: Any, dsn: str, number: signal.Signals) -> None:
    """The child's main thread waits for the loop, and the signal reaches the agent there."""

    @agentrun.tool
    async def begin() -> None: ...

    @agentrun.tool
    async def end() -> None: ...

    @agentrun.agent
    async def works(kill: bool) -> str:
        await begin()
        if killing[0]:
            os.kill(os.getpid(), number)
            while not current_context().draining:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)  # Ctrl-C cancels this
        await end()
        return "done"

    def action() -> None:
        agentrun.connect(dsn)
        try:
            works.with_options(key="k").run(True)
        except KeyboardInterrupt:
            os._exit(130)
        except SystemExit as stopped:
            os._exit(int(str(stopped.code)))

    killing = [True]
    assert in_child(action) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert agentrun.get("k").status() == "queued"
    killing[0] = False
    until(lambda: works.with_options(key="k").run(True) == "done")
    names = [step.name for step in agentrun.transcript("k").steps]
    assert names == ["begin", "end"]
