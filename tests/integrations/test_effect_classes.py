"""A misspelt effect class, or tool name in `effects=`, is refused before it does any harm."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import agents
import framework_agents
import langgraph_agents
import mcp
import openai_desk
import pydantic_ai
import pytest
from langchain.agents import create_agent
from langgraph.prebuilt import ToolNode

import agentrun
from agentrun.integrations import mcp as mcp_adapter
from agentrun.integrations import openai_agents
from agentrun.integrations.effect_classes import check_names
from agentrun.integrations.langgraph import DurableMiddleware, durable_tools
from agentrun.integrations.pydantic_ai import Durability
from agentrun.testing import Call, Provider, Reply

# LiteLLM's models and clients warn, and a warning raised in the middle of a call breaks it.
pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES = "Choose one of read, idempotent, transaction, once"
MISSPELT: Any = {"look_up": "raed"}
LOOK = Reply(tool_calls=[Call("look_up", {"order": "7"})])
NAMED = r"effects=\{'lok_up': …\} names no tool; did you mean 'look_up'\? The tools are: .*look_up"


def make_small(framework: str, **options: Any) -> Any:
    """The adapter of a framework, made with these options for an agent with the tool `look_up`."""
    module = importlib.import_module(f"{framework}_agent")
    if framework == "agno":
        return module.durable_hook(**options)
    if framework == "dspy":
        return module.durable([module.look_up], **options)
    if framework == "smolagents":
        agent = module.smolagents.ToolCallingAgent
        return module.durable(agent([module.look_up], model=lambda: None), **options)
    from llama_index.core.llms import MockLLM

    return module.durable(module.FunctionAgent(tools=[module.look_up], llm=MockLLM()), **options)


def make_openai(
    tools: Any = (framework_agents.look_up_tool,), more: Any = (), **options: Any
) -> Any:
    model = agents.OpenAIChatCompletionsModel(framework_agents.MODEL, framework_agents.aclient)
    other = agents.Agent(name="other", model=model, tools=[framework_agents.keep_tool])
    handoffs: list[Any] = [other]
    agent = agents.Agent(
        name="clerk", model=model, tools=list(tools), handoffs=handoffs, mcp_servers=list(more)
    )
    return openai_agents.durable(agent, **options)


def make_client(**options: Any) -> Any:
    return mcp_adapter.durable(mcp.Client(framework_agents.server), **options)


MADE: Mapping[str, Callable[..., Any]] = {
    "pydantic-ai": Durability,
    "openai-agents": make_openai,
    "langgraph": durable_tools,
    "langchain": DurableMiddleware,
    "mcp": make_client,
}
SMALL = ["agno", "dspy", "smolagents", "llama_index"]


def expect_class_refused(make: Callable[..., Any]) -> None:
    wrong = rf"look_up.*'raed'.* is no effect class; did you mean 'read'\? {CLASSES}"
    with pytest.raises(agentrun.ConfigError, match=wrong):
        make(effects=MISSPELT)
    with pytest.raises(
        agentrun.ConfigError, match=rf"default='ever' is no effect class.*{CLASSES}"
    ):
        make(default="ever")


@pytest.mark.parametrize("framework", MADE)
def test_a_misspelt_class_is_refused_when_the_adapter_is_made(framework: str) -> None:
    expect_class_refused(MADE[framework])


@pytest.mark.slow
@pytest.mark.parametrize("framework", SMALL)
def test_a_misspelt_class_is_refused_when_a_small_adapter_is_made(framework: str) -> None:
    expect_class_refused(lambda **options: make_small(framework, **options))


@pytest.mark.slow
def test_a_misspelt_class_of_commands_is_refused() -> None:
    module = importlib.import_module("mini_swe_agent_agent")
    with pytest.raises(agentrun.ConfigError, match=r"execute.*'onec'.*did you mean 'once'"):
        module.durable(module.LocalEnvironment(), effect="onec")


@pytest.mark.parametrize("tool", ["look_up", "keep", "transfer_to_other"])
def test_a_name_that_no_tool_of_openai_agents_has_is_refused(tool: str) -> None:
    make_openai(effects={tool: "read"})
    with pytest.raises(agentrun.ConfigError, match=NAMED.replace("; did", ".*; did")):
        make_openai(effects={tool: "read", "lok_up": "once"}, default="idempotent")
    with pytest.raises(agentrun.ConfigError, match=r"'refund': …\} names no tool\. The tools are"):
        make_openai(effects={"refund": "once"})


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["dspy", "smolagents", "llama_index"])
def test_a_name_that_no_tool_has_is_refused_when_a_small_adapter_is_made(framework: str) -> None:
    make_small(framework, effects={"look_up": "read"})
    with pytest.raises(agentrun.ConfigError, match=NAMED):
        make_small(framework, effects={"lok_up": "once"}, default="idempotent")


def test_a_name_that_may_come_later_is_never_refused() -> None:
    effects: Any = {"read_files": "read", "refund": "once"}
    check_names(effects, ["read_file", "read_files"], complete=False)
    check_names({**effects, "read_file": "read"}, ["read_file"], complete=False)
    check_names(effects, ["ship"], complete=False)
    with pytest.raises(agentrun.ConfigError, match=r"read_file.*give 'read_file' an entry"):
        check_names(effects, ["read_file"], complete=False)


async def run_pydantic(effects: Any, metadata: Any = None) -> str:
    def look_up(order: str) -> str:
        return "order 7 is ready"

    agent = pydantic_ai.Agent(
        framework_agents.pydantic_agent.model,
        tools=[pydantic_ai.Tool(look_up, metadata=metadata)],
        capabilities=[Durability(effects=effects, default="idempotent")],
    )
    return (await agent.run("order 7")).output


async def run_openai(effects: Any) -> str:
    async with openai_desk.Shop() as shop:
        clerk = make_openai((), (shop,), effects=effects, default="idempotent")
        result = await agents.Runner.run(clerk, "order 7", run_config=framework_agents.quiet)
        return str(result.final_output)


async def run_langchain(effects: Any) -> str:
    middleware = DurableMiddleware(effects=effects, default="idempotent")
    tools = [langgraph_agents.look_up_in_graph]
    agent = create_agent(langgraph_agents.chat, tools, middleware=[middleware])
    state = await agent.ainvoke({"messages": [("user", "order 7")]})
    return str(state["messages"][-1].content)


async def run_graph(effects: Any) -> str:
    graph = framework_agents.StateGraph(framework_agents.State)
    graph.add_node("ask", framework_agents.ask)
    wrappers = durable_tools(effects=effects, default="idempotent")
    graph.add_node("tools", ToolNode([framework_agents.look_up_in_graph], **wrappers))
    graph.add_edge("__start__", "ask")
    graph.add_conditional_edges("ask", framework_agents.asks_for_tools)
    graph.add_edge("tools", "ask")
    start: Any = {"messages": [framework_agents.HumanMessage("order 7")]}
    state = await asyncio.to_thread(graph.compile().invoke, start)
    return str(state["messages"][-1].content)


async def run_client(effects: Any) -> str:
    async with mcp.Client(framework_agents.server) as shop:
        return await framework_agents.talk(
            mcp_adapter.durable(shop, effects=effects, default="idempotent"), "order 7"
        )


async def run_agno(effects: Any) -> str:
    from agno.agent import Agent
    from agno.models.openai import OpenAIChat
    from openai import OpenAI

    agno_agent = importlib.import_module("agno_agent")
    url = str(framework_agents.client.base_url)
    model = OpenAIChat("gpt-5-mini", client=agentrun.wrap(OpenAI(base_url=url, api_key="k")))
    hook = agno_agent.durable_hook(effects=effects, default="idempotent")
    agent = Agent(model=model, tools=[agno_agent.look_up], tool_hooks=[hook], telemetry=False)
    return str((await asyncio.to_thread(agent.run, "order 7")).content)


async def run_llama(effects: Any) -> str:
    """An agent that retrieves its tools in the run."""
    llama = importlib.import_module("llama_index_agent")
    from llama_index.core.tools import FunctionTool

    class Retriever:
        async def aretrieve(self, question: str) -> list[Any]:
            return [FunctionTool.from_defaults(llama.look_up)]

    agent = llama.FunctionAgent(tools=[], llm=llama.make_model())
    agent.__dict__["tool_retriever"] = Retriever()
    return str(await llama.durable(agent, effects=effects, default="idempotent").run("order 7"))


RUNNING: list[Any] = [
    (run_pydantic, 0),
    (run_openai, 0),
    (run_langchain, 0),
    (run_graph, 1),
    (run_client, 1),
    pytest.param(run_agno, 1, marks=pytest.mark.slow),
    pytest.param(run_llama, 0, marks=pytest.mark.slow),
]


@pytest.fixture
def models(
    at_provider: Provider, outside: Any, unpatched: None, monkeypatch: pytest.MonkeyPatch
) -> Provider:
    """The provider that all agents of this file ask."""
    monkeypatch.setenv("MODELS_URL", at_provider.base_url)
    monkeypatch.setattr(langgraph_agents.chat.root_client, "base_url", at_provider.base_url)
    monkeypatch.setattr(langgraph_agents.chat.root_async_client, "base_url", at_provider.base_url)
    at_provider.say([LOOK, "Done."])
    return at_provider


@pytest.mark.parametrize(("run", "billed"), RUNNING)
def test_a_misspelt_name_fails_the_run_before_a_tool_acts(
    db: Any, models: Provider, sql: Any, run: Any, billed: int
) -> None:
    @agentrun.agent
    async def clerk() -> str:
        try:
            return str(await run({"lok_up": "once"}))
        except Exception:
            return "told the model"

    with pytest.raises(agentrun.RunFailed, match=NAMED) as failed:
        clerk.run()
    assert isinstance(failed.value.__cause__, agentrun.ConfigError)
    assert "redo" not in str(failed.value)
    assert sql("SELECT name FROM agentrun.tool_calls") == []
    assert models.billed() == billed


@pytest.mark.parametrize(("run", "billed"), RUNNING)
def test_other_names_in_a_run_are_not_refused(
    db: Any, models: Provider, sql: Any, run: Any, billed: int
) -> None:
    @agentrun.agent
    async def clerk() -> str:
        return str(await run({"look_up": "read", "refund": "once"}))

    assert clerk.run() == "Done."
    assert sql("SELECT name, effect FROM agentrun.tool_calls") == [("look_up", "read")]


def test_a_class_in_metadata_that_there_is_not_fails_the_run_unpaid(
    db: Any, models: Provider
) -> None:
    @agentrun.agent
    async def clerk() -> str:
        return await run_pydantic(None, {"effect": "raed"})

    @agentrun.agent
    async def chain() -> str:
        tool = langgraph_agents.look_up_in_graph.model_copy(update={"metadata": {"effect": "raed"}})
        agent = create_agent(langgraph_agents.chat, [tool], middleware=[DurableMiddleware()])
        return str(await agent.ainvoke({"messages": [("user", "order 7")]}))

    for agent in (clerk, chain):
        with pytest.raises(agentrun.RunFailed, match=rf"'look_up' declares 'raed'.*{CLASSES}"):
            agent.run()
    assert models.billed() == 0


def test_an_error_of_the_configuration_is_not_the_replys_fault(db: Any, models: Provider) -> None:
    @agentrun.agent
    def clerk() -> None:
        create: Any = framework_agents.client.chat.completions.create
        create(model="gpt-5-mini", messages=[{"role": "user", "content": "order 7"}])
        wrong: Any = "raed"
        agentrun.call("look_up", {"order": "7"}, print, effect=wrong)

    with pytest.raises(agentrun.RunFailed, match="effect='raed'") as failed:
        clerk.with_options(key="k").run()
    with pytest.raises(agentrun.RunFailed) as again:
        agentrun.get("k").result()
    assert "redo" not in f"{failed.value} {again.value}"
