"""The registry: the agents that this process defines, by name.

It also refuses to start a run while a file is being imported.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from types import CodeType
from typing import Any, Protocol, TypeVar

from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.flow import Op
from agentrun.lifecycle.options import Options
from agentrun.steps.divergence_policy import OnDivergence
from agentrun.steps.execution_point import ExecutionPoint
from agentrun.values.arguments import Arguments

__all__ = [
    "RunnableAgent",
    "defined_in",
    "find_agent",
    "importing",
    "known_agents",
    "refuse_while_importing",
    "register",
    "registered",
]

importing: ContextVar[str | None] = ContextVar("agentrun_importing", default=None)


class RunnableAgent(Protocol):
    """What the code that executes runs needs of an agent. `DurableAgent` implements it."""

    @property
    def name(self) -> str:
        """The agent's identity, in code and in the journal."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """The agent's former names."""
        ...

    @property
    def options(self) -> Options:
        """The options of its runs."""
        ...

    @property
    def on_divergence(self) -> OnDivergence:
        """What its runs do on a divergence, by default."""
        ...

    @property
    def arguments(self) -> Arguments:
        """How its arguments and its result are recorded."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether its function is an ``async def``."""
        ...

    @property
    def place(self) -> str:
        """The file that defines the agent."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases: its runs may be recorded under any of them."""
        ...

    def body(self, line: ExecutionPoint, values: dict[str, Json]) -> Op[Any]:
        """Execute the function as the run that ``line`` belongs to."""
        ...


A = TypeVar("A", bound=RunnableAgent)

_INTERACTIVE = "(interactive)"

_agents: dict[str, RunnableAgent] = {}  # by name, and by each alias


def register(made: A) -> A:
    """Register an agent under its names. It replaces an earlier definition in the same file.

    Raises ConfigError if another agent has one of the names.
    """
    earlier = [other for name in made.names if (other := _agents.get(name)) is not None]
    for other in earlier:
        again = other.name == made.name or other.place == _INTERACTIVE
        if other.place != made.place or not again:
            (shared, *_) = (name for name in made.names if name in other.names)
            raise ConfigError(
                f"two agents are named {shared!r}: {other.name!r} in {other.place} and "
                f"{made.name!r} in {made.place}; give one of them another name or alias, as by "
                "@agentrun.agent(name=…)"
            )
    for other in earlier:
        for name in other.names:
            _agents.pop(name, None)
    _agents.update(dict.fromkeys(made.names, made))
    return made


def defined_in(code: CodeType | None) -> str:
    """The file that holds this code."""
    if code is None:
        return "(not of Python)"
    path = Path(code.co_filename)
    # Each notebook cell has a file name of its own, which does not exist. They count as one file.
    return str(path.resolve()) if path.exists() else _INTERACTIVE


def find_agent(name: str) -> RunnableAgent | None:
    """The agent of this name or alias; None if no imported file defines it."""
    return _agents.get(name)


def registered(name: str) -> RunnableAgent:
    """The agent of this name or alias. Raises ConfigError if no imported file defines it."""
    if name not in _agents:
        known = ", ".join(sorted(_agents)) or "none"
        raise ConfigError(
            f"no agent named {name!r} is defined in this process (known: {known}); import the "
            "file that defines it"
        )
    return _agents[name]


def known_agents() -> list[str]:
    """The names and aliases of all agents that this process defines."""
    return sorted(_agents)


def refuse_while_importing(what: str) -> None:
    """Raise ConfigError if a file is being imported: each import would start or resume ``what``."""
    if (file := importing.get()) is not None:
        raise ConfigError(
            f"{what} was run while {file} was being imported, which would start a run each time: "
            'put the call under `if __name__ == "__main__":`'
        )
