"""A desk of two agents of openai-agents: a handoff, the tools of an MCP server, and an approval.

Its tools act in the folder OUTSIDE, as those of `framework_agents`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import agents
import framework_agents
import mcp
import outside_tools
from agents.mcp import MCPServer
from people import approve_until_done
from pydantic import BaseModel

import agentrun
from agentrun.integrations.openai_agents import durable
from agentrun.testing import Call, Reply

ORDER = {"order": "7"}
SCRIPT: list[Reply | str] = [
    Reply(tool_calls=[Call("transfer_to_billing", {"why": "money"})]),
    Reply(tool_calls=[Call("look_up", ORDER), Call("refund", {"order": "9"})]),
    Reply(tool_calls=[Call("keep", ORDER)]),
    "Refunded.",
]


class Shop(MCPServer):
    """The MCP server of `framework_agents`, in this process, as a server of the SDK."""

    name = "shop"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.client = mcp.Client(framework_agents.server)

    async def __aenter__(self) -> Shop:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.cleanup()

    async def connect(self) -> None:
        await self.client.__aenter__()

    async def cleanup(self) -> None:
        await self.client.__aexit__(None, None, None)

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> Any:
        return (await self.client.list_tools()).tools

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> Any:
        return await self.client.call_tool(tool_name, arguments, meta=meta)

    async def list_prompts(self) -> Any:
        return await self.client.list_prompts()

    async def get_prompt(self, name: str, arguments: Any = None) -> Any:
        return await self.client.get_prompt(name, arguments)


class Reason(BaseModel):
    """What the model says when it hands off."""

    why: str


def note_handoff(ctx: Any, reason: Reason) -> None:
    key = agentrun.current_step().key if agentrun.current_run() else "outside"
    outside_tools.keep_file(reason.why, key)


@agents.function_tool(needs_approval=True)
def refund(order: str) -> str:
    """Refund an order."""
    return outside_tools.act(order)


def open_desk(shop: MCPServer, **options: Any) -> Any:
    """The agent at the front, durable together with the one that it hands off to."""
    model = agents.OpenAIChatCompletionsModel(framework_agents.MODEL, framework_agents.aclient)
    billing = agents.Agent(name="billing", model=model, tools=[refund], mcp_servers=[shop])
    to_billing = agents.handoff(billing, on_handoff=note_handoff, input_type=Reason)
    front = agents.Agent(name="front", model=model, handoffs=[to_billing])
    effects: Any = {"transfer_to_billing": "idempotent", "refund": "idempotent"}
    return durable(front, effects=effects, **options)


async def ask(question: str, **options: Any) -> str:
    async with Shop(**options) as shop:
        desk = open_desk(shop)
        result = await agents.Runner.run(desk, question, run_config=framework_agents.quiet)
    return str(result.final_output)


@agentrun.agent
async def with_an_openai_desk(question: str) -> str:
    return await ask(question)


@agentrun.agent
async def with_an_openai_desk_that_asks_for_all(question: str) -> str:
    return await ask(question, require_approval="always")


@agentrun.agent
async def with_a_person_at_the_openai_desk(question: str) -> str:
    """The same, and a person who decides meanwhile, so that a crash test gets to the end."""
    answer, _ = await asyncio.gather(ask(question), approve_refund())
    return answer


@agentrun.step(effect="idempotent")
def decide(key: str) -> None:
    approve_until_done(key, "refund")


async def approve_refund() -> None:
    run = agentrun.current_run()
    assert run is not None
    await asyncio.to_thread(decide, run.key)
