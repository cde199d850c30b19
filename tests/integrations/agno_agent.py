"""An agent of agno, written as its users write it."""

from __future__ import annotations

import agno.agent
from agno.models.openai import OpenAIChat
from openai import OpenAI
from outside_tools import KEY, act, look, models_url

import agentrun
from agentrun.integrations.agno import durable_hook


def look_up(order: str) -> str:
    """Look an order up."""
    return look(order)


def keep(order: str) -> str:
    """Keep an order."""
    return act(order)


@agentrun.agent
def with_agno(question: str) -> str:
    with agentrun.wrap(OpenAI(base_url=models_url(), api_key=KEY)) as client:
        agent = agno.agent.Agent(
            model=OpenAIChat("gpt-5-mini", client=client),
            tools=[look_up, keep],
            tool_hooks=[durable_hook(effects={"look_up": "read", "keep": "idempotent"})],
            telemetry=False,
        )
        return str(agent.run(question).content)
