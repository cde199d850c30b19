"""agno: inside a run, each tool call of an agent is a recorded step.

    from agentrun.integrations.agno import durable_hook

    client = agentrun.wrap(OpenAI())
    agent = Agent(model=OpenAIChat("gpt-5-mini", client=client), tools=[search],
                  tool_hooks=[durable_hook()])

A tool whose function `agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from agno.exceptions import AgentRunException

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import choose_effect, is_recorded_tool

__all__ = ["durable_hook"]


def durable_hook(
    *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
) -> Callable[..., Any]:
    """The hook that records the tool calls of an agent or of a team, for ``tool_hooks``.

    Put it last in the list, so that it is nearest to the tool. It serves `run` and `arun`. A tool
    that yields its result piece by piece is not recorded: it is refused inside a run.

    Args:
        effects: effect classes by tool name.
        default: the effect class of a tool that has none in ``effects``.

    Example:
        >>> agent = Agent(model, tools=[search], tool_hooks=[durable_hook()])
    """

    def hook(name: str, function: Any, arguments: dict[str, Any]) -> Any:
        if agentrun.current_run() is None or is_recorded_tool(_tool_function(function)):
            return function(**arguments)
        record = agentrun.acall if inspect.iscoroutinefunction(function) else agentrun.call
        effect = choose_effect(name, effects, None, default)
        return record(name, arguments, function, effect=effect, passes=(AgentRunException,))

    return hook


def _tool_function(function: Any) -> Any:
    """The function of the tool, which agno wraps for a hook; None if it wraps it in another way."""
    return inspect.getclosurevars(function).nonlocals.get("func")
