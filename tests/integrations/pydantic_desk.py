"""An agent of pydantic-ai whose tools wait for a person, and for a result from elsewhere.

Its tools act in the folder OUTSIDE, as those of `framework_agents`.
"""

from __future__ import annotations

import asyncio

import framework_agents
import pydantic_ai
from outside_tools import act
from people import approve_until_done
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import agentrun
from agentrun.integrations.pydantic_ai import Durability
from agentrun.testing import Call, Reply

SCRIPT: list[Reply | str] = [
    Reply(
        tool_calls=[
            Call("keep", {"order": "7"}),
            Call("refund", {"order": "9"}),
            Call("pay", {"order": "8"}),
            Call("book", {"order": "6"}, id="call_6"),
        ]
    ),
    "Done.",
]

desk = pydantic_ai.Agent(
    OpenAIChatModel(
        framework_agents.MODEL, provider=OpenAIProvider(openai_client=framework_agents.aclient)
    ),
    capabilities=[Durability(default="idempotent")],
)


@desk.tool_plain
def keep(order: str) -> str:
    """Keep an order."""
    return act(order)


@desk.tool_plain(requires_approval=True)
def refund(order: str) -> str:
    """Refund an order; each refund needs an approval."""
    return act(order)


@desk.tool
def pay(ctx: pydantic_ai.RunContext[None], order: str) -> str:
    """Pay an order; the tool itself asks for an approval."""
    if not ctx.tool_call_approved:
        raise pydantic_ai.ApprovalRequired(metadata={"why": "money"})
    return act(order)


@desk.tool
def book(ctx: pydantic_ai.RunContext[None], order: str) -> str:
    """Book a truck; the carrier answers later."""
    act(order)
    raise pydantic_ai.CallDeferred(metadata={"for": ctx.tool_call_id})


@agentrun.agent
async def with_a_pydantic_desk(question: str) -> str:
    return (await desk.run(question)).output


@agentrun.agent
async def with_a_person_at_the_pydantic_desk(question: str) -> str:
    """The same, and a person and a carrier who answer meanwhile, for a crash test."""
    answer, _ = await asyncio.gather(desk.run(question), answer_all())
    return answer.output


async def answer_all() -> None:
    run = agentrun.current_run()
    assert run is not None
    await asyncio.to_thread(decide_and_answer, run.key)


@agentrun.step(effect="idempotent")
def decide_and_answer(key: str) -> None:
    agentrun.send(key, "book call_6", "booked")
    approve_until_done(key, "refund", "pay")
