"""A loop of one's own over LiteLLM."""

from __future__ import annotations

import os
from typing import Any

import outside_tools

import agentrun

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing it goes online
import litellm

agentrun.install()


@agentrun.tool(effect="read")
def look_up(order: str) -> str:
    """Look an order up."""
    return outside_tools.look(order)


@agentrun.tool(effect="idempotent")
def keep(order: str) -> str:
    """Keep an order."""
    return outside_tools.act(order)


@agentrun.agent
def with_litellm(question: str) -> str:
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        reply = litellm.completion(
            model="openai/gpt-5-mini",
            messages=messages,
            tools=agentrun.schemas(look_up, keep),
            api_base=outside_tools.models_url(),
            api_key=outside_tools.KEY,
        )
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return str(message.content)
        messages += agentrun.call_tools(reply, [look_up, keep])
