"""LangGraph's checkpointers, interrupts and langchain's agents, as their users write them.

The tools and the folder OUTSIDE are those of `framework_agents`.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import framework_agents
from framework_agents import MODEL, State, asks_for_tools, keep_in_graph, look_up_in_graph
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Send, interrupt
from outside_tools import act

import agentrun
from agentrun.integrations.langgraph import (
    DurableMiddleware,
    DurableSaver,
    ainvoke_and_ask,
    durable_tools,
    invoke_and_ask,
)

THREAD: Any = {"configurable": {"thread_id": "customer-7"}}


def database() -> str:
    """The file in which the checkpointers store."""
    return str(Path(os.environ["OUTSIDE"], "checkpoints.db"))


class NotingSaver(SqliteSaver):
    """Notes each checkpoint that it is given, in the file OUTSIDE/saved if that is there."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        if (noted := Path(os.environ["OUTSIDE"], "saved")).exists():
            noted.write_text(f"{noted.read_text()}{metadata['step']}\n")
        return super().put(config, checkpoint, metadata, new_versions)


def sqlite_saver() -> DurableSaver:
    return DurableSaver(NotingSaver(sqlite3.connect(database(), check_same_thread=False)))


def stored() -> Any:
    """What the checkpointer holds: the step of each checkpoint, and the last one's texts."""
    if not Path(database()).exists():
        return None
    with sqlite3.connect(database()) as connection:
        found = list(SqliteSaver(connection).list(THREAD))
    # The name of a subgraph, without the id of its task.
    graphs = [one.config["configurable"]["checkpoint_ns"].partition(":")[0] for one in found]
    steps = zip(graphs, (one.metadata["step"] for one in found), strict=True)
    messages = found[0].checkpoint["channel_values"].get("messages", []) if found else []
    return sorted(steps), [message.content for message in messages]


# -- checkpointers ---------------------------------------------------------------------------------

conversation = StateGraph(State)
conversation.add_node("ask", framework_agents.ask)
conversation.add_node(
    "tools",
    ToolNode([look_up_in_graph, keep_in_graph], **durable_tools(effects={"look_up": "read"})),
)
conversation.add_edge(START, "ask")
conversation.add_conditional_edges("ask", asks_for_tools)
conversation.add_edge("tools", "ask")


@agentrun.agent
def with_sqlite_saver(question: str, durability: Any = "async") -> list[str]:
    compiled = conversation.compile(checkpointer=sqlite_saver())
    for said in (question, "and again"):
        state = compiled.invoke({"messages": [HumanMessage(said)]}, THREAD, durability=durability)
    return [str(message.content) for message in state["messages"]]


@agentrun.agent
async def with_async_sqlite_saver(question: str, durability: Any = "async") -> list[str]:
    async with AsyncSqliteSaver.from_conn_string(database()) as inner:
        compiled = conversation.compile(checkpointer=DurableSaver(inner))
        for said in (question, "and again"):
            state = await compiled.ainvoke(
                {"messages": [HumanMessage(said)]}, THREAD, durability=durability
            )
        return [str(message.content) for message in state["messages"]]


def keep_one(state: dict[str, Any]) -> dict[str, Any]:
    kept = agentrun.step(effect="idempotent", name="keep")(act)(state["order"])
    return {"messages": [AIMessage(kept)]}


class Order(State):
    order: str


# Each order is handled by a graph of its own, all of them at once.
handling = StateGraph(Order)
handling.add_node("keep", keep_one)
handling.add_edge(START, "keep")
fan_out = StateGraph(State)
fan_out.add_node("handle", handling.compile())
fan_out.add_conditional_edges(
    START, lambda _state: [Send("handle", {"order": order, "messages": []}) for order in "123"]
)


@agentrun.agent
def with_fan_out(durability: Any = "async") -> list[str]:
    compiled = fan_out.compile(checkpointer=sqlite_saver())
    state = compiled.invoke({"messages": [HumanMessage("go")]}, THREAD, durability=durability)
    return [str(message.content) for message in state["messages"]]


# -- interrupts ------------------------------------------------------------------------------------


def pay(state: State) -> dict[str, Any]:
    """Ask a person twice, and act once."""
    if not interrupt("may I pay order 7?"):
        return {"messages": [AIMessage("not paid")]}
    note = interrupt({"asks for": "a note"})
    paid = agentrun.step(effect="idempotent", name="pay")(act)("7")
    return {"messages": [AIMessage(f"{paid}: {note}")]}


def ship(state: State) -> dict[str, Any]:
    return {"messages": [AIMessage(f"shipped by {interrupt('which carrier?')}")]}


order_desk = StateGraph(State)
order_desk.add_node("pay", pay)
order_desk.add_node("ship", ship)
order_desk.add_edge(START, "pay")
order_desk.add_edge(START, "ship")


@agentrun.agent
def with_interrupts(durability: Any = "async") -> list[str]:
    compiled = order_desk.compile(checkpointer=sqlite_saver())
    start = {"messages": [HumanMessage("order 7")]}
    state = invoke_and_ask(compiled, start, THREAD, durability=durability)
    return [str(message.content) for message in state["messages"]]


@agentrun.agent
async def with_interrupts_async(durability: Any = "async") -> list[str]:
    async with AsyncSqliteSaver.from_conn_string(database()) as inner:
        compiled = order_desk.compile(checkpointer=DurableSaver(inner))
        start = {"messages": [HumanMessage("order 7")]}
        state = await ainvoke_and_ask(compiled, start, THREAD, durability=durability)
        return [str(message.content) for message in state["messages"]]


# -- langchain -------------------------------------------------------------------------------------

chat = ChatOpenAI(
    model=MODEL,
    base_url="https://models.invalid/v1",
    api_key="k",  # type: ignore[arg-type]
    http_client=agentrun.http_client(),
    http_async_client=agentrun.async_http_client(),
)
assistant = create_agent(
    chat,
    [look_up_in_graph, keep_in_graph],
    middleware=[DurableMiddleware(effects={"look_up": "read"})],
)


@agentrun.agent
def with_langchain(question: str) -> str:
    return str(assistant.invoke({"messages": [HumanMessage(question)]})["messages"][-1].content)


@agentrun.agent
async def with_langchain_async(question: str) -> str:
    state = await assistant.ainvoke({"messages": [HumanMessage(question)]})
    return str(state["messages"][-1].content)


@agentrun.agent
def with_langchain_streamed(question: str) -> str:
    streamed = assistant.stream({"messages": [HumanMessage(question)]}, stream_mode="messages")
    return "".join(str(part.content) for part, _ in streamed if part.type == "AIMessageChunk")
