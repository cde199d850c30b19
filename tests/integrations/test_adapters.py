"""The adapters: agents of each framework that are killed repeat nothing and lose nothing.

What a framework adds of its own (control flow, sessions, hints) is tried one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agents
import framework_agents
import mcp
import outside_tools
import pydantic_ai
import pytest
from crashing import die_recorded, killed
from langchain_core.messages import AIMessage
from langchain_core.tools import tool as langchain_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic_ai.models.test import TestModel

import agentrun
from agentrun.integrations import mcp as mcp_adapter
from agentrun.integrations import openai_agents
from agentrun.integrations import pydantic_ai as pydantic_ai_adapter
from agentrun.integrations.langgraph import durable_tools
from agentrun.testing import Call, Provider, Reply
from agentrun.testing.plugin import Crashtest

AGENTS = [
    framework_agents.with_pydantic_ai,
    framework_agents.with_pydantic_ai_streamed,
    framework_agents.with_openai_agents,
    framework_agents.with_openai_agents_streamed,
    framework_agents.with_langgraph,
    framework_agents.with_mcp,
]
pytestmark = pytest.mark.usefixtures("outside")
ORDER = {"order": "7"}
SCRIPT: list[Reply | str] = [
    Reply(tool_calls=[Call("look_up", ORDER), Call("keep", ORDER)]),
    Reply(tool_calls=[Call("keep", {"order": "8"})]),
    "Done.",
]


@pytest.mark.long
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_killed_at_every_point_nothing_is_repeated(crashtest: Crashtest, agent: Any) -> None:
    report = crashtest(agent, "go", script=SCRIPT)
    report.check()
    assert report.doubts == ()
    assert len(report.killed) > 15


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_killed_in_a_tool_it_goes_on(
    db: Any, dsn: str, at_provider: Provider, outside: Path, sql: Any, agent: Any
) -> None:
    at_provider.say(SCRIPT)
    keyed = agent.with_options(key="k")
    (outside / "die at 8").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run("go")))
    (outside / "die at 8").unlink()
    assert keyed.run("go") == "Done."
    assert at_provider.billed() == 3
    assert outside_tools.kept() == ["7", "8"]
    tools = sql(
        "SELECT name, effect, status, args ->> 'order' FROM agentrun.tool_calls ORDER BY 4, 1"
    )
    assert tools == [
        ("keep", "idempotent", "ok", "7"),
        ("look_up", "read", "ok", "7"),
        ("keep", "idempotent", "ok", "8"),
    ]


def test_a_resumed_session_reads_what_it_read_and_adds_nothing_twice(
    db: Any, dsn: str, at_provider: Provider, outside: Path
) -> None:
    at_provider.say(["first", Reply(tool_calls=[Call("keep", ORDER)]), "second"])
    keyed = framework_agents.with_a_session.with_options(key="k")
    (outside / "die at 7").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run("hello")))
    (outside / "die at 7").unlink()
    said = keyed.run("hello")
    texts = [part[0]["text"] if isinstance(part, list) else part for part in said]
    assert [text for text in texts if text] == ["hello", "first", "and again", "second"]
    assert at_provider.billed() == 3
    stored = asyncio.run(framework_agents.conversation().inner.get_items())
    assert len(stored) == 6  # two questions, two answers, a tool call and its output


@pytest.mark.filterwarnings("ignore::agentrun.NoModelWarning")
def test_an_interrupt_of_langgraph_takes_the_same_way_again(
    db: Any, dsn: str, outside: Path
) -> None:
    asked = outside / "asked"

    @langchain_tool
    def pay(cents: int) -> str:
        """Pay."""
        with asked.open("a") as file:
            file.write(f"{cents}\n")
        return f"paid {cents}: {interrupt('ok?')}"

    call = {"name": "pay", "args": {"cents": 5}, "id": "one"}
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([pay], **durable_tools()))
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)

    @agentrun.agent
    def payer() -> list[Any]:
        compiled = graph.compile(checkpointer=InMemorySaver())
        thread: Any = {"configurable": {"thread_id": "1"}}
        first = compiled.invoke({"messages": [AIMessage("", tool_calls=[call])]}, thread)
        (suspended,) = first["__interrupt__"]
        last = compiled.invoke(Command(resume="yes"), thread)
        if (outside / "die").exists():
            die_recorded()
        return [suspended.value, last["messages"][-1].content]

    keyed = payer.with_options(key="k")
    (outside / "die").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run()))
    (outside / "die").unlink()
    assert keyed.run() == ["ok?", "paid 5: yes"]
    assert asked.read_text() == "5\n5\n"  # LangGraph calls the function again with the answer


@agentrun.tool(effect="read", name="weigh")
def weigh(order: str) -> str:
    """Weigh an order."""
    return f"{order} weighs 3 kg"


def in_pydantic_ai() -> str:
    agent = pydantic_ai.Agent(
        TestModel(), tools=[weigh], capabilities=[pydantic_ai_adapter.Durability()]
    )
    return asyncio.run(agent.run("go")).output


def in_openai_agents() -> str:
    agent = openai_agents.durable(
        agents.Agent(name="clerk", tools=[agents.function_tool(weigh)])  # type: ignore[arg-type]
    )
    (tool,) = agent.tools
    context: Any = agents.tool_context.ToolContext(
        None, tool_name="weigh", tool_call_id="1", tool_arguments="{}"
    )
    assert isinstance(tool, agents.FunctionTool)
    return str(asyncio.run(tool.on_invoke_tool(context, '{"order": "a"}')))  # type: ignore[arg-type]


def in_langgraph() -> str:
    call = {"name": "weigh", "args": {"order": "a"}, "id": "one", "type": "tool_call"}
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([langchain_tool(weigh)], **durable_tools()))  # type: ignore[arg-type]
    graph.add_edge(START, "tools")
    told = graph.compile().invoke({"messages": [AIMessage("", tool_calls=[call])]})
    return str(told["messages"][-1].content)


@pytest.mark.parametrize("go", [in_pydantic_ai, in_openai_agents, in_langgraph])
def test_a_decorated_tool_is_recorded_once_as_it_declares(
    db: Any, sql: Any, go: Callable[[], str]
) -> None:
    @agentrun.agent
    def weigher() -> str:
        return go()

    assert "a weighs 3 kg" in weigher.run()
    assert sql("SELECT name, effect FROM agentrun.steps WHERE kind = 'tool'") == [("weigh", "read")]


def test_a_servers_hints_are_effect_classes_and_the_users_choice_precedes_them(
    db: Any, sql: Any
) -> None:
    @agentrun.agent
    async def caller() -> list[Any]:
        async with mcp.Client(framework_agents.server) as shop:
            mcp_adapter.durable(shop, effects={"keep": "once"})
            with pytest.raises(agentrun.ConfigError, match="durable already"):
                mcp_adapter.durable(shop)
            looked = await shop.call_tool("look_up", ORDER, meta={"mine": 1})
            await shop.call_tool("keep", ORDER)
            wrong = await shop.call_tool("missing", {})
            return [looked.content[0].text, wrong.is_error]  # type: ignore[union-attr]

    assert caller.run() == ["order 7 is ready", True]
    found = sql("SELECT name, effect FROM agentrun.tool_calls ORDER BY step")
    assert found == [("look_up", "read"), ("keep", "once"), ("missing", "once")]


def test_outside_a_run_nothing_changes(outside: Path) -> None:
    async def look() -> Any:
        async with mcp.Client(framework_agents.server) as shop:
            return await mcp_adapter.durable(shop).call_tool("look_up", ORDER)

    assert asyncio.run(look()).content[0].text == "order 7 is ready"
    session = framework_agents.conversation()
    asyncio.run(session.add_items([{"role": "user", "content": "hi"}]))
    assert len(asyncio.run(session.get_items())) == 1
