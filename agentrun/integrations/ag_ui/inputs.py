"""The arguments of an agent, from the input of an AG-UI run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any

from ag_ui.core import Message, RunAgentInput

import agentrun

__all__ = ["check_parameters", "read_arguments"]

Agent = agentrun.DurableAgent[..., Any]


def check_parameters(agent: Agent) -> None:
    """Raise ConfigError if the input does not say what each parameter gets."""
    if len(others := _other_parameters(agent)) > 1:
        raise agentrun.ConfigError(
            f"the input of AG-UI fills one parameter with the user's text, and {agent.name} has "
            f"{', '.join(others)}: give make_app arguments="
        )


def read_arguments(agent: Agent, given: RunAgentInput) -> dict[str, Any]:
    """The arguments of the agent, by the names of its parameters."""
    named = {name: PARTS[name](given) for name in agent.arguments.names if name in PARTS}
    return named | {name: _last_text(given) for name in _other_parameters(agent)}


def _other_parameters(agent: Agent) -> list[str]:
    """The parameters that no part of the input is named after, and that have no default."""
    parameters = agent.arguments.signature.parameters
    others = [name for name in agent.arguments.names if name not in PARTS]
    return [name for name in others if parameters[name].default is Parameter.empty]


def _last_text(given: RunAgentInput) -> str:
    said = [message for message in given.messages if message.role == "user"]
    return _text(said[-1]) if said else ""


def _chat_messages(given: RunAgentInput) -> list[dict[str, Any]]:
    """The conversation as chat completions have it. Media and activities are left out."""
    return [
        _chat_message(message)
        for message in given.messages
        if message.role not in ("activity", "reasoning")
    ]


def _chat_message(message: Message) -> dict[str, Any]:
    chat: dict[str, Any] = {"role": message.role, "content": _text(message)}
    if calls := getattr(message, "tool_calls", None):
        chat["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ]
    if message.role == "tool":
        chat["tool_call_id"] = message.tool_call_id
    return chat


def _text(message: Message) -> str:
    content: Any = getattr(message, "content", None)
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "\n".join(part.text for part in content if part.type == "text")
    return content or ""


def _chat_tools(given: RunAgentInput) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in given.tools or []
    ]


PARTS: dict[str, Callable[[RunAgentInput], Any]] = {
    "messages": _chat_messages,
    "tools": _chat_tools,
    "state": lambda given: given.state,
    "context": lambda given: [entry.model_dump() for entry in given.context or []],
    "forwarded_props": lambda given: given.forwarded_props,
    "thread_id": lambda given: given.thread_id,
    "run_id": lambda given: given.run_id,
}
