"""mini-swe-agent: inside a run, each command of an agent is a recorded step.

    from agentrun.integrations.mini_swe_agent import durable

    agentrun.install()
    agent = DefaultAgent(model, durable(LocalEnvironment()), **config)

`agentrun.install()` records the model, which makes its own client.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from minisweagent.exceptions import InterruptAgentFlow

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import check_classes
from agentrun.integrations.recorded_functions import record_calls

__all__ = ["durable"]

E = TypeVar("E")


def durable(environment: E, *, effect: Effect = "once") -> E:
    """Record the commands that are executed in an environment.

    The step of a command is the tool call ``execute``. A command that was interrupted by a crash
    waits for a decision, because nobody knows how far it came; with ``effect="idempotent"`` it is
    executed again. A resumed run needs the files that earlier commands have written: the
    environment itself (a folder, a container) has to outlive the process. Make the environment
    inside the run: what the templates show of the machine is recorded once for each environment.

    Args:
        environment: a `LocalEnvironment`, `DockerEnvironment`, or another with `execute`.
        effect: the effect class of every command.

    Returns:
        The same environment, changed in place.

    Raises:
        ConfigError: ``effect`` is no effect class.

    Example:
        >>> agent = DefaultAgent(model, durable(LocalEnvironment(cwd="/work")))
    """
    check_classes({"execute": effect}, effect)
    changed: Any = environment
    changed.execute = record_calls(
        changed.execute,
        "execute",
        effect=effect,
        positional=("action", "cwd"),
        passes=(InterruptAgentFlow,),
        load=_as_output,
        make_failure=lambda text: {"output": "", "returncode": -1, "exception_info": text},
    )
    changed.get_template_vars = _record_machine(changed.get_template_vars)
    return environment


def _as_output(returned: Any) -> dict[str, Any]:
    """What a command gave, also where a person said only what it printed."""
    if isinstance(returned, dict) and "returncode" in returned:
        return returned
    return {"output": str(returned), "returncode": 0, "exception_info": ""}


def _record_machine(read: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The environment's template variables, which are the same when another machine resumes.

    The values of environment variables are not recorded, since they hold secrets.
    """
    recorded: dict[str, Any] = {}

    def split() -> dict[str, Any]:
        found = read()
        names = [name for name in found if name in os.environ]
        return {"values": {n: v for n, v in found.items() if n not in names}, "variables": names}

    def get_template_vars(**kwargs: Any) -> dict[str, Any]:
        if agentrun.current_run() is None or kwargs:
            return read(**kwargs)
        if not recorded:
            recorded.update(agentrun.step(effect="read", name="template variables")(split)())
        variables = {name: os.environ.get(name, "") for name in recorded["variables"]}
        return {**recorded["values"], **variables}

    return get_template_vars
