"""agno: inside a run, each tool call of an agent is a recorded step.

    from agentrun.integrations.agno import durable_hook

    client = agentrun.wrap(OpenAI())
    agent = Agent(model=OpenAIChat("gpt-5-mini", client=client), tools=[search],
                  tool_hooks=[durable_hook()])

A tool whose function `agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agno.exceptions import AgentRunException

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import (
    check_classes,
    check_names,
    choose_effect,
    is_recorded_tool,
)

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

    Raises:
        ConfigError: an effect class is misspelt. If a name in ``effects`` is the misspelt name of
            a tool, the run fails with this error at its first tool call.

    Example:
        >>> agent = Agent(model, tools=[search], tool_hooks=[durable_hook()])
    """

    check_classes(effects, default)

    def hook(
        name: str, function: Any, arguments: dict[str, Any], agent: Any = None, team: Any = None
    ) -> Any:
        if agentrun.current_run() is None or is_recorded_tool(_tool_function(function)):
            return function(**arguments)
        tools = [name, *_find_tools(agent), *_find_tools(team)]
        check_names(effects, tools, complete=False)
        record = agentrun.acall if inspect.iscoroutinefunction(function) else agentrun.call
        effect = choose_effect(name, effects, None, default)
        return record(name, arguments, function, effect=effect, passes=(AgentRunException,))

    return hook


def _find_tools(owner: Any) -> Iterator[str]:
    """The names of the tools that are listed at an agent or at a team with its members."""
    listed = getattr(owner, "tools", None)
    for tool in listed if isinstance(listed, list | tuple) else ():
        yield from getattr(tool, "functions", ())
        yield from getattr(tool, "async_functions", ())
        yield from filter(None, (getattr(tool, "name", None), getattr(tool, "__name__", None)))
    members = getattr(owner, "members", None)
    for member in members if isinstance(members, list | tuple) else ():
        yield from _find_tools(member)


def _tool_function(function: Any) -> Any:
    """The function of the tool, which agno wraps for a hook; None if it wraps it in another way."""
    return inspect.getclosurevars(function).nonlocals.get("func")
