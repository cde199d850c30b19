"""A program of DSPy, written as its users write it."""

from __future__ import annotations

import os

from outside_tools import KEY, act, look, models_url

import agentrun

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing LiteLLM goes online
import dspy

from agentrun.integrations.dspy import durable


def look_up(order: str) -> str:
    """Look an order up."""
    return look(order)


def keep(order: str) -> str:
    """Keep an order."""
    return act(order)


@agentrun.agent
def with_dspy(question: str) -> str:
    agentrun.install()
    model = dspy.LM(
        "openai/gpt-5-mini", api_base=models_url(), api_key=KEY, engine="litellm", cache=False
    )
    tools = durable([look_up, keep], effects={"look_up": "read", "keep": "idempotent"})
    with dspy.context(lm=model):
        return str(dspy.ReAct("question -> answer", tools=tools)(question=question).answer)
