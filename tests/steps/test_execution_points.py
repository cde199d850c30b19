"""Lines of control that frameworks make: each is found again after a kill, whoever carries it.

Each shape has two lines at once, of two `once` steps each. It is killed at each effect in turn, and
resumed; a reconcile function knows what happened. So each effect is there exactly once.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die, killed
from openai import AsyncOpenAI

import agentrun
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply

DOCS = ("a1", "a2", "b1", "b2")
INDEXED = [f"indexed {doc}" for doc in DOCS]


class Office:
    """The effects of one run, and when its process dies: at that many effects."""

    world: World
    at: int = 0


def happened(key: str, doc: str) -> agentrun.Happened | agentrun.NotHappened:
    done = f"{doc} {key}" in Office.world.effects
    return agentrun.Happened(f"indexed {doc}") if done else agentrun.NotHappened()


def act(doc: str) -> str:
    Office.world.act(f"{doc} {agentrun.current_step().key}")
    if Office.at and len(Office.world.effects) >= Office.at:
        die()
    return f"indexed {doc}"


@agentrun.step(effect="once", reconcile=happened)
def index(doc: str) -> str:
    return act(doc)


@agentrun.step(effect="once", reconcile=happened)
async def aindex(doc: str) -> str:
    await asyncio.sleep(0)
    return act(doc)


def pair(name: str) -> list[str]:
    return [index(f"{name}1"), index(f"{name}2")]


async def apair(name: str) -> list[str]:
    return [await aindex(f"{name}1"), await aindex(f"{name}2")]


async def hybrid(name: str) -> list[str]:
    return [await asyncio.to_thread(index, f"{name}{number}") for number in (1, 2)]


# -- the shapes ------------------------------------------------------------------------------------


def flat(lists: Iterable[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(lists))


def pooled(workers: int) -> list[str]:
    with ThreadPoolExecutor(workers) as pool:
        ran = [pool.submit(contextvars.copy_context().run, pair, name) for name in "ab"]
        return flat(one.result() for one in ran)


def mapped() -> list[str]:
    """What LangChain's ContextThreadPoolExecutor does."""
    contexts = [contextvars.copy_context() for _ in "ab"]
    with ThreadPoolExecutor(2) as pool:
        return flat(pool.map(lambda name: contexts.pop().run(pair, name), "ab"))


def threads() -> list[str]:
    found: dict[str, list[str]] = {}
    started = []
    for name in "ab":
        context = contextvars.copy_context()

        def run(name: str = name, context: contextvars.Context = context) -> None:
            found[name] = context.run(pair, name)

        started.append(threading.Thread(target=run))
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return found["a"] + found["b"]


async def gathered(work: Callable[[str], Any]) -> list[str]:
    return flat(await asyncio.gather(work("a"), work("b")))


async def any_threads() -> list[str]:
    import anyio.to_thread

    async def work(name: str) -> list[str]:
        return await anyio.to_thread.run_sync(pair, name)

    return await gathered(work)


def own_loop_of_a_thread() -> list[str]:
    """As pydantic-ai's and openai-agents' sync calls do where a loop runs already."""
    with ThreadPoolExecutor(1) as pool:
        context = contextvars.copy_context()
        return pool.submit(context.run, asyncio.run, gathered(apair)).result()


def parallel() -> list[str]:
    from langchain_core.runnables import RunnableLambda, RunnableParallel

    both = RunnableParallel({name: RunnableLambda(lambda _, n=name: pair(n)) for name in "ab"})
    found = both.invoke("")
    return found["a"] + found["b"]


def batch() -> list[str]:
    from langchain_core.runnables import RunnableLambda

    return flat(RunnableLambda(pair).batch(["a", "b"]))


def graph(node: Callable[[str], Any]) -> Any:
    import operator
    from typing import Annotated, TypedDict

    from langgraph.graph import END, START, StateGraph

    state: Any = TypedDict("state", {"out": Annotated[list, operator.add]})  # type: ignore[operator]
    made = StateGraph(state)
    for name in "ab":
        made.add_node(name, node(name))
        made.add_edge(START, name)
        made.add_edge(name, END)
    return made.compile()


def fan_out() -> list[str]:
    found = graph(lambda name: lambda _: {"out": pair(name)}).invoke({"out": []})
    return list(found["out"])


async def afan_out(work: Callable[[str], Any]) -> list[str]:
    def node(name: str) -> Any:
        async def run(_: Any) -> dict[str, Any]:
            return {"out": await work(name)}

        return run

    return list((await graph(node).ainvoke({"out": []}))["out"])


SHAPES: dict[str, Callable[[], Any]] = {
    "a pool that carries contexts": lambda: pooled(2),
    "a pool of one thread that carries contexts": lambda: pooled(1),
    "a map that carries contexts": mapped,
    "threads that carry contexts": threads,
    "a loop of the agent's own": lambda: asyncio.run(gathered(apair)),
    "threads of a loop of the agent's own": lambda: asyncio.run(gathered(hybrid)),
    "a loop in a thread of a pool": own_loop_of_a_thread,
    "LangChain's RunnableParallel": parallel,
    "LangChain's batch": batch,
    "LangGraph's nodes": fan_out,
}
ASYNC_SHAPES: dict[str, Callable[[], Any]] = {
    "threads of tasks": lambda: gathered(hybrid),
    "anyio's threads": any_threads,
    "LangGraph's async nodes": lambda: afan_out(apair),
    "threads of LangGraph's async nodes": lambda: afan_out(hybrid),
}


