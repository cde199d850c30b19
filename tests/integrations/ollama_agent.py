"""A loop of one's own over Ollama's client, streamed."""

from __future__ import annotations

from typing import Any

import ollama
import outside_tools

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


TOOLS = {"look_up": look_up, "keep": keep}


@agentrun.agent
def with_ollama(question: str) -> str:
    client = ollama.Client(host=outside_tools.models_url().removesuffix("/v1"))
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        text, calls = "", []
        for part in client.chat(
            model="llama3.2", messages=messages, tools=[*TOOLS.values()], stream=True
        ):
            text += part.message.content or ""
            calls += part.message.tool_calls or []
        if not calls:
            return text
        messages.append({"role": "assistant", "content": text, "tool_calls": calls})
        for call in calls:
            result = TOOLS[call.function.name](**call.function.arguments)
            messages.append({"role": "tool", "content": result, "tool_name": call.function.name})
