"""`@tool` and `@step`: functions whose calls inside a run are recorded steps.

Outside a run a tool is the plain function. Inside, its arguments are validated, the call is found
among those the model asked for, and `perform` does the rest.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from pydantic import ValidationError

from agentrun.core.codec import canonical, check
from agentrun.core.errors import ConfigError, ToolFailed
from agentrun.core.events import Effect, Json, Kind
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.identity import Asked, find_call
from agentrun.runner import approvals
from agentrun.runner.approvals import Approve
from agentrun.runner.context import Line, StepInfo, current_line
from agentrun.runner.doubt import OnDoubt, Policy
from agentrun.runner.perform import Body, perform
from agentrun.runner.step import Wanted
from agentrun.runner.values import Arguments

P = ParamSpec("P")
R = TypeVar("R")

_EFFECTS = ("read", "idempotent", "transaction", "once")
_ON_DOUBT = ("hold", "tell_model", "retry", "fail")


class Tool(Generic[P, R]):
    """A function with an effect class. Calling it inside a run is a recorded step."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        effect: Effect,
        name: str | None,
        retries: int,
        timeout: float | None,
        on_doubt: OnDoubt,
        reconcile: Callable[..., Any] | None,
        approve: Approve,
        kind: Kind,
    ) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.name = name or function.__name__
        self.effect = effect
        self.kind = kind
        self.retries = retries
        self.timeout = timeout
        self.on_doubt = on_doubt
        self.reconcile = reconcile
        self.approve = approve
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self._check()
        self.arguments = Arguments(function, what="the tool" if kind == "tool" else "the step")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.is_async:
            return cast(R, self._awaited(args, kwargs))
        line = current_line()
        if line is None:
            return self.function(*args, **kwargs)
        return cast(R, run_sync(self._plain_call(line, args, kwargs)))

    async def _awaited(self, args: Any, kwargs: Any) -> Any:
        # Looked up when awaited: `gather(tool(1), tool(2))` makes each call a task of its own.
        line = current_line()
        if line is None:
            return await cast(Any, self.function)(*args, **kwargs)
        return await run_async(self._plain_call(line, args, kwargs))

    def __repr__(self) -> str:
        return f"<agentrun {self.kind} {self.name!r}, {self.effect}>"

    # -- flows -------------------------------------------------------------------------------------

    def _plain_call(self, line: Line, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Any]:
        given = self.arguments.bind(args, kwargs)
        return (yield from self.perform(line, self.validated(given)))

    def perform(self, line: Line, values: dict[str, Any], call: Asked | None = None) -> Flow[Any]:
        """Perform the tool with validated arguments, as the step that answers ``call``."""
        asked = self.recorded(values)
        if call is None and self.kind == "tool":
            with line.run.lock:
                call = find_call(
                    line.scope, self.name, None, lambda sent: self._equals(sent, asked)
                )
        wanted = Wanted(
            kind=self.kind,
            name=self.name,
            effect=self.effect,
            asked={"args": asked},
            call=call,
            doubt=Policy(self.on_doubt, self.reconcile, values, self.arguments.result.encode),
        )
        body = Body(
            functools.partial(self._invoke, values),
            self.arguments.result,
            self.retries,
            self.timeout,
            approve=approvals.wanted(self.approve, values),
            edited=lambda given: functools.partial(self._invoke_edited, given),
        )
        return (yield from perform(line, wanted, body))

    def validated(self, given: dict[str, Any]) -> dict[str, Any]:
        """Typed arguments. Raises ToolFailed, before any effect, when they do not fit."""
        try:
            return self.arguments.validate(given)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ToolFailed(f"{self.name}: the arguments are not valid: {problems}") from None

    def recorded(self, values: dict[str, Any]) -> dict[str, Json]:
        """Validated arguments as the journal holds them. Raises ToolFailed for what it cannot."""
        try:
            asked = self.arguments.dump(values)
            check(asked, "the arguments")
        except ValueError as error:
            text = f"{self.name}: the arguments cannot be recorded: {error}"
            raise ToolFailed(text) from error
        return asked

    def _invoke(self, values: dict[str, Any], info: StepInfo) -> Any:
        positional, named = self.arguments.call_with(values, info.key)
        return cast(Callable[..., Any], self.function)(*positional, **named)

    def _invoke_edited(self, given: dict[str, Any], info: StepInfo) -> Any:
        # Only now: that what a person wrote does not fit is an outcome, and recorded.
        return self._invoke(self.validated(given), info)

    def _equals(self, sent: Json, asked: dict[str, Json]) -> bool:
        """Whether what the model sent means these arguments, once validated."""
        try:
            given = json.loads(sent) if isinstance(sent, str) else sent
            values = self.arguments.validate(given or {})
            return canonical(self.arguments.dump(values), sort=True) == canonical(asked, sort=True)
        except (ValueError, TypeError, RecursionError):
            return False

    def _check(self) -> None:
        name, effect = self.name, self.effect
        if effect not in _EFFECTS:
            raise ConfigError(f"{name}: effect={effect!r}; choose one of {', '.join(_EFFECTS)}")
        if self.on_doubt not in _ON_DOUBT:
            raise ConfigError(
                f"{name}: on_doubt={self.on_doubt!r}; choose one of {', '.join(_ON_DOUBT)}"
            )
        if self.retries < 0 or (self.timeout is not None and self.timeout <= 0):
            raise ConfigError(f"{name}: retries must be 0 or more and timeout above 0 seconds")
        if effect == "once" and self.retries:
            raise ConfigError(
                f"{name}: a `once` effect is never retried by itself, since a failed call may have "
                "taken effect; declare effect='idempotent', or give reconcile= or on_doubt='retry'"
            )
        if self.timeout is not None and effect == "transaction":
            raise ConfigError(
                f"{name}: a `transaction` tool has no timeout=; run SET LOCAL statement_timeout"
            )
        if self.timeout is not None and effect == "once" and not self.is_async:
            raise ConfigError(
                f"{name}: a sync function cannot be stopped, so a timeout would leave a `once` "
                "effect going on unseen; make it async, or give the call inside it a timeout"
            )


