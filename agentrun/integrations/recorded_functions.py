"""A function of a framework as one whose calls inside a run are recorded steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import is_recorded_tool

__all__ = ["change_result", "record_calls"]

_ORIGINAL = "_agentrun_original"  # attribute of a recorded function: the function without us


def record_calls(
    function: Callable[..., Any],
    name: str,
    *,
    effect: Effect,
    positional: Iterable[str] = (),
    passes: Sequence[type[Exception]] = (),
    dump: Callable[[Any], Any] | None = None,
    load: Callable[[Any], Any] | None = None,
    make_failure: Callable[[str], Any] | None = None,
) -> Callable[..., Any]:
    """The function with each of its calls inside a run recorded, as a step of the tool ``name``.

    A function that `agentrun.tool` made is returned unchanged: it records its calls already. What
    this function has returned before is recorded anew, and not twice, since a framework may give
    one tool to many agents.

    Args:
        function: the function.
        name: the tool's name.
        effect: its effect class.
        positional: the names of the parameters that the framework passes by position.
        passes: exceptions that are control flow of the framework.
        dump: makes JSON of what the function returns.
        load: makes of that JSON what the framework gets, live and on a resume.
        make_failure: makes what the framework gets in place of a ToolFailed, of its text. Default:
            the error is raised.
    """
    if is_recorded_tool(function):
        return function
    original = getattr(function, _ORIGINAL, function)
    act = change_result(original, dump) if dump else original
    names = tuple(positional)

    def bind(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(names, args, strict=False)), **kwargs}

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            arguments = bind(args, kwargs)
            return await agentrun.acall(name, arguments, act, effect=effect, passes=passes)

        recorded: Callable[..., Any] = acall
    else:

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            arguments = bind(args, kwargs)
            return agentrun.call(name, arguments, act, effect=effect, passes=passes)

        recorded = call
    if load or make_failure:
        recorded = change_result(recorded, load or _same, make_failure)
    setattr(recorded, _ORIGINAL, original)
    return recorded


def change_result(
    function: Callable[..., Any],
    change: Callable[[Any], Any],
    make_failure: Callable[[str], Any] | None = None,
) -> Callable[..., Any]:
    """The function, sync or async, whose result is changed; see `record_calls`."""

    def replace(failed: agentrun.ToolFailed) -> Any:
        if make_failure is None:
            raise failed
        return make_failure(str(failed))

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            try:
                result = await function(*args, **kwargs)
            except agentrun.ToolFailed as failed:
                return replace(failed)
            return change(result)

        return acall

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except agentrun.ToolFailed as failed:
            return replace(failed)
        return change(result)

    return call


def _same(result: Any) -> Any:
    return result
