"""A refusal of ours in the agent's own code is an Interrupt: no `except Exception` eats it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import agentrun
from agentrun.core.events import Event, Usage
from agentrun.steps.execution_point import current_context

ASKS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "act", "arguments": '{"n": 1}'}}
    ],
}
acted: list[int] = []


@pytest.fixture(autouse=True)
def nothing_acted() -> None:
    acted.clear()


@agentrun.tool
def act(n: int) -> str:
    acted.append(n)
    return "acted"


@agentrun.tool(name="act")
async def aact(n: int) -> str:
    return act.function(n)


@agentrun.tool(name="act", masked=("n",))
def secretly(n: int) -> int:
    return n


@agentrun.tool(effect="transaction")
def commits() -> None:
    with suppress(Exception):
        agentrun.current_step().connection.rollback()


@agentrun.agent
async def thinks() -> int:
    return 1


class Desk:
    @agentrun.tool
    def look(self) -> int:
        return 1


def inside_a_loop() -> Any:
    async def runs() -> int:
        return thinks.run()

    return asyncio.run(runs())


REFUSED: dict[str, Callable[[], Any]] = {
    "use `await acall_tools": lambda: agentrun.call_tools(ASKS, [aact]),
    "not str": lambda: agentrun.call_tools("act!", [act]),
    "is not a tool": lambda: agentrun.call_tools(ASKS, [print]),  # type: ignore[list-item]
    "two tools are named 'act'": lambda: agentrun.call_tools(ASKS, [act, aact]),
    "its object is missing": lambda: agentrun.call_tools(ASKS, [Desk.look]),
    "declare it as str": lambda: agentrun.call_tools(ASKS, [secretly]),
    "give a whole number above 0": lambda: agentrun.call_tools(ASKS, [act], max_calls=0),
    "there is no such API": lambda: agentrun.schemas(act, api="grpc"),  # type: ignore[call-overload]
    "must not commit or roll back": commits,
    "an event loop is running": inside_a_loop,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_in_a_run_fails_it_whatever_its_code_catches(what: str, db: Any) -> None:
    @agentrun.agent
    def agent() -> str:
        for _ in range(2):
            with suppress(Exception):
                REFUSED[what]()
        act(2)
        return "went on"

    with pytest.raises(agentrun.RunFailed, match=what) as failed:
        agent.with_options(key="k").run()
    assert isinstance(failed.value.__cause__, agentrun.ConfigError)
    assert acted == []
    assert agentrun.get("k").status() == "failed"


@pytest.mark.parametrize("what", [one for one in REFUSED if one != "must not commit or roll back"])
def test_outside_a_run_it_is_an_ordinary_error(what: str, db: Any) -> None:
    with pytest.raises(agentrun.ConfigError, match=what):
        REFUSED[what]()


def test_a_cancelled_step_that_sync_code_asks_for_is_refused(db: Any) -> None:
    @agentrun.agent(name="sleeper")
    async def awaits() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await agentrun.asleep(60)
        await aact(1)
        raise ValueError

    with pytest.raises(agentrun.RunFailed):
        awaits.with_options(key="k").run()

    @agentrun.agent(name="sleeper")
    def blocks() -> str:
        with suppress(Exception):
            agentrun.sleep(60)
        act(2)
        return "went on"

    with pytest.raises(agentrun.RunFailed, match="is now called in sync code"):
        agentrun.resume("k")
    assert acted == [1]


def test_a_forked_child_is_refused_whatever_its_code_catches(db: Any) -> None:
    """What a child that was forked in a run asks for; 0 would be that it went on."""

    def in_child(call: Callable[[], Any]) -> int:
        if (pid := os.fork()) == 0:
            code = 0
            try:
                with suppress(Exception):
                    call()
            except agentrun.Interrupt as error:
                code = 7 if "forked" in str(error) else 8
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    asked: list[Callable[[], Any]] = [
        lambda: act(2), agentrun.now, lambda: agentrun.sleep(0), lambda: thinks.run(),
        lambda: agentrun.call_tools("act!", [act]), lambda: agentrun.send("k", "hello"),
    ]  # fmt: skip

    @agentrun.agent
    def agent() -> list[int]:
        act(1)
        return [in_child(call) for call in asked]

    assert agent.with_options(key="k").run() == [7] * len(asked)
    assert acted == [1]


def refused_by_the_database() -> None:
    """Record what no row can hold: the database refuses the run's events from here on."""
    run: Any = current_context()
    run.append(Event(event="received", usage=Usage(input_tokens=1 << 40)))


def closed() -> None:
    current_context().database.writer._fail_pending(  # type: ignore[union-attr]
        agentrun.StoreError("the journal writer has stopped in this process")
    )


@pytest.mark.parametrize("lose", [refused_by_the_database, closed])
@pytest.mark.parametrize("way", ["sync", "async", "child"])
def test_a_database_that_fails_the_run_ends_it_whatever_its_code_catches(
    lose: Callable[[], None], way: str, db: Any, caplog: Any
) -> None:
    went_on: list[str] = []

    @agentrun.agent
    def agent() -> str:
        act(1)
        lose()
        for n in (2, 3):
            with suppress(Exception):
                act(n)
        went_on.append("agent")
        return "went on"

    @agentrun.agent
    async def aagent() -> str:
        await aact(1)
        lose()
        for n in (2, 3):
            with suppress(Exception):
                await aact(n)
        went_on.append("async")
        return "went on"

    @agentrun.agent
    def parent() -> str:
        with suppress(Exception):
            agent()
        went_on.append("parent")
        return "went on"

    run: Any = {"sync": agent, "async": aagent, "child": parent}[way]
    with pytest.raises(agentrun.StoreError, match=r"cannot be stored|has stopped"):
        run.with_options(key="k").run()
    assert acted == [1]
    assert went_on == []
