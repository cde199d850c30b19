"""Agents that yield: each item is recorded, and handed on again after a crash."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die, die_recorded, killed, until

import agentrun
from agentrun.lifecycle import generator_agents

ITEMS = ["wrote 0", "wrote 1", "wrote 2", "end"]


class Office:
    world: World
    at: int | None = None  # the item after which the process dies


@agentrun.tool
def write(n: int) -> str:
    Office.world.act(f"{n}")
    return f"wrote {n}"


@agentrun.tool
async def awrite(n: int) -> str:
    Office.world.act(f"{n}")
    return f"wrote {n}"


@agentrun.agent
def writer(count: int) -> Iterator[str]:
    for n in range(count):
        yield write(n)
        if Office.at == n:
            die_recorded()
    yield "end"


@agentrun.agent
async def awriter(count: int) -> AsyncIterator[str]:
    for n in range(count):
        yield await awrite(n)
        if Office.at == n:
            die_recorded()
    yield "end"


@agentrun.agent
def reads_on(count: int) -> list[str]:
    """A run whose child yields, beside its own steps."""
    return [item + str(agentrun.rng().random() < 2)[:0] for item in writer.stream(count)]


async def collected(key: str) -> list[str]:
    return [item async for item in awriter.with_options(key=key).astream(3)]


async def awaited(key: str) -> list[str]:
    return await awriter.with_options(key=key).arun(3)


WAYS: dict[str, Any] = {
    "for": lambda key: list(writer.with_options(key=key).stream(3)),
    "for, of an async one": lambda key: list(awriter.with_options(key=key).stream(3)),
    "async for": lambda key: asyncio.run(collected(key)),
    "run": lambda key: writer.with_options(key=key).run(3),
    "run, of an async one": lambda key: awriter.with_options(key=key).run(3),
    "await": lambda key: asyncio.run(awaited(key)),
    "inside a run": lambda key: reads_on.with_options(key=key).run(3),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_kill_after_each_item_repeats_no_effect_and_no_item_is_lost(
    way: str, db: Any, dsn: str, tmp_path: Path
) -> None:
    for at in range(3):
        Office.world, Office.at = World(tmp_path / f"effects {at}"), at
        killed(lambda key=f"k{at}": (agentrun.connect(dsn), WAYS[way](key)))  # type: ignore[misc]
        Office.at = None
        assert WAYS[way](f"k{at}") == ITEMS
        assert Office.world.effects == ["0", "1", "2"]
        assert WAYS[way](f"k{at}") == ITEMS  # from the journal
        assert Office.world.effects == ["0", "1", "2"]


def test_each_item_is_durable_before_it_is_handed_on(db: Any, tmp_path: Path) -> None:
    Office.world = World(tmp_path / "effects")
    seen = []
    for item in writer.with_options(key="k").stream(2):
        seen.append(item)
        yields = [step for step in agentrun.transcript("k").steps if step.name == "yield"]
        assert [step.output for step in yields] == seen
    assert seen == ["wrote 0", "wrote 1", "end"]


@agentrun.agent
def draws() -> Iterator[float]:
    yield random.random()


@agentrun.agent
async def adraws() -> AsyncIterator[float]:
    yield random.random()


@pytest.mark.parametrize("agent", [draws, adraws])
def test_an_item_that_was_handed_on_is_what_another_process_hands_on(
    agent: Any, db: Any, dsn: str, tmp_path: Path
) -> None:
    """The reader dies as soon as it has the item: so it was durable by then."""
    seen = tmp_path / "seen"

    def action() -> None:
        agentrun.connect(dsn)
        for item in agent.with_options(key="k").stream():
            seen.write_text(repr(item))
            die()

    killed(action)
    assert [repr(item) for item in agent.with_options(key="k").stream()] == [seen.read_text()]


def test_a_reader_that_stops_hands_the_run_back_and_nothing_further_happens(
    db: Any, tmp_path: Path
) -> None:
    Office.world = World(tmp_path / "effects")
    items = writer.with_options(key="k").stream(3)
    assert next(items) == "wrote 0"
    items.close()
    until(lambda: agentrun.get("k").status() == "queued")
    assert Office.world.effects == ["0"]
    assert list(writer.with_options(key="k").stream(3)) == ITEMS
    assert Office.world.effects == ["0", "1", "2"]

    async def reads_one() -> None:
        items = awriter.with_options(key="a").astream(3)
        assert await anext(items) == "wrote 0"
        await items.aclose()

    asyncio.run(reads_one())
    assert agentrun.get("a").status() == "queued"
    assert asyncio.run(collected("a")) == ITEMS


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_reader_reads_on_after_a_wait_for_a_person(db: Any, way: str) -> None:
    """Item by item, each once, and nothing happens that is not asked for."""
    begun: list[int] = []

    @agentrun.tool(approve=True)
    def pay() -> str:
        return "paid"

    @agentrun.agent
    def paying() -> Iterator[str]:
        yield "first"
        yield pay()
        begun.append(1)
        yield "last"

    @agentrun.agent
    async def apaying() -> AsyncIterator[str]:
        for item in ("first", pay):
            yield item() if callable(item) else item
        begun.append(1)
        yield "last"

    made: Any = paying if way == "sync" else apaying
    items: Any = made.with_options(key="k", on_held="wait").stream()
    assert next(items) == "first"

    def approve() -> None:
        until(lambda: agentrun.get("k").status() == "held")
        agentrun.approve("k", 2)

    approving = threading.Thread(target=approve)
    approving.start()
    assert next(items) == "paid"
    approving.join()
    assert begun == []
    items.close()
    until(lambda: agentrun.get("k").status() == "queued")
    assert begun == []
    assert list(made.with_options(key="k").stream()) == ["first", "paid", "last"]


def test_the_run_exists_before_its_first_item_is_asked_for(db: Any, tmp_path: Path) -> None:
    Office.world = World(tmp_path / "effects")
    items = writer.with_options(key="k").stream(3)
    assert agentrun.transcript("k").input == {"count": 3}
    with pytest.raises(agentrun.RunConflict):
        writer.with_options(key="k").stream(4)
    for made in (writer.stream, awriter.stream, awriter.astream, awriter.arun):
        with pytest.raises(agentrun.ConfigError, match="not valid"):
            made("many")  # type: ignore[operator]
    assert Office.world.effects == []
    assert list(items) == ITEMS
    assert writer.with_options(key="k").run(3) == ITEMS
    assert len(list(writer.stream(1))) == 2, "without a key, too"
    assert len(agentrun.runs()) == 2


def test_an_error_comes_after_the_items_before_it(db: Any) -> None:
    @agentrun.agent
    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    items = fails.with_options(key="k").stream()
    assert next(items) == 1
    for again in (items, fails.with_options(key="k").stream()):  # it is not executed again
        with pytest.raises(agentrun.RunFailed, match="no more"):
            next(again)
    with pytest.raises(agentrun.ConfigError, match="an event loop is running"):
        asyncio.run(_runs_async_agent_inside_a_loop())


async def _runs_async_agent_inside_a_loop() -> None:
    awriter.stream(1)


def test_a_worker_executes_it_and_the_result_is_the_list(db: Any, tmp_path: Path) -> None:
    Office.world = World(tmp_path / "effects")
    handles = [writer.submit(3), awriter.submit(3)]
    with agentrun.Worker([writer, awriter]):
        assert [handle.result(timeout=60) for handle in handles] == [ITEMS, ITEMS]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_second_reader_is_refused_and_does_not_wait_for_ever(db: Any, way: str) -> None:
    Office.at = None
    release = threading.Event()

    @agentrun.agent
    def slow() -> Iterator[int]:
        release.wait(30)
        yield 1

    @agentrun.agent
    async def aslow() -> AsyncIterator[int]:
        await asyncio.to_thread(release.wait, 30)
        yield 1

    async def atwo() -> list[Any]:
        items = aslow.astream()
        first = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task or thread waits"):
            await asyncio.wait_for(anext(items), 10)
        release.set()
        return [await first, *[item async for item in items]]

    def two() -> list[Any]:
        items = slow.stream()
        answers: list[Any] = []

        def read() -> None:
            try:
                answers.append(next(items))
            except RuntimeError as error:
                answers.append(str(error))

        for _ in range(2):  # in threads that nobody has to wait for
            threading.Thread(target=read, daemon=True).start()
        until(lambda: bool(answers))
        assert "another task or thread waits" in answers.pop()
        release.set()
        until(lambda: bool(answers))
        return [*answers, *items]

    assert (two() if way == "sync" else asyncio.run(atwo())) == [1]


def test_a_reader_may_be_collected_while_the_run_hands_an_item_on(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python collects cycles wherever it makes an object, in whichever thread."""
    made, dropped = threading.Event(), threading.Event()

    @agentrun.agent
    def counting() -> Iterator[int]:
        for n in range(10):
            if n == 1:
                made.set()
                dropped.wait(30)
            yield n

    class Collecting(generator_agents.Future):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__()
            if dropped.is_set():
                gc.collect()

    items: Any = counting.with_options(key="k").stream()
    assert next(items) == 0
    items._hand.ask()
    made.wait(30)
    monkeypatch.setattr(generator_agents, "Future", Collecting)
    gc.disable()
    try:
        items.itself = items
        del items
        dropped.set()
        until(lambda: agentrun.get("k").status() == "queued")
    finally:
        gc.enable()
