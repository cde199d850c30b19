"""Call the agent's function as the body of a run: sync, async, or sync in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentrun.core.errors import ConfigError
from agentrun.core.flow import Op
from agentrun.lifecycle import context_propagation
from agentrun.steps.execution_point import ExecutionPoint, at_point
from agentrun.values.callables import unfinished_kind

__all__ = ["call_body"]

_LEFT = "the agent raised GeneratorExit"  # a GeneratorExit itself would close the executing flow


def call_body(
    line: ExecutionPoint,
    function: Callable[..., Any],
    is_async: bool,
    args: list[Any],
    kwargs: dict[str, Any],
) -> Op[Any]:
    """Call an agent's function as the body of the run.

    A sync function is called here, or in a thread if the caller is async. An async function is
    awaited.
    """
    context_propagation.install()

    def call() -> Any:
        with at_point(line):
            try:
                return _check_finished(line, function(*args, **kwargs))
            except GeneratorExit as error:
                raise RuntimeError(_LEFT) from error
            finally:
                line.run.abandon_steps()

    async def call_async() -> Any:
        if not is_async:
            return await asyncio.to_thread(call)
        context_propagation.install_on(asyncio.get_running_loop())
        line.run.task = asyncio.current_task()
        with at_point(line):
            try:
                return _check_finished(line, await function(*args, **kwargs))
            except GeneratorExit as error:
                if line.run.task is not _running_task():
                    raise  # the coroutine is being closed: it can await nothing any more
                raise RuntimeError(_LEFT) from error
            finally:
                line.run.task = None
                line.run.abandon_steps()

    return Op(call, call_async)


def _check_finished(line: ExecutionPoint, value: Any) -> Any:
    """Return the agent's value. Raises ConfigError for a coroutine, generator and the like.

    Such a value would do its work after the run has ended, where nothing is recorded.
    """
    if (what := unfinished_kind(value)) is not None:
        raise ConfigError(
            f"agent {line.run.agent!r} returned a {what}, which does its work later, where it "
            "could not be recorded: make the function `async def`, or return a list"
        )
    return value


def _running_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
