"""`Tool`: a function whose calls inside a run are recorded steps.

Outside a run a tool is the plain function. Inside a run, a call validates its arguments, finds the
tool call of the model's reply that it answers, and has `perform` record and execute the step.

The decorators (`tool_decorators.py`) return a real function, because frameworks accept only
functions as tools. `tool_of` finds the `Tool` behind such a function.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from pydantic import ValidationError

from agentrun.core.codec import canonical, check
from agentrun.core.errors import ConfigError, ToolFailed
from agentrun.core.events import Effect, Json, Kind
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.identity import RequestedToolCall, find_call
from agentrun.core.messages import arguments_of
from agentrun.steps import approvals
from agentrun.steps.approvals import Approve
from agentrun.steps.current_step import StepInfo
from agentrun.steps.doubt import OnDoubt, Policy
from agentrun.steps.execution_point import ExecutionPoint, current_point
from agentrun.steps.function_step import StepBody, perform
from agentrun.steps.masking import Covered
from agentrun.steps.refusals import refusal
from agentrun.steps.step import StepRequest
from agentrun.values.annotations import hints_of
from agentrun.values.arguments import Arguments, RecordedArguments, UntypedArguments
from agentrun.values.callables import (
    contexts_of,
    function_of,
    imitate_function,
    is_async,
    name_of,
    receiver_of,
    refuse_unrecordable,
)
from agentrun.values.model_arguments import describe_problems

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")

_EFFECTS = ("read", "idempotent", "transaction", "once")
_ON_DOUBT = ("hold", "tell_model", "retry", "fail")
_WORDS: dict[Kind, str] = {"tool": "tool", "function": "step"}


class ToolFunction(Protocol[P, R_co]):
    """The type of a function that `@tool` or `@step` made, plain or ``async def``.

    ``name`` is the tool's name in journals, ``effect`` is its effect class, and ``function`` is
    the undecorated function. In a class it is a method: `shop.look` is the tool of that object.

    Example:
        >>> refund.name, refund.effect, refund.function.__name__
        ('refund', 'idempotent', 'refund')
    """

    name: str
    effect: Effect
    function: Callable[..., Any]
    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @overload
    def __get__(self, instance: None, owner: Any, /) -> ToolFunction[P, R_co]: ...
    @overload
    def __get__(
        self: ToolFunction[Concatenate[S, Q], R_co], instance: S, owner: Any, /
    ) -> ToolFunction[Q, R_co]: ...


class Tool:
    """A tool or a step: the function, its options, and how its calls are recorded.

    The decorators `tool` and `step` make it. Users hold the function that `as_function` returns;
    frameworks and adapters work with the `Tool`.

    Example:
        >>> refund.name, refund.effect   # the function shows its name and its effect class
        ('refund', 'idempotent')
    """

    def __init__(
        self,
        given: Callable[..., Any],
        *,
        effect: Effect,
        name: str | None,
        retries: int,
        timeout: float | None,
        on_doubt: OnDoubt,
        reconcile: Callable[..., Any] | None,
        approve: Approve,
        approval_timeout: float | None,
        kind: Kind,
        masked: Sequence[str] = (),
        passes: Sequence[type[Exception]] = (),
        untyped: Collection[str] | None = None,
    ) -> None:
        """``untyped`` holds the names of the arguments of a call that a framework makes."""
        what = f"the {_WORDS[kind]}"
        refuse_unrecordable(given, what)
        self.original = given
        self.function = function_of(given, what)
        self.name = name or name_of(given)
        self.effect: Effect = effect
        self.kind: Kind = kind
        self.retries = retries
        self.timeout = timeout
        self.on_doubt: OnDoubt = on_doubt
        self.reconcile = reconcile
        self.approve = approve
        self.approval_timeout = approval_timeout
        self.passes = tuple(passes)
        self.is_async = is_async(self.function)
        self._check()
        self.passed: dict[str, Any] = {}  # the object of a bound method
        if untyped is not None:
            self.receiver, self.contexts = None, []
            self.arguments: Arguments = UntypedArguments(self.function, untyped, what=what)
            self.covered = Covered((), self.arguments, self.name)
            return
        self.receiver = receiver_of(self.function)
        self.contexts = contexts_of(self.function)
        passed = [*([self.receiver] if self.receiver else []), *self.contexts]
        self.arguments = Arguments(self.function, what=what, passed=passed)
        self.covered = Covered(masked, self.arguments, self.name)
        if kind == "tool":
            self.covered.cover_replies(self.name, self.function)

    def as_function(self) -> Any:
        """The function that users and frameworks call."""
        if self.is_async:

            async def acall(*args: Any, **kwargs: Any) -> Any:
                # Read here and not at the call: `gather(tool(1), tool(2))` makes each call a
                # task, and each task is a line of control of its own.
                line = current_point()
                if line is None:
                    return await self.function(*args, **kwargs)
                return await run_async(self._record_call(line, args, kwargs))

            return self._dress(acall)

        def call(*args: Any, **kwargs: Any) -> Any:
            line = current_point()
            if line is None:
                return self.function(*args, **kwargs)
            return run_sync(self._record_call(line, args, kwargs))

        return self._dress(call)

    def _dress(self, made: Any) -> Any:
        imitate_function(made, self.function, self.name)
        made.name, made.effect, made.function = self.name, self.effect, self.original
        made.__agentrun_tool__, self.made = self, made
        return made

    def bind_to(self, receiver: Any) -> Tool:
        """A copy of this method's tool, bound to one object, as `shop.look` is."""
        made = copy.copy(self)
        made.passed = {str(self.receiver): receiver}
        return made

    def check_callable(self) -> None:
        """Raise ConfigError if only a framework, which fills in a context, can call the tool."""
        for name in self.contexts:
            if self.arguments.signature.parameters[name].default is inspect.Parameter.empty:
                raise refusal(
                    f"{self.name} takes {name!r}, which its framework fills in, and call_tools() "
                    "cannot fill in. Have the framework call it, or give the parameter a default"
                )

    def __repr__(self) -> str:
        return f"<agentrun {_WORDS[self.kind]} {self.name!r}, {self.effect}>"

    # -- flows -------------------------------------------------------------------------------------

    def _record_call(
        self, line: ExecutionPoint, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Flow[Any]:
        passed = self.arguments.passed_objects(args, kwargs)
        return (yield from self.perform(line, self.arguments.bind(args, kwargs), passed=passed))

    def perform(
        self,
        line: ExecutionPoint,
        given: dict[str, Any],
        call: RequestedToolCall | None = None,
        passed: dict[str, Any] | None = None,
        call_id: str | None = None,
    ) -> Flow[Any]:
        """Execute the tool with these arguments, as the step that answers the tool call ``call``.

        Without ``call``, the tool call is found by ``call_id``, or else by equal arguments.

        ``passed`` holds objects that are passed on but not recorded: the object of a method, and
        the context of a framework.
        """
        passed = passed or self.passed
        values = self.validate(given)
        asked = self.record(values, given)
        if call is None and self.kind == "tool":
            if line.run.open_replies:
                yield from line.run.finish_reply(line.scope, self.name, call_id)
            with line.run.lock:
                call = find_call(
                    line.scope, self.name, call_id, lambda sent: self._equals(sent, asked)
                )
        body = StepBody(
            functools.partial(self._invoke_recorded, passed, asked.args),
            self.arguments.result,
            self.retries,
            self.timeout,
            counted=self.kind == "tool",
            approve=approvals.needs_approval(self.approve, values),
            approval_timeout=self.approval_timeout,
            passes=self.passes,
            edited=lambda given: functools.partial(
                self._invoke_edited, {**given, **self._unmasked(asked.args)}, passed
            ),
        )
        return (yield from perform(line, self._request(asked, call), body))

    def request_approval(
        self, line: ExecutionPoint, given: dict[str, Any], call: RequestedToolCall | None
    ) -> None:
        """Request the approval that a call needs, before it is the call's turn to be executed."""
        values = self.validate(given)
        if approvals.needs_approval(self.approve, values):
            approvals.request_approval(line, self._request(self.record(values, given), call))

    def _request(self, asked: RecordedArguments, call: RequestedToolCall | None) -> StepRequest:
        return StepRequest(
            kind=self.kind,
            name=self.name,
            effect=self.effect,
            input={"args": self.covered.cover(asked.args)},
            compared={"args": asked.compared},
            defaults=self.arguments.defaults,
            call=call,
            doubt=Policy(self.on_doubt, self.reconcile, self.arguments),
        )

    def validate(self, given: dict[str, Any], *, sent: bool = False) -> dict[str, Any]:
        """The arguments as typed values. Raises ToolFailed, before any effect, if they do not fit.

        With ``sent``, a model sent them: then no JSON type is converted, as "5" to 5 is.
        """
        values: dict[str, Any] = {}
        try:
            values = self.arguments.validate(given)
            problems = self.arguments.wrong_types(given) if sent else ""
        except ValidationError as error:
            problems = describe_problems(error.errors(include_url=False))
        if problems:
            raise ToolFailed(f"{self.name}: the arguments are not valid: {problems}")
        return values

    def record(self, values: dict[str, Any], given: dict[str, Any]) -> RecordedArguments:
        """Validated arguments as the journal holds them.

        Raises ToolFailed for an argument that the journal cannot hold.
        """
        try:
            asked = self.arguments.record(values, given)
            check(asked.args, "the arguments")
        except (ValueError, TypeError, AttributeError) as error:
            text = f"{self.name}: the arguments cannot be recorded: {error}"
            raise ToolFailed(text) from error
        return asked

    def call(self, values: dict[str, Any], passed: dict[str, Any], key: str) -> Any:
        """Call the function itself. Nothing is recorded."""
        positional, named = self.arguments.call_with({**values, **passed}, key)
        return self.function(*positional, **named)

    def _invoke_recorded(
        self, passed: dict[str, Any], given: dict[str, Json], info: StepInfo
    ) -> Any:
        # The recorded arguments, not those of this call: a default_factory may draw another value
        # on each call. A masked argument is not stored, so it comes from this call; its
        # fingerprint equals the recorded one.
        asked = info._input["args"]  # pyright: ignore[reportPrivateUsage]  # private for users
        args = {**asked, **self._unmasked(given)}
        return self.call(self.arguments.restore(args), passed, info.key)

    def _unmasked(self, given: dict[str, Json]) -> dict[str, Json]:
        """The exact values of the arguments that are masked in the record."""
        return {name: given[name] for name in self.covered.parameters if name in given}

    def check_sent(self) -> None:
        """Raise ConfigError if a masked parameter that a model fills in cannot hold a text."""
        try:
            self.covered.check_texts(hints_of(self.function), f"{self.name}, which a model calls")
        except ConfigError as error:
            raise refusal(str(error)) from None

    def _invoke_edited(self, given: Any, passed: dict[str, Any], info: StepInfo) -> Any:
        # Validated inside the attempt: if a person's edit is not valid, that is recorded as the
        # step's outcome.
        return self.call(self.validate(given), passed, info.key)

    def _equals(self, sent: Json, asked: RecordedArguments) -> bool:
        """Whether arguments that the model sent equal these ones after validation."""
        try:
            given = arguments_of(sent)
            also = self.arguments.record(self.arguments.validate(given), given)
            return any(
                canonical(one, sort=True) == canonical(other, sort=True)
                for one, other in ((also.args, asked.args), (also.compared, asked.compared))
            )
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
        if self.approval_timeout is not None and (self.approval_timeout <= 0 or not self.approve):
            raise ConfigError(
                f"{name}: approval_timeout must be above 0 seconds, and goes with approve="
            )
        if effect == "once" and self.retries:
            raise ConfigError(
                f"{name}: retries= is not for a `once` effect, since a failed call may have taken "
                "effect; declare effect='idempotent', or give reconcile= or on_doubt='retry'"
            )
        if self.timeout is not None and effect == "transaction":
            raise ConfigError(
                f"{name}: a `transaction` tool has no timeout=; run SET LOCAL statement_timeout"
            )
        if self.timeout is not None and effect == "once" and not self.is_async:
            raise ConfigError(
                f"{name}: a sync function cannot be stopped, so after a timeout its `once` effect "
                "would go on unrecorded; make it async, or give the call inside it a timeout"
            )


def tool_of(given: Any) -> Tool | None:
    """The `Tool` of a function that `@tool` or `@step` made, or of such a bound method.

    None for any other object, such as the wrapper that another decorator put around a tool.
    """
    function = given.__func__ if inspect.ismethod(given) else given
    found = getattr(function, "__agentrun_tool__", None)
    if not isinstance(found, Tool) or found.made is not function:
        return None
    return found if function is given else found.bind_to(given.__self__)
