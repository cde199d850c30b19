"""Perform a function as a step: a tool, a `@step` function, a reading of the clock.

One flow serves every effect class, and sync and async functions: hand out the recorded outcome, or
make attempts until there is one.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from random import random
from typing import Any

from agentrun.core import points, witness
from agentrun.core.errors import ToolFailed, ToolTimeout
from agentrun.core.events import Json
from agentrun.core.flow import Flow, Op, pause
from agentrun.core.pauses import Backoff
from agentrun.steps import approvals, budgets, doubt, transaction_step
from agentrun.steps.current_step import StepInfo
from agentrun.steps.execution_point import ExecutionPoint, at_point
from agentrun.steps.open_step import open_step
from agentrun.steps.step import ActiveStep, StepRequest
from agentrun.values import exceptions
from agentrun.values.typed_values import Result, outcome_of

_BACKOFF = Backoff(0.5, 30.0)


@dataclass(frozen=True)
class StepBody:
    """The function of a step, with its options."""

    call: Callable[[StepInfo], Any]  # returns the function's value, or its awaitable
    result: Result
    retries: int = 0
    timeout: float | None = None  # seconds that one attempt may take
    counted: bool = False  # True for a tool call, which budgets count
    approve: bool = False  # whether a person must approve before the first attempt
    approval_timeout: float | None = None  # seconds that a person has to decide
    passes: tuple[type[Exception], ...] = ()  # exceptions that are control flow: never retried
    edited: Callable[[Json], Callable[[StepInfo], Any]] | None = (
        None  # From arguments that a person edited, the function to call instead of `call`.
    )


def perform(point: ExecutionPoint, request: StepRequest, body: StepBody) -> Flow[Any]:
    """Perform a step and return its result, which is recorded or comes from an attempt made now.

    Raises what the function raised, now or when it was recorded.
    """
    step = yield from open_step(point, request)
    return (yield from witness.witness_outcome(step.key, _perform_step(point, step, body)))


def _perform_step(point: ExecutionPoint, step: ActiveStep, body: StepBody) -> Flow[Any]:
    """Take a step from its admission to its outcome, and hand that out."""
    request = step.request
    try:
        if body.counted and step.outcome is None:
            yield from budgets.admit(step)
        if body.approve and step.outcome is None:
            edited = yield from approvals.await_approval(step, body.approval_timeout)
            if edited is not None and body.edited is not None:
                body = replace(body, call=body.edited(edited))
        while step.outcome is None:
            if request.effect == "transaction":
                yield from transaction_step.attempt(step, partial(_invoke, point, step, body), body)
            else:
                yield from _attempt(point, step, body)
    finally:
        step.leave()
    return _hand_out(step, body.result)


def _attempt(point: ExecutionPoint, step: ActiveStep, body: StepBody) -> Flow[None]:
    """Make one attempt of a step that is no transaction."""
    late = yield from step.attempt()
    if late is not None:
        step.finish(late.status or "ok", late.output, by="late result")
        return
    try:
        value = yield _invoke(point, step, body, None)
    except _AttemptTimedOut as stopped:
        yield from _record_timeout(step, body, ToolTimeout(str(stopped)))
    except ToolTimeout as error:
        yield from (_record_failure if error.is_recorded else _record_timeout)(step, body, error)
    except asyncio.CancelledError as error:
        if step.was_cancelled():
            raise
        step.fail(error)
    except Exception as error:
        yield from _record_failure(step, body, error)
    else:
        step.check_finished(value)
        step.finish(*outcome_of(step.request.name, value, body.result))


def _record_timeout(step: ActiveStep, body: StepBody, error: ToolTimeout) -> Flow[None]:
    """Record that an attempt timed out. A `once` step is then in doubt."""
    if step.request.effect != "once":
        yield from _record_failure(step, body, error)
        return
    # The function was stopped half-way, or reports that it cannot know: the step is in doubt.
    yield from doubt.decide(step, step.run.history.steps[step.ident])
    if step.outcome is None:  # another attempt may follow, after a pause
        yield pause(_BACKOFF.pause_after(step.attempts - 1, random()))


def _record_failure(step: ActiveStep, body: StepBody, error: Exception) -> Flow[None]:
    """Record that an attempt failed. If no retry is left, the error is the outcome."""
    if isinstance(error, ToolTimeout):
        error.is_recorded = True  # an outer step that raises it again is not in doubt because of it
    known = step.run.history.steps.get(step.ident)
    failed = known.failures if known else 0
    control_flow = isinstance(error, tuple(body.passes))
    if control_flow or isinstance(error, ToolFailed) or failed >= body.retries:
        step.fail(error, control_flow=control_flow)
        return
    retry_in = _BACKOFF.pause_after(failed, random())
    described = exceptions.describe(error, trace=True)
    step.record_failed_attempt(described, retry_in, exceptions.summary(error))
    yield pause(retry_in)


def _hand_out(step: ActiveStep, result: Result) -> Any:
    """Return or raise the outcome, as it is read back from its record."""
    outcome = step.outcome
    assert outcome is not None
    if outcome.status != "ok":
        exceptions.throw(outcome.output.get("error"), step.failure)
    return step.decode_result(result.decode_leniently if outcome.by else result.decode)


# -- calling the function ------------------------------------------------------------------------


def _invoke(point: ExecutionPoint, step: ActiveStep, body: StepBody, connection: Any) -> Op[Any]:
    """Call the function in a scope of its own, so that the steps of its body are numbered there."""
    info = StepInfo(step.key, step.attempts, step.number, connection, step.request.input)
    inside = ExecutionPoint(point.run, point.scope.body_scope(step.ident))
    if step.attempts > 1:
        with point.run.lock:
            point.run.history.begin_again(inside.scope.path)

    def call() -> Any:
        with at_point(inside, info):
            points.reach("body", "before")
            value = body.call(info)
            points.reach("body", "after")
        return value

    def call_sync() -> Any:
        return (
            call() if body.timeout is None else _call_in_time(call, body.timeout, step.request.name)
        )

    async def call_async() -> Any:
        with at_point(inside, info):
            points.reach("body", "before")
            if body.timeout is None:
                value = await _await_value(body.call(info))
            else:
                value = await _await_in_time(body, info, step.request.name)
            points.reach("body", "after")
        return value

    return Op(call_sync, call_async)


async def _await_value(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _await_in_time(body: StepBody, info: StepInfo, name: str) -> Any:
    limit = asyncio.timeout(body.timeout)
    try:
        async with limit:
            return await _await_value(body.call(info))
    except TimeoutError:
        if not limit.expired():
            raise  # the function raised it itself
        raise _timeout_error(name, body.timeout) from None


def _call_in_time(call: Callable[[], Any], timeout: float, name: str) -> Any:
    """Call in a thread, and wait for it at most ``timeout`` seconds.

    Python cannot stop the thread, which goes on. That is why sync `once` tools have no timeout.
    """
    outcome: list[Any] = []
    context = copy_context()

    def run() -> None:
        try:
            outcome.append((True, context.run(call)))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, name=f"agentrun-{name}", daemon=True)
    with at_point(None):
        thread.start()
    thread.join(timeout)
    if not outcome:
        raise _timeout_error(name, timeout)
    succeeded, value = outcome[0]
    if succeeded:
        return value
    raise value


class _AttemptTimedOut(Exception):
    """The attempt took longer than its timeout. A ToolTimeout was raised by the body itself."""


def _timeout_error(name: str, timeout: float | None) -> _AttemptTimedOut:
    return _AttemptTimedOut(f"{name} took longer than its timeout of {timeout:g} s")
