"""An agent in each framework whose one tool declares nothing, so that it acts `once`."""

from __future__ import annotations

from typing import Any

import agents
import mcp
import pydantic_ai
from framework_agents import MODEL, State, aclient, ask, asks_for_tools, quiet, talk
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from outside_tools import act, keep_file
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import agentrun
from agentrun.integrations import mcp as mcp_adapter
from agentrun.integrations import openai_agents
from agentrun.integrations.langgraph import durable_tools
from agentrun.integrations.pydantic_ai import Durability

desk = pydantic_ai.Agent(
    OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=aclient)),
    capabilities=[Durability()],
)


@desk.tool_plain
def pay(order: str) -> str:
    """Pay an order."""
    return act(order)


@agentrun.agent
async def pays_with_pydantic_ai(question: str) -> str:
    return (await desk.run(question)).output


@agents.function_tool(name_override="pay")
async def pay_tool(order: str) -> str:
    """Pay an order."""
    return act(order)


clerk = openai_agents.durable(
    agents.Agent(
        name="clerk", model=agents.OpenAIChatCompletionsModel(MODEL, aclient), tools=[pay_tool]
    )
)


@agentrun.agent
async def pays_with_openai_agents(question: str) -> str:
    return str((await agents.Runner.run(clerk, question, run_config=quiet)).final_output)


@langchain_tool("pay")
def pay_in_graph(order: str) -> str:
    """Pay an order."""
    return act(order)


graph: Any = StateGraph(State)
graph.add_node("ask", ask)
graph.add_node("tools", ToolNode([pay_in_graph], **durable_tools()))
graph.add_edge(START, "ask")
graph.add_conditional_edges("ask", asks_for_tools, ["tools", END])
graph.add_edge("tools", "ask")
compiled = graph.compile()


@agentrun.agent
def pays_with_langgraph(question: str) -> str:
    return str(compiled.invoke({"messages": [HumanMessage(question)]})["messages"][-1].content)


server = mcp.server.MCPServer("bank")


@server.tool(name="pay")
def pay_at_server(order: str, ctx: mcp.server.mcpserver.Context) -> str:
    """Pay an order."""
    meta: Any = ctx.request_context.meta
    return keep_file(order, meta[mcp_adapter.KEY])


@agentrun.agent
async def pays_with_mcp(question: str) -> str:
    async with mcp.Client(server) as bank:
        mcp_adapter.durable(bank)
        return await talk(bank, question)
