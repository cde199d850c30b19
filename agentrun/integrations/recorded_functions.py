"""A function of a framework as one whose calls inside a run are recorded steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import is_recorded_tool

__all__ = ["record_calls"]


def record_calls(
    function: Callable[..., Any],
    name: str,
    *,
    effect: Effect,
    positional: Iterable[str] = (),
    passes: Sequence[type[Exception]] = (),
) -> Callable[..., Any]:
    """The function with each of its calls inside a run recorded, as a step of the tool ``name``.

    ``positional`` holds the names of the parameters that the framework passes by position. A
    function that `agentrun.tool` made is returned unchanged: it records its calls already.
    """
    if is_recorded_tool(function):
        return function
    names = tuple(positional)

    def bind(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(names, args, strict=False)), **kwargs}

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            arguments = bind(args, kwargs)
            return await agentrun.acall(name, arguments, function, effect=effect, passes=passes)

        return acall

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = bind(args, kwargs)
        return agentrun.call(name, arguments, function, effect=effect, passes=passes)

    return call
