"""A loop of one's own over Mistral's client, streamed."""

from __future__ import annotations

from typing import Any

import outside_tools
from mistralai.client import Mistral

import agentrun

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
def with_mistral(question: str) -> str:
    url = outside_tools.models_url().removesuffix("/v1")
    messages: list[Any] = [{"role": "user", "content": question}]
    with Mistral(api_key=outside_tools.KEY, server_url=url) as client:
        while True:
            reply = client.chat.complete(
                model="mistral-small-latest",
                messages=messages,
                tools=agentrun.schemas(look_up, keep),
            )
            message = reply.choices[0].message.model_dump(exclude_none=True)
            messages.append(message)
            if not message.get("tool_calls"):
                return str(message["content"])
            messages += agentrun.call_tools(reply, [look_up, keep])
