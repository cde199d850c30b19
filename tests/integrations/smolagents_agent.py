"""An agent of smolagents, written as its users write it."""

from __future__ import annotations

import smolagents
from outside_tools import KEY, act, look, models_url

import agentrun
from agentrun.integrations.smolagents import durable


@smolagents.tool
def look_up(order: str) -> str:
    """Look an order up.

    Args:
        order: its number
    """
    return look(order)


@smolagents.tool
def keep(order: str) -> str:
    """Keep an order.

    Args:
        order: its number
    """
    return act(order)


EFFECTS = {"look_up": "read", "keep": "idempotent"}


@agentrun.agent
def with_smolagents(question: str) -> str:
    agentrun.install()
    model = smolagents.OpenAIModel("gpt-5-mini", api_base=models_url(), api_key=KEY)
    agent = smolagents.ToolCallingAgent([look_up, keep], model, verbosity_level=0)
    with model.client:
        return str(durable(agent, effects=EFFECTS).run(question))