class _Decorator:
    """`@tool` and `@step`: used bare, with options, or on a function at the call site."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    @overload
    def __call__(self, function: Callable[P, R], /) -> Tool[P, R]: ...
    @overload
    def __call__(
        self,
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
    ) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
    def __call__(
        self,
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
    ) -> Any:
        """Make calls of a function recorded steps of the run they happen in.

        Args:
            effect: what a crash in the middle may mean. ``read`` changes nothing and may be
                repeated; ``idempotent`` may be repeated with the same key; ``transaction`` does
                only SQL on ``current_step().connection`` and commits with its checkpoint;
                ``once`` is never repeated without a recorded decision.
            name: how the model and the journal call it; default: the function's name.
            retries: how many further attempts an exception gets; each is recorded.
            timeout: seconds an attempt may take.
            on_doubt: what to do when an interrupted ``once`` attempt may have taken effect and
                `reconcile` cannot tell: ``hold`` the run for a person, ``tell_model`` that the
                outcome is unknown, ``retry``, or ``fail``.
            reconcile: called as ``reconcile(key, **arguments)`` to find out; returns
                ``Happened(result)``, ``NotHappened()`` or ``Unknown()``.
            approve: True, or a predicate on the arguments: such a call waits in the inbox until a
                person approves exactly these arguments, edits them, or rejects the call.

        Raises:
            ConfigError: the options contradict each other.
        """

        def decorate(function: Callable[..., Any]) -> Tool[..., Any]:
            if isinstance(function, Tool):
                raise ConfigError(f"{function.name} is a tool or step already")
            return Tool(
                function,
                effect=effect,
                name=name,
                retries=retries,
                timeout=timeout,
                on_doubt=on_doubt,
                reconcile=reconcile,
                approve=approve,
                kind=self._kind,
            )

        return decorate if function is None else decorate(function)


tool = _Decorator("tool")
step = _Decorator("function")
