"""`@tool` and `@step`: the decorators that make each call of a function a recorded step.

Both are used bare (``@tool``), with options (``@tool(effect="read")``), or on a function at the
call site (``step(fn)(*args)``). They differ in the kind of the step: only a tool answers a model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from agentrun.api.tool import Tool, ToolFunction, tool_of
from agentrun.core.errors import ConfigError
from agentrun.core.events import Effect, Kind
from agentrun.steps.approvals import Approve
from agentrun.steps.doubt import OnDoubt
from agentrun.values.callables import name_of

__all__ = ["step", "tool"]

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    "effect",
    "name",
    "retries",
    "timeout",
    "on_doubt",
    "reconcile",
    "approve",
    "approval_timeout",
    "masked",
)


@overload
def tool(function: Callable[P, R], /) -> ToolFunction[P, R]: ...
@overload
def tool(
    function: None = None,
    /,
    *,
    effect: Effect = "once",
    name: str | None = None,
    retries: int = 0,
    timeout: float | None = None,
    on_doubt: OnDoubt = "hold",
    reconcile: Callable[..., Any] | None = None,
    approve: Approve = False,
    approval_timeout: float | None = None,
    masked: Sequence[str] = (),
) -> Callable[[Callable[P, R]], ToolFunction[P, R]]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect = "once",
    name: str | None = None,
    retries: int = 0,
    timeout: float | None = None,
    on_doubt: OnDoubt = "hold",
    reconcile: Callable[..., Any] | None = None,
    approve: Approve = False,
    approval_timeout: float | None = None,
    masked: Sequence[str] = (),
) -> Any:
    """Make a tool of a function: inside a run, each call is a recorded step.

    Outside a run a tool is the plain function. After a crash, a call that is recorded returns its
    recorded result, and the function is not called again.

    Args:
        effect: how often the function may act. ``read`` changes nothing and may be repeated;
            ``idempotent`` may be repeated with the same key; ``transaction`` executes only SQL
            on ``current_step().connection``, and commits together with its checkpoint; ``once``
            (default) is never repeated without a recorded decision.
        name: the tool's name for the model and in the journal. Default: the function's name.
        retries: further attempts after an exception; each is recorded. Default: 0.
        timeout: seconds that an attempt may take. Default: no limit.
        on_doubt: what to do when an interrupted ``once`` attempt may have taken effect and
            ``reconcile`` cannot decide: ``hold`` the run for a person (default), ``tell_model``
            that the outcome is unknown, ``retry``, or ``fail``.
        reconcile: is called as ``reconcile(key, **arguments)`` to find out whether the attempt
            took effect; returns ``Happened(result)``, ``NotHappened()`` or ``Unknown()``.
        approve: True, or a function of the arguments that returns a bool. Such a call waits in
            the inbox until a person approves it, edits its arguments, or rejects it.
        approval_timeout: seconds that a person has to decide. Then the call is not made, and
            raises ApprovalExpired; the model reads the error.
        masked: parameters whose values are never stored. A dotted name is one field of a
            parameter, "result" is the returned value. The journal gets a mask instead. The
            function gets the exact arguments; the agent gets the mask of a result.

    Returns:
        A function with the same parameters, less ``idempotency_key``, which is filled in with
        the step's key. In a class it is a method. Parameters that a framework fills in
        (RunContext, ToolRuntime, …) are passed on as they are, and are not recorded.

    Raises:
        ConfigError: options contradict each other, or the function is a generator or a context
            manager, whose calls cannot be recorded.

    Example:
        >>> @agentrun.tool(effect="idempotent", retries=2)
        ... def refund(order_id: str, cents: int, idempotency_key: str = "") -> dict:
        ...     return shop.refund(order_id, cents, key=idempotency_key)
    """
    given = (effect, name, retries, timeout, on_doubt, reconcile, approve, approval_timeout, masked)
    return _decorator("tool", given, function)


@overload
def step(function: Callable[P, R], /) -> ToolFunction[P, R]: ...
@overload
def step(
    function: None = None,
    /,
    *,
    effect: Effect = "once",
    name: str | None = None,
    retries: int = 0,
    timeout: float | None = None,
    on_doubt: OnDoubt = "hold",
    reconcile: Callable[..., Any] | None = None,
    approve: Approve = False,
    approval_timeout: float | None = None,
    masked: Sequence[str] = (),
) -> Callable[[Callable[P, R]], ToolFunction[P, R]]: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect = "once",
    name: str | None = None,
    retries: int = 0,
    timeout: float | None = None,
    on_doubt: OnDoubt = "hold",
    reconcile: Callable[..., Any] | None = None,
    approve: Approve = False,
    approval_timeout: float | None = None,
    masked: Sequence[str] = (),
) -> Any:
    """Make each call of a function a recorded step of the run, for code that no model calls.

    The options are those of `tool`. Unlike a tool, a step answers no tool call of a model and does
    not count against a budget's ``tool_calls``. It is a decorator, or wraps a single call.

    Raises:
        ConfigError: as `tool` does.

    Example:
        >>> @agentrun.step(effect="read")
        ... def load(path: str) -> str:
        ...     return Path(path).read_text()
        >>> agentrun.step(send_mail)("ana@desk.example", "Your refund is on its way.")
    """
    given = (effect, name, retries, timeout, on_doubt, reconcile, approve, approval_timeout, masked)
    return _decorator("function", given, function)


def _decorator(kind: Kind, given: tuple[Any, ...], function: Callable[..., Any] | None) -> Any:
    """The decorator with these options; or, on a function, what the decorator makes of it."""
    options = {"kind": kind, **dict(zip(_OPTIONS, given, strict=True))}
    decorate = functools.partial(_decorate, options)
    return decorate if function is None else decorate(function)


def _decorate(options: dict[str, Any], function: Any) -> Any:
    if _wraps_a_function(function):
        return type(function)(_decorate(options, function.__func__))
    if tool_of(function) is not None:
        raise ConfigError(f"{name_of(function)} is a tool or step already")
    return Tool(function, **options).as_function()


def _wraps_a_function(value: Any) -> bool:
    """Whether the decorator stands above `@staticmethod` or `@classmethod`."""
    return isinstance(value, staticmethod | classmethod)
