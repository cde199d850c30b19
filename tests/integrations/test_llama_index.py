"""Agents of LlamaIndex: what a resumed workflow sees is what the live one saw."""

import asyncio
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

import agentrun
from agentrun.testing import Call, Provider, Reply

pytestmark = [
    # LiteLLM's models and clients warn, and a warning raised in the middle of a call breaks it.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("unpatched"),
]


@pytest.fixture
def llama(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MODELS_URL", provider.base_url)
    return importlib.import_module("llama_index_agent")


def run_twice(provider: Provider, workflow: Any) -> list[Any]:
    """What the run saw before a crash, and after it; the second time it pays nothing."""
    seen: list[Any] = []

    @agentrun.agent
    async def crash_at_the_end() -> None:
        seen.append(await workflow())
        if len(seen) == 1:
            raise SystemExit

    keyed = crash_at_the_end.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    billed = provider.billed()
    keyed.run()
    assert provider.billed() == billed > 0
    return seen


def called(*calls: Call) -> Reply:
    return Reply(tool_calls=list(calls))


def test_the_model_reads_results_in_the_order_of_its_calls(
    db: Any, provider: Provider, llama: Any
) -> None:
    provider.say([called(Call("slow", {}), Call("no_tool", {}), Call("quick", {})), "Done."])

    async def workflow() -> Any:
        ended = asyncio.Event()

        async def slow() -> str:
            """End after the quick one."""
            await ended.wait()
            return "slow"

        async def quick() -> str:
            """End first."""
            ended.set()
            return "quick"

        agent = llama.FunctionAgent(tools=[slow, quick], llm=llama.make_model())
        result = await llama.durable(agent).run("go")
        return [call.tool_name for call in result.tool_calls], str(result)

    first, second = run_twice(provider, workflow)
    assert first == second == (["slow", "no_tool", "quick"], "Done.")
    told = [m["content"] for m in provider.ledger()[-1].body["messages"] if m["role"] == "tool"]
    assert (told[0], told[2]) == ("slow", "quick")


def test_a_resumed_workflow_has_the_state_that_its_tools_left(
    db: Any, provider: Provider, llama: Any
) -> None:
    provider.say([called(Call("late", {}), Call("early", {})), "Done."])
    acted: list[str] = []

    async def workflow() -> Any:
        changed = asyncio.Event()

        async def note(ctx: Any, text: str) -> None:
            acted.append(text)
            async with ctx.store.edit_state() as state:
                state["notes"] = [*state.get("notes", []), text]

        async def late(ctx: llama.Context) -> str:
            """Note after the early one."""
            await changed.wait()
            await note(ctx, "late")
            return "noted"

        async def early(ctx: llama.Context) -> str:
            """Note first."""
            await note(ctx, "early")
            changed.set()
            return "noted"

        agent = llama.FunctionAgent(tools=[late, early], llm=llama.make_model())
        context = llama.Context(agent)
        await llama.durable(agent).run("go", ctx=context)
        return await context.store.get("notes")

    assert run_twice(provider, workflow) == [["early", "late"]] * 2
    assert acted == ["early", "late"], "no tool is called again"


def test_what_a_tool_returns_is_the_same_on_a_resume(
    db: Any, provider: Provider, llama: Any
) -> None:
    from llama_index.core.schema import Document

    provider.say([called(Call("read", {"name": "a"}), Call("fail", {})), "Done."])

    def read(name: str) -> Document:
        """Read a document."""
        return Document(text=f"the text of {name}", id_="7")

    def fail() -> str:
        """Fail."""
        raise LookupError("no such order")

    async def workflow() -> Any:
        agent = llama.FunctionAgent(tools=[read, fail], llm=llama.make_model())
        result = await llama.durable(agent).run("go")
        return [(c.tool_output.content, c.tool_output.raw_output) for c in result.tool_calls]

    first, second = run_twice(provider, workflow)
    assert first == second
    ((text, raw), (error, _)) = first
    assert (text, raw["id_"], error) == ("the text of a", "7", "no such order")


def test_equal_calls_are_told_apart_by_their_ids(db: Any, provider: Provider, llama: Any) -> None:
    provider.say([called(Call("draw", {}), Call("draw", {})), "Done."])
    drawn: list[str] = []

    async def draw() -> str:
        """Draw a card."""
        drawn.append(f"card {len(drawn)}")
        return drawn[-1]

    async def workflow() -> Any:
        agent = llama.FunctionAgent(tools=[draw], llm=llama.make_model())
        result = await llama.durable(agent).run("go")
        return [(call.tool_id, call.tool_output.content) for call in result.tool_calls]

    first, second = run_twice(provider, workflow)
    assert first == second
    assert len(drawn) == 2


def test_a_decorated_tool_is_recorded_as_it_declares_and_outside_a_run_it_is_plain(
    db: Any, provider: Provider, llama: Any, sql: Any
) -> None:
    provider.say([called(Call("find", {"order": "7"})), "Done."] * 2)

    @agentrun.tool(effect="read")
    def find(order: str) -> str:
        """Find an order."""
        return f"order {order}"

    async def workflow() -> str:
        agent = llama.FunctionAgent(tools=[find], llm=llama.make_model())
        return str(await llama.durable(agent).run("go"))

    assert run_twice(provider, workflow) == ["Done.", "Done."]
    assert sql("SELECT name, effect FROM agentrun.tool_calls") == [("find", "read")]
    assert asyncio.run(workflow()) == "Done."


def test_a_tool_that_waits_for_an_event_is_refused(db: Any, provider: Provider, llama: Any) -> None:
    from llama_index.core.workflow import HumanResponseEvent

    provider.say([called(Call("ask", {})), "Done."])

    async def ask(ctx: llama.Context) -> str:
        """Ask a person."""
        return str(await ctx.wait_for_event(HumanResponseEvent))

    @agentrun.agent
    async def asking() -> str:
        agent = llama.FunctionAgent(tools=[ask], llm=llama.make_model())
        return str(await llama.durable(agent).run("go"))

    with pytest.raises(agentrun.RunFailed, match=r"ask waits for an event .*approve=True"):
        asking.run()


def test_an_interrupted_tool_holds_the_run(db: Any, provider: Provider, llama: Any) -> None:
    provider.say([called(Call("refund", {"order": "7"})), "Done."])
    crash = [True]

    async def refund(order: str) -> str:
        """Refund an order."""
        if crash.pop():
            raise SystemExit
        return f"refunded {order}"

    @agentrun.agent
    async def cashier() -> str:
        agent = llama.FunctionAgent(tools=[refund], llm=llama.make_model())
        return str(await llama.durable(agent).run("go"))

    keyed = cashier.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    (doubt,) = agentrun.inbox("k")
    agentrun.resolve("k", doubt.step, agentrun.Happened("refunded 7"))
    assert keyed.run() == "Done."
