"""One agent in each framework, written as its users write it: what the adapters are tried on.

Its tools act in the folder OUTSIDE. `look_up` reads. `keep` writes a file named by the key, so that
a repetition with the same key does no harm.
"""

from __future__ import annotations

import json
import operator
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

import agents
import httpx2
import mcp.server
import pydantic_ai
from langchain_core.messages import AIMessage, HumanMessage, convert_to_openai_messages
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAI
from outside_tools import act, keep_file, look
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import agentrun
from agentrun.integrations import mcp as mcp_adapter
from agentrun.integrations import openai_agents
from agentrun.integrations import pydantic_ai as pydantic_ai_adapter
from agentrun.integrations.langgraph import durable_tools

MODEL = "gpt-5-mini"
client = agentrun.wrap(OpenAI(base_url="https://models.invalid/v1", api_key="k"))
# Its connections are not kept: tests run in event loops of their own, and those end.
http = DefaultAsyncHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
aclient = agentrun.wrap(
    AsyncOpenAI(base_url="https://models.invalid/v1", api_key="k", http_client=http)
)


# -- pydantic-ai -----------------------------------------------------------------------------------

pydantic_agent = pydantic_ai.Agent(
    OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=aclient)),
    capabilities=[pydantic_ai_adapter.Durability(effects={"look_up": "read"})],
)


@pydantic_agent.tool_plain
def look_up(order: str) -> str:
    """Look an order up."""
    return look(order)


@pydantic_agent.tool(metadata={"effect": "idempotent"})
async def keep(ctx: pydantic_ai.RunContext[None], order: str) -> dict[str, str]:
    """Keep an order."""
    return {"kept": act(order)}


@agentrun.agent
async def with_pydantic_ai(question: str) -> str:
    return (await pydantic_agent.run(question)).output


@agentrun.agent
async def with_pydantic_ai_streamed(question: str) -> str:
    async with pydantic_agent.run_stream(question) as result:
        return await result.get_output()


# -- openai-agents ---------------------------------------------------------------------------------


@agents.function_tool(name_override="look_up")
def look_up_tool(order: str) -> str:
    """Look an order up."""
    return look(order)


@agents.function_tool(name_override="keep")
async def keep_tool(ctx: agents.RunContextWrapper[Any], order: str) -> str:
    """Keep an order."""
    return act(order)


clerk = openai_agents.durable(
    agents.Agent(
        name="clerk",
        model=agents.OpenAIChatCompletionsModel(MODEL, aclient),
        tools=[look_up_tool, keep_tool],
    ),
    effects={"look_up": "read", "keep": "idempotent"},
)
quiet = agents.RunConfig(tracing_disabled=True)


def conversation() -> openai_agents.DurableSession:
    path = Path(os.environ["OUTSIDE"], "conversation.db")
    return openai_agents.DurableSession(agents.SQLiteSession("7", path))


@agentrun.agent
async def with_openai_agents(question: str) -> str:
    result = await agents.Runner.run(clerk, question, run_config=quiet)
    return str(result.final_output)


@agentrun.agent
async def with_openai_agents_streamed(question: str) -> str:
    result = agents.Runner.run_streamed(clerk, question, run_config=quiet)
    async for _ in result.stream_events():
        pass
    return str(result.final_output)


@agentrun.agent
async def with_a_session(question: str) -> list[Any]:
    session = conversation()
    for line in (question, "and again"):
        await agents.Runner.run(clerk, line, session=session, run_config=quiet)
    return [item.get("content") for item in await session.get_items()]


# -- LangGraph -------------------------------------------------------------------------------------


class State(TypedDict):
    messages: Annotated[list[Any], operator.add]


@langchain_tool("look_up")
def look_up_in_graph(order: str) -> str:
    """Look an order up."""
    return look(order)


@langchain_tool("keep")
def keep_in_graph(order: str) -> str:
    """Keep an order."""
    return act(order)


keep_in_graph.metadata = {"effect": "idempotent"}


def ask(state: State) -> dict[str, Any]:
    """The node that asks the model; a chat model of LangChain does the same."""
    sent: Any = convert_to_openai_messages(state["messages"])
    reply = client.chat.completions.create(model=MODEL, messages=sent).choices[0].message
    calls = [
        {"name": call.function.name, "args": json.loads(call.function.arguments), "id": call.id}
        for call in reply.tool_calls or ()
        if call.type == "function"
    ]
    return {"messages": [AIMessage(reply.content or "", tool_calls=calls)]}


def asks_for_tools(state: State) -> str:
    return "tools" if state["messages"][-1].tool_calls else END


graph = StateGraph(State)
graph.add_node("ask", ask)
graph.add_node(
    "tools",
    ToolNode([look_up_in_graph, keep_in_graph], **durable_tools(effects={"look_up": "read"})),
)
graph.add_edge(START, "ask")
graph.add_conditional_edges("ask", asks_for_tools)
graph.add_edge("tools", "ask")
compiled = graph.compile()


@agentrun.agent
def with_langgraph(question: str) -> str:
    return str(compiled.invoke({"messages": [HumanMessage(question)]})["messages"][-1].content)


# -- MCP -------------------------------------------------------------------------------------------

server = mcp.server.MCPServer("shop")


@server.tool(name="look_up", annotations=mcp.types.ToolAnnotations(read_only_hint=True))
def look_up_at_server(order: str) -> str:
    """Look an order up."""
    return look(order)


@server.tool(name="keep", annotations=mcp.types.ToolAnnotations(idempotent_hint=True))
def keep_at_server(order: str, ctx: mcp.server.mcpserver.Context) -> str:
    """Keep an order, once for each key that a client sends."""
    meta: Any = ctx.request_context.meta
    return keep_file(order, meta[mcp_adapter.KEY])


async def talk(client: mcp.Client, question: str) -> str:
    """The loop of an agent whose tools are those of an MCP server."""
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        reply = await aclient.chat.completions.create(model=MODEL, messages=messages)
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return str(message.content)
        for call in message.tool_calls:
            assert call.type == "function"
            result = await client.call_tool(call.function.name, json.loads(call.function.arguments))
            (part,) = result.content
            assert part.type == "text"
            text = f"{part.text} (an error)" if result.is_error else part.text
            messages.append({"role": "tool", "tool_call_id": call.id, "content": text})


@agentrun.agent
async def with_mcp(question: str) -> str:
    async with mcp.Client(server) as shop:
        mcp_adapter.durable(shop)
        return await talk(shop, question)
