"""smolagents: inside a run, each tool call of an agent is a recorded step.

    from agentrun.integrations.smolagents import durable

    agentrun.install()
    agent = durable(ToolCallingAgent(tools=[search], model=OpenAIModel("gpt-5-mini")))

`agentrun.install()` records the model, which makes its own client. A tool whose `forward` is a
function that `agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import choose_effect
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

    Example:
        >>> agent = durable(ToolCallingAgent([search], model), effects={"search": "read"})
    """
    changed: Any = agent
    for name, tool in changed.tools.items():
        own = "read" if name == "final_answer" else None
        effect = choose_effect(name, effects, own, default)
        # A raised error makes smolagents tell the model to try again; a text is just read.
        tool.forward = record_calls(
            tool.forward, name, effect=effect, positional=tool.inputs, make_failure=str
        )
    for managed in (changed.managed_agents or {}).values():
        durable(managed, effects=effects, default=default)
    return agent