@pytest.mark.parametrize("name", [*SHAPES, *ASYNC_SHAPES])
def test_a_kill_at_each_effect_repeats_none_and_loses_none(
    name: str, db: Any, dsn: str, tmp_path: Path
) -> None:
    if "Lang" in name:
        pytest.importorskip("langgraph")
    shape = SHAPES.get(name) or ASYNC_SHAPES[name]
    agent: Any

    if name in SHAPES:

        @agentrun.agent(name="works")
        def works() -> list[str]:
            return list(shape())

        agent = works
    else:

        @agentrun.agent(name="works")
        async def aworks() -> list[str]:
            return list(await shape())

        agent = aworks

    def action(key: str) -> None:
        agentrun.connect(dsn)
        agent.with_options(key=key).run()

    for at in range(1, len(DOCS) + 1):
        Office.world, Office.at = World(tmp_path / f"effects {at}"), at
        killed(lambda key=f"killed at {at}": action(key))  # type: ignore[misc]
        Office.at = 0
        assert agent.with_options(key=f"killed at {at}").run() == INDEXED
        assert sorted(line.split()[0] for line in Office.world.effects) == list(DOCS)
        effects = list(Office.world.effects)
        assert agent.with_options(key=f"killed at {at}").run() == INDEXED
        assert Office.world.effects == effects


def test_equal_work_of_a_pool_is_told_apart_by_its_submission(db: Any, tmp_path: Path) -> None:
    """Both lines begin with the same step, and the later one begins first."""
    Office.world, first = World(tmp_path / "effects"), threading.Event()

    @agentrun.step(effect="read")
    def begin() -> None: ...

    def work(name: str) -> str:
        if name == "a":
            first.wait(30)
        begin()
        first.set()
        return index(name)

    @agentrun.agent
    def agent() -> list[str]:
        contexts = {name: contextvars.copy_context() for name in "ab"}
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda name: contexts[name].run(work, name), "ab"))

    assert agent.with_options(key="k").run() == ["indexed a", "indexed b"]
    events = read_events(db, find_run(db, "k").run_id)[0]
    idents = {event.input["args"]["doc"]: event.ident for event in events if event.name == "index"}
    assert idents == {"a": "t1/2", "b": "t2/2"}


# -- model calls and tools in tasks side by side ---------------------------------------------------


def test_a_call_id_is_found_in_the_reply_of_a_sibling_task(db: Any) -> None:
    reply = Reply("", tool_calls=[Call("find", {"doc": "x"}), Call("find", {"doc": "y"})])

    @agentrun.tool(effect="read")
    async def find(doc: str) -> str:
        return f"found {doc}"

    @agentrun.agent
    async def agent(base_url: str) -> list[str]:
        messages: Any = [{"role": "user", "content": "find"}]
        async with agentrun.wrap(AsyncOpenAI(base_url=base_url, api_key="k")) as client:
            create = client.chat.completions.create
            asked = await asyncio.create_task(create(model="gpt-5-mini", messages=messages))
        message = asked.choices[0].message
        answers = await asyncio.create_task(agentrun.acall_tools(message, [find]))
        return [answer["content"] for answer in answers]

    with Provider(script=[reply]) as provider:
        assert agent.with_options(key="k").run(provider.base_url) == ["found x", "found y"]
    events = read_events(db, find_run(db, "k").run_id)[0]
    idents = {event.ident for event in events if event.kind == "tool"}
    (model,) = {event.ident for event in events if event.kind == "model"}
    assert idents == {f"{model}#0", f"{model}#1"}


# -- what shows only when it is called -------------------------------------------------------------


@pytest.mark.parametrize("effect", ["once", "idempotent", "read"])
def test_a_tool_that_returns_before_its_work_fails_the_run_and_tells_no_model(
    db: Any, effect: Any
) -> None:
    broken = [True]

    async def later() -> str:
        return "late"

    @agentrun.tool(effect=effect)
    def hides() -> Any:
        return later() if broken[0] else "ok"

    @agentrun.agent
    def agent() -> str:
        try:
            return str(hides())
        except Exception as error:
            return f"a framework tells the model: {error}"

    with pytest.raises(agentrun.RunFailed, match="returned a coroutine") as failed:
        agent.with_options(key="k").run()
    assert isinstance(failed.value.__cause__, agentrun.ConfigError)
    broken[0] = False
    assert agentrun.resume("k") == "ok"


@pytest.mark.parametrize(
    "made", [lambda: (n for n in (1, 2)), lambda: iter([1]), lambda: map(str, [1])]
)
def test_a_tool_or_an_agent_that_returns_an_iterator_fails_the_run(db: Any, made: Any) -> None:
    @agentrun.tool
    def hides() -> Any:
        return made()

    @agentrun.agent
    def agent(through_tool: bool) -> Any:
        return hides() if through_tool else made()

    for through_tool in (True, False):
        with pytest.raises(agentrun.RunFailed, match="does its work later"):
            agent.run(through_tool)
