"""`call` and `acall`: tool calls that a framework makes, by a name and arguments known only then.

A framework has tools of its own kind, and calls them itself. An adapter for it wraps this call in
`call`, and so the tool call is a recorded step, although no function was decorated.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from agentrun.api.tool import Tool
from agentrun.core.errors import ConfigError, NoModelWarning
from agentrun.core.events import Effect
from agentrun.core.flow import run_async, run_sync
from agentrun.steps.approvals import Approve
from agentrun.steps.doubt import OnDoubt
from agentrun.steps.execution_point import ExecutionPoint, current_point
from agentrun.steps.run_context import RunContext
from agentrun.values.callables import is_async

__all__ = ["acall", "call"]


def call(
    name: str,
    args: Mapping[str, Any],
    fn: Callable[..., Any],
    *,
    call_id: str | None = None,
    effect: Effect = "once",
    retries: int = 0,
    timeout: float | None = None,
    on_doubt: OnDoubt = "hold",
    reconcile: Callable[..., Any] | None = None,
    approve: Approve = False,
    approval_timeout: float | None = None,
    passes: Sequence[type[Exception]] = (),
    by_model: bool = True,
) -> Any:
    """Call ``fn(**args)`` as a recorded tool step, for adapters of frameworks.

    Inside a run the step answers the model's tool call of this name: the call with ``call_id``, or
    else one with equal arguments. A resume returns the recorded result and does not call ``fn``.
    Outside a run, ``fn`` is simply called.

    Args:
        name: the tool's name, as the model called it.
        args: the arguments by name; any names, such as ``from``, and values that can be recorded.
        fn: the function that acts. A parameter ``idempotency_key`` gets the step's key, which
            `current_step` has as well. If a person edits the arguments, ``fn`` gets the edited.
        call_id: the id of the tool call in the model's reply.
        effect: how often ``fn`` may act, as in `tool`; so are the options that follow.
        retries: further attempts after an exception.
        timeout: seconds that an attempt may take.
        on_doubt: what to do when an interrupted ``once`` attempt may have taken effect.
        reconcile: is called as ``reconcile(key, **args)`` to find that out.
        approve: True, or a function of the arguments: a person must approve the call first.
        approval_timeout: seconds that a person has to decide.
        passes: exceptions that are the framework's control flow and no failure, such as
            LangGraph's GraphInterrupt. They are recorded, are not retried, and are raised again
            whole by a resume.
        by_model: a model asks for the call, so a NoModelWarning is given if the run recorded none.

    Returns:
        What ``fn`` returned, now or when it was recorded.

    Raises:
        ConfigError: ``fn`` is async (use `acall`), a name in ``args`` is no string, or options
            contradict each other.

    Example:
        >>> def call_tool(tool, arguments, call_id):   # where the framework calls its tools
        ...     return agentrun.call(tool.name, arguments, tool.run, call_id=call_id)
    """
    if is_async(fn):
        raise ConfigError(f"call({name!r}, …): the function is async; use `await agentrun.acall()`")
    line = _point_of_call(name, by_model)
    if line is None:
        return fn(**args)
    tool = _tool(
        name,
        args,
        fn,
        effect=effect,
        retries=retries,
        timeout=timeout,
        on_doubt=on_doubt,
        reconcile=reconcile,
        approve=approve,
        approval_timeout=approval_timeout,
        passes=passes,
    )
    return run_sync(tool.perform(line, dict(args), call_id=call_id))


async def acall(
    name: str,
    args: Mapping[str, Any],
    fn: Callable[..., Any],
    *,
    call_id: str | None = None,
    effect: Effect = "once",
    retries: int = 0,
    timeout: float | None = None,
    on_doubt: OnDoubt = "hold",
    reconcile: Callable[..., Any] | None = None,
    approve: Approve = False,
    approval_timeout: float | None = None,
    passes: Sequence[type[Exception]] = (),
    by_model: bool = True,
) -> Any:
    """Like `call`, for code in an event loop. ``fn`` may be async, or return an awaitable.

    A sync ``fn`` runs in the event loop, as the framework would call it.

    Example:
        >>> async def call_tool(tool, arguments, call_id):
        ...     return await agentrun.acall(tool.name, arguments, tool.arun, call_id=call_id)
    """

    @functools.wraps(fn)  # so that a parameter `idempotency_key` is seen
    async def act(**given: Any) -> Any:
        made = fn(**given)
        return await made if inspect.isawaitable(made) else made

    line = _point_of_call(name, by_model)
    if line is None:
        return await act(**args)
    tool = _tool(
        name,
        args,
        act,
        effect=effect,
        retries=retries,
        timeout=timeout,
        on_doubt=on_doubt,
        reconcile=reconcile,
        approve=approve,
        approval_timeout=approval_timeout,
        passes=passes,
    )
    return await run_async(tool.perform(line, dict(args), call_id=call_id))


def _tool(name: str, args: Mapping[str, Any], fn: Callable[..., Any], **options: Any) -> Tool:
    _check_names(name, args)
    return Tool(fn, name=name, kind="tool", untyped=args.keys(), **options)


def _point_of_call(tool: str, by_model: bool) -> ExecutionPoint | None:
    """The execution point of the call; None outside a run. Warns if its model is not recorded."""
    line = current_point()
    if line is not None and by_model:
        _warn_without_model(line.run, tool)
    return line


def _warn_without_model(run: RunContext, tool: str) -> None:
    """Give a NoModelWarning, once for the run, if no model call of the run is recorded."""
    with run.lock:
        if run.model_warning_given or run.history.has_model_call():
            return
        run.model_warning_given = True
    warnings.warn(
        f"run {run.key!r}, tool {tool!r}: no model call of this run is recorded, so a resumed run "
        "pays for its model calls again, and they may ask for something else. Call "
        "agentrun.install() when the program starts, or wrap the client: agentrun.wrap(client)",
        NoModelWarning,
        stacklevel=4,
    )


def _check_names(tool: str, names: Collection[object]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"call({tool!r}, …): the argument name {name!r} is no string")
