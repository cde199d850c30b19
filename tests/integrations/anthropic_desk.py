"""Agents with anthropic's tool runner, plain and streamed, with its default threads.

Their tools act in the folder OUTSIDE, as those of `framework_agents`.
"""

from __future__ import annotations

from typing import Any

import httpx2
import outside_tools
from anthropic import (
    Anthropic,
    APIStatusError,
    AsyncAnthropic,
    DefaultAsyncHttpxClient,
    beta_async_tool,
    beta_tool,
)

import agentrun

__all__ = ["AGENTS", "APIStatusError", "aclient", "client", "request"]

MODEL = "claude-double"
client = agentrun.wrap(Anthropic(base_url="https://models.invalid", api_key="k"))
# Its connections are not kept: tests run in event loops of their own, and those end.
http = DefaultAsyncHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
aclient = agentrun.wrap(
    AsyncAnthropic(base_url="https://models.invalid", api_key="k", http_client=http)
)


@agentrun.tool(effect="read", name="look_up")
def look_up_order(order: str) -> str:
    """Look an order up."""
    return outside_tools.look(order)


@agentrun.tool(effect="idempotent", name="keep")
def keep_order(order: str) -> str:
    """Keep an order."""
    return outside_tools.act(order)


@agentrun.tool(effect="read", name="look_up")
async def look_up_order_async(order: str) -> str:
    """Look an order up."""
    return outside_tools.look(order)


@agentrun.tool(effect="idempotent", name="keep")
async def keep_order_async(order: str) -> str:
    """Keep an order."""
    return outside_tools.act(order)


def request(question: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": MODEL, "max_tokens": 1000, "messages": messages}


@agentrun.agent
def with_a_tool_runner(question: str) -> str:
    tools = [beta_tool(look_up_order), beta_tool(keep_order)]
    runner = client.beta.messages.tool_runner(tools=tools, **request(question))
    return text_of(runner.until_done())


@agentrun.agent
async def with_an_async_tool_runner(question: str) -> str:
    tools = [beta_async_tool(look_up_order_async), beta_async_tool(keep_order_async)]
    runner = aclient.beta.messages.tool_runner(tools=tools, **request(question))
    return text_of(await runner.until_done())


@agentrun.agent
def with_a_streamed_tool_runner(question: str) -> str:
    tools = [beta_tool(look_up_order), beta_tool(keep_order)]
    runner = client.beta.messages.tool_runner(tools=tools, stream=True, **request(question))
    said = ""
    for stream in runner:
        said = "".join(stream.text_stream)
    return said


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


AGENTS = [with_a_tool_runner, with_an_async_tool_runner, with_a_streamed_tool_runner]
