"""Tool calls that the code makes while it still reads the reply that asks for them.

Ollama's examples and google-genai do so. Nothing may act on a reply that is not recorded: the rest
of the reply is read and recorded first, and the reader gets it later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from crashing import World, die, die_recorded, killed

import agentrun
from agentrun.testing import Call, Fault, Provider, Reply

ASKS = Reply("I keep it.", [Call("keep", {"order": "7"})])
SCRIPT = [ASKS, "Done."]
LINES = ["I", " keep", " it.", "keep", "end", "Done.", "end"]  # what a reader sees of both replies


@pytest.fixture
def model(provider: Provider) -> Provider:
    provider.say(SCRIPT)
    return provider


def read_line(text: str) -> tuple[str, bool]:
    """What a line of the reply shows, and whether it asks for a call."""
    line = json.loads(text)
    calls = line["message"].get("tool_calls")
    if calls:
        return str(calls[0]["function"]["name"]), True
    return str(line["message"]["content"]) or "end", False


def request(provider: Provider, seen: list[str]) -> dict[str, Any]:
    """The next request; the double answers by the number of answers before."""
    before = [{"role": "assistant", "content": "…"}, {"role": "tool", "content": "kept"}]
    messages = [{"role": "user", "content": "go"}, *(before if "end" in seen else [])]
    return {
        "method": "POST",
        "url": f"{provider.url}/api/chat",
        "json": {"model": "llama3.2", "messages": messages},
    }


def make_sync_reader(provider: Provider, keep: Callable[[str], str]) -> Callable[[], list[str]]:
    """A sync loop that calls the tool as soon as its call is there."""

    def read() -> list[str]:
        seen: list[str] = []
        with agentrun.http_client() as client:
            for _ in SCRIPT:
                with client.stream(**request(provider, seen)) as reply:
                    for text in reply.iter_lines():
                        shown, asks = read_line(text)
                        seen.append(shown)
                        if asks:
                            keep("7")
        return seen

    return read


def make_async_reader(provider: Provider, keep: Callable[[str], Any]) -> Callable[[], Any]:
    """The same for async code; ``keep`` returns what is awaited."""

    async def read() -> list[str]:
        seen: list[str] = []
        async with agentrun.async_http_client() as client:
            for _ in SCRIPT:
                async with client.stream(**request(provider, seen)) as reply:
                    async for text in reply.aiter_lines():
                        shown, asks = read_line(text)
                        seen.append(shown)
                        if asks:
                            await keep("7")
        return seen

    return read


def in_another_task(keep: Any) -> Any:
    async def keep_in_task(order: str) -> None:
        await asyncio.create_task(keep(order))

    return keep_in_task


def in_a_thread(keep: Any) -> Any:
    async def keep_in_thread(order: str) -> None:
        await asyncio.to_thread(keep, order)

    return keep_in_thread


def make_agents(model: Provider, world: World, crash: list[bool]) -> dict[str, Any]:
    """An agent for each way to read a stream and to call a tool."""

    @agentrun.tool(effect="idempotent")
    def keep(order: str, idempotency_key: str = "") -> str:
        world.act(f"{order} {idempotency_key}")
        if crash[0]:
            die()
        return "kept"

    @agentrun.tool(effect="idempotent", name="keep")
    async def akeep(order: str, idempotency_key: str = "") -> str:
        world.act(f"{order} {idempotency_key}")
        if crash[0]:
            die()
        return "kept"

    readers = {
        "sync": make_sync_reader(model, keep),
        "async": make_async_reader(model, akeep),
        "task": make_async_reader(model, in_another_task(akeep)),
        "thread": make_async_reader(model, in_a_thread(keep)),
    }
    return {
        name: agentrun.agent(read, name=f"calls_in_{name}_stream") for name, read in readers.items()
    }


@pytest.mark.parametrize("way", ["sync", "async", "task", "thread"])
def test_killed_in_the_tool_it_acts_once_and_sees_the_same(
    way: str, db: Any, dsn: str, model: Provider, world: World, sql: Any
) -> None:
    crash = [True]
    agent = make_agents(model, world, crash)[way].with_options(key="k")
    killed(lambda: (agentrun.connect(dsn), agent.run()))
    crash[0] = False
    assert agent.run() == LINES
    assert model.billed() == 2
    assert len(world.effects) == 2
    assert len(set(world.effects)) == 1, "the same key"
    events = sql(
        "SELECT event, name FROM agentrun.journal WHERE name IN ('llama3.2', 'keep') ORDER BY seq"
    )
    assert events[:3] == [
        ("attempt_started", "llama3.2"),
        ("step_finished", "llama3.2"),
        ("attempt_started", "keep"),
    ]


def test_a_connection_that_is_lost_behind_the_call_is_lost_for_a_resumed_reader_too(
    db: Any, dsn: str, model: Provider, world: World
) -> None:
    model.arm(Fault.cut(4))
    keep = make_tool(world)
    crash = [True]

    @agentrun.agent
    def reader_of_a_cut_stream() -> list[str]:
        seen: list[str] = []
        with agentrun.http_client() as client:
            try:
                with client.stream(**request(model, seen)) as reply:
                    for text in reply.iter_lines():
                        shown, asks = read_line(text)
                        seen.append(shown)
                        if asks:
                            keep("7")
            except httpx2.TransportError as error:
                seen.append(type(error).__name__)
                if crash[0]:
                    die_recorded()
        return seen

    run = reader_of_a_cut_stream.with_options(key="k")
    killed(lambda: (agentrun.connect(dsn), run.run()))
    crash[0] = False
    assert run.run() == [*LINES[:4], "RemoteProtocolError"]
    assert world.effects == ["7"]
    assert model.billed() == 1


def make_tool(world: World) -> Any:
    @agentrun.tool(effect="once")
    def keep(order: str) -> str:
        world.act(order)
        return "kept"

    return keep


def test_sync_code_in_the_loop_of_the_stream_is_refused(
    db: Any, model: Provider, world: World
) -> None:
    keep = make_tool(world)

    async def call(order: str) -> None:
        with contextlib.suppress(Exception):
            keep(order)

    agent = agentrun.agent(make_async_reader(model, call), name="calls_in_its_loop")
    with pytest.raises(
        agentrun.RunFailed, match="keep: the reply that asks for this call is still"
    ):
        agent.run()
    assert world.effects == []


def test_a_stream_that_was_left_is_not_read_by_a_call_of_a_later_reply(
    db: Any, provider: Provider, world: World, sql: Any
) -> None:
    provider.say([ASKS, ASKS])
    provider.arm(Fault.hold(4))  # behind the call, so that the first stream never ends
    keep = make_tool(world)

    @agentrun.agent
    def leaves_a_stream() -> None:
        with agentrun.http_client(timeout=1) as client:
            left = client.send(client.build_request(**request(provider, [])), stream=True)
            lines = left.iter_lines()
            next(text for text in lines if read_line(text)[1])
            client.request(**request(provider, ["end"]))
            keep("7")
            left.close()

    leaves_a_stream.run()
    assert world.effects == ["7"]
    ends = sql(
        "SELECT step, status FROM agentrun.journal WHERE event = 'step_finished' ORDER BY seq"
    )
    assert ends == [(2, "ok"), (3, "ok"), (1, "abandoned")]


def test_a_call_that_the_reply_does_not_ask_for_waits_for_nothing(
    db: Any, model: Provider, world: World, sql: Any
) -> None:
    @agentrun.tool(effect="once")
    def note(order: str) -> str:
        world.act(order)
        return "noted"

    agent = agentrun.agent(make_sync_reader(model, note), name="notes_in_a_stream")
    assert agent.run() == LINES
    names = sql("SELECT name FROM agentrun.journal WHERE event = 'step_finished' ORDER BY seq")
    assert names == [("note",), ("llama3.2",), ("llama3.2",)]
