"""`@agent`: the decorator that makes a `DurableAgent` of a function."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from agentrun.api.agent import DurableAgent, StreamingAgent
from agentrun.core.budget import Budget
from agentrun.core.errors import ConfigError
from agentrun.lifecycle.generator_agents import is_generator
from agentrun.lifecycle.options import Options
from agentrun.lifecycle.registry import register
from agentrun.steps.divergence_policy import OnDivergence, check_on_divergence
from agentrun.values.callables import name_of

__all__ = ["agent"]

P = ParamSpec("P")
R = TypeVar("R")

_Yields = Generator[R, Any, Any] | AsyncGenerator[R, Any] | Iterator[R] | AsyncIterator[R]


class _Decorator(Protocol):
    """The type of ``@agent(…)`` with options: which agent it makes depends on the function."""

    @overload
    def __call__(self, function: Callable[P, _Yields[R]], /) -> StreamingAgent[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> DurableAgent[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> DurableAgent[P, R]: ...


@overload
def agent(function: Callable[P, _Yields[R]], /) -> StreamingAgent[P, R]: ...
@overload
def agent(function: Callable[P, Coroutine[Any, Any, R]], /) -> DurableAgent[P, R]: ...
@overload
def agent(function: Callable[P, R], /) -> DurableAgent[P, R]: ...
@overload
def agent(
    function: None = None,
    /,
    *,
    name: str | None = None,
    aliases: Collection[str] = (),
    budget: Budget | None = None,
    on_divergence: OnDivergence = "refuse",
    masked: Sequence[str] = (),
) -> _Decorator: ...
def agent(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    aliases: Collection[str] = (),
    budget: Budget | None = None,
    on_divergence: OnDivergence = "refuse",
    masked: Sequence[str] = (),
) -> Any:
    """Make an agent of a function: each execution of the function is a durable run.

    Works on ``def``, ``async def`` and generator functions, with or without options. The result is
    a `DurableAgent`: call its `run`, `arun` or `submit` with the function's own arguments. Of a
    generator function it is a `StreamingAgent`, which also has `stream` and `astream`.

    Args:
        name: the agent's identity, in code and in the journal. Default: the function's name.
            Running a notebook cell again replaces the agent of that name.
        aliases: former names of the agent. It resumes runs that are recorded under them.
        budget: limits on what each run and its children may spend.
        on_divergence: what a run does when changed code asks for something other than what is
            recorded: "refuse" (default), "keep" or "accept", as in `DurableAgent.with_options`.
        masked: parameters whose values are never stored. A dotted name is one field of a
            parameter, "result" is the returned value. The journal holds a mask instead, and the
            function gets the mask too, so that a resume sees what the first execution saw.

    Returns:
        The agent. `agent` with options returns a decorator that makes it.

    Raises:
        ConfigError: another agent has one of these names; the function is a method; or ``masked``
            names no parameter, or one whose type cannot hold a text.

    Example:
        >>> @agentrun.agent(aliases=("desk",), on_divergence="keep")
        ... def helpdesk(question: str) -> str:
        ...     return answer(question)
        >>> helpdesk.with_options(key="ticket-42").run("refund order 7")
    """
    _check_aliases(aliases)
    check_on_divergence(on_divergence)

    def decorate(function: Callable[..., Any]) -> Any:
        kind = cast(
            type[DurableAgent[..., Any]],
            StreamingAgent if is_generator(function) else DurableAgent,
        )
        made = kind(
            function,
            name or name_of(function),
            Options(budget=budget),
            aliases,
            on_divergence,
            masked,
        )
        return register(made)

    return decorate if function is None else decorate(function)


def _check_aliases(aliases: Collection[object]) -> None:
    if isinstance(aliases, str) or not all(isinstance(a, str) and a for a in aliases):
        raise ConfigError(f"aliases={aliases!r}: give a tuple of names, as in aliases=('old',)")
