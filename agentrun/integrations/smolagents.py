"""smolagents: inside a run, each tool call of an agent is a recorded step.

    from agentrun.integrations.smolagents import durable

    agentrun.install()
    agent = durable(ToolCallingAgent(tools=[search], model=OpenAIModel("gpt-5-mini")))

`agentrun.install()` records the model, which makes its own client. A tool whose `forward` is a
function that `agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import check_classes, check_names, choose_effect
from agentrun.integrations.recorded_functions import record_calls

__all__ = ["durable"]

A = TypeVar("A")


def durable(
    agent: A, *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
) -> A:
    """Record the tool calls of an agent and of the agents that it manages.

    A tool that a `CodeAgent` calls in its code is recorded too. The code itself is executed again
    by a resume, so its own effects (files, requests) belong into tools. A tool that returns what
    JSON cannot hold, such as an image, fails with a clear error: give it the effect class ``read``
    through a step of your own, or return a path.

    Args:
        agent: a `ToolCallingAgent`, `CodeAgent`, or another `MultiStepAgent`.
        effects: effect classes by tool name.
        default: the effect class of a tool that has none in ``effects``.

    Returns:
        The same agent, whose tools are changed in place.

    Raises:
        ConfigError: an effect class is misspelt, or a name in ``effects`` is no tool's.

    Example:
        >>> agent = durable(ToolCallingAgent([search], model), effects={"search": "read"})
    """
    check_classes(effects, default)
    agents = [*_find_agents(agent)]
    tools = {name for one in agents for name in (*one.tools, *(one.managed_agents or ()))}
    check_names(effects, tools, complete=True)
    for one in agents:
        _record_tools(one, effects, default)
    return agent


def _find_agents(agent: Any) -> Iterator[Any]:
    """The agent, and those that it manages."""
    yield agent
    for managed in (agent.managed_agents or {}).values():
        yield from _find_agents(managed)


def _record_tools(agent: Any, effects: Mapping[str, Effect] | None, default: Effect) -> None:
    for name, tool in agent.tools.items():
        own = "read" if name == "final_answer" else None
        effect = choose_effect(name, effects, own, default)
        # A raised error makes smolagents tell the model to try again; a text is just read.
        tool.forward = record_calls(
            tool.forward, name, effect=effect, positional=tool.inputs, make_failure=str
        )
