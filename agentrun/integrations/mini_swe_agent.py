"""mini-swe-agent: inside a run, each command of an agent is a recorded step.

    from agentrun.integrations.mini_swe_agent import durable

    agentrun.install()
    agent = DefaultAgent(model, durable(LocalEnvironment()), **config)

`agentrun.install()` records the model, which makes its own client.
"""

from __future__ import annotations

from typing import Any, TypeVar

from minisweagent.exceptions import InterruptAgentFlow

from agentrun.core.events import Effect
from agentrun.integrations.recorded_functions import record_calls

__all__ = ["durable"]

E = TypeVar("E")


def durable(environment: E, *, effect: Effect = "once") -> E:
    """Record the commands that are executed in an environment.

    The step of a command is the tool call ``execute``. A command that was interrupted by a crash
    waits for a decision, because nobody knows how far it came; with ``effect="idempotent"`` it is
    executed again. A resumed run needs the files that earlier commands have written: the
    environment itself (a folder, a container) has to outlive the process.

    Args:
        environment: a `LocalEnvironment`, `DockerEnvironment`, or another with `execute`.
        effect: the effect class of every command.

    Returns:
        The same environment, changed in place.

    Example:
        >>> agent = DefaultAgent(model, durable(LocalEnvironment(cwd="/work")))
    """
    changed: Any = environment
    changed.execute = record_calls(
        changed.execute,
        "execute",
        effect=effect,
        positional=("action", "cwd"),
        passes=(InterruptAgentFlow,),
    )
    return environment
