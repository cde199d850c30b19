"""Perform a function as a step: a tool, a `@step`, a clock reading.

One flow for every effect class and for sync and async functions: replay the recorded outcome, or
attempt until there is one.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agentrun.core import points
from agentrun.core.errors import ToolFailed, ToolTimeout
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, Op
from agentrun.runner import approvals, doubt, failures, transaction
from agentrun.runner.context import Line, StepInfo, on_line
from agentrun.runner.step import Step, Wanted, open_step
from agentrun.runner.values import Result, outcome_of
from agentrun.runner.waiting import pause

_BACKOFF = 0.5  # seconds before the first retry; doubles, with jitter
_BACKOFF_MAX = 30.0


@dataclass(frozen=True)
class Body:
    """A function to perform as a step, with what it is given and how it may be tried again."""

    call: Callable[[StepInfo], Any]  # returns the function's value, or its awaitable
    result: Result
    retries: int = 0
    timeout: float | None = None  # seconds an attempt may take
    approve: bool = False  # wait for a person before the first attempt
    edited: Callable[[Json], Callable[[StepInfo], Any]] | None = (
        None  # the call a person made of it
    )


def perform(line: Line, wanted: Wanted, body: Body) -> Flow[Any]:
    """The step's result: recorded, or of an attempt made now.

    Raises what the function raised, now or when it was recorded.
    """
    step = yield from open_step(line, wanted)
    try:
        if body.approve and step.outcome is None:
            given = yield from approvals.settle(step)
            if given is not None and body.edited is not None:
                body = replace(body, call=body.edited(given))
        while step.outcome is None:
            if wanted.effect == "transaction":
                yield from transaction.attempt(step, partial(_invoke, line, step, body), body)
            else:
                yield from _attempt(line, step, body)
    finally:
        step.done()
    return _handed(step.outcome, body.result)


def _attempt(line: Line, step: Step, body: Body) -> Flow[None]:
    late = yield from step.attempt()
    if late is not None:
        step.finish(late.status or "ok", late.output, by="late result")
        return
    try:
        value = yield _invoke(line, step, body, None)
    except _Stopped as stopped:
        yield from _timed_out(step, body, ToolTimeout(str(stopped)))
    except ToolTimeout as error:
        yield from (_failed if error.settled else _timed_out)(step, body, error)
    except Exception as error:
        yield from _failed(step, body, error)
    else:
        step.finish(*outcome_of(step.wanted.name, value, body.result.encode))


def _timed_out(step: Step, body: Body, error: ToolTimeout) -> Flow[None]:
    if step.wanted.effect != "once":
        yield from _failed(step, body, error)
        return
    # It was stopped half-way, or says itself that it cannot tell: nobody knows.
    yield from doubt.settle(step, step.run.history.steps[step.ident])
    if step.outcome is None:  # decided that another attempt may follow, but not at once
        yield pause(_backoff(step.attempts - 1))


def _failed(step: Step, body: Body, error: Exception) -> Flow[None]:
    if isinstance(error, ToolTimeout):
        error.settled = True  # an outer step that lets it through is in no doubt for that
    known = step.run.history.steps.get(step.ident)
    failed = known.failures if known else 0
    if isinstance(error, ToolFailed) or failed >= body.retries:
        step.finish("error", {"error": failures.describe(error)})
        raise error
    retry_in = _backoff(failed)
    step.failed(failures.describe(error), retry_in, failures.summary(error))
    yield pause(retry_in)


def _backoff(failed: int) -> float:
    """Seconds until the next attempt, after so many that failed before this one."""
    return min(_BACKOFF_MAX, _BACKOFF * 2.0 ** min(failed, 30)) * random.uniform(0.75, 1.0)


def _handed(outcome: Event, result: Result) -> Any:
    """Hand out a recorded outcome."""
    if outcome.status == "ok":
        return result.decode(outcome.output["result"])
    raise failures.rebuild(outcome.output.get("error"))


# -- calling the function ------------------------------------------------------------------------


def _invoke(line: Line, step: Step, body: Body, connection: Any) -> Op[Any]:
    """Call the function inside its own scope, so that steps of its body are its own."""
    info = StepInfo(step.key, step.attempts, step.number, connection)
    inside = Line(line.run, line.scope.inside(step.ident))

    def call() -> Any:
        with on_line(inside, info):
            points.reach("body", "before")
            value = body.call(info)
            points.reach("body", "after")
        return value

    def call_sync() -> Any:
        return call() if body.timeout is None else _in_time(call, body.timeout, step.wanted.name)

    async def call_async() -> Any:
        with on_line(inside, info):
            points.reach("body", "before")
            if body.timeout is None:
                value = await _awaited(body.call(info))
            else:
                value = await _in_time_async(body, info, step.wanted.name)
            points.reach("body", "after")
        return value

    return Op(call_sync, call_async)


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _in_time_async(body: Body, info: StepInfo, name: str) -> Any:
    try:
        async with asyncio.timeout(body.timeout) as limit:
            return await _awaited(body.call(info))
    except TimeoutError:
        if not limit.expired():
            raise  # the function's own
        raise _too_long(name, body.timeout) from None


def _in_time(call: Callable[[], Any], timeout: float, name: str) -> Any:
    """Call in a thread and stop waiting after ``timeout`` seconds. The thread itself goes on:
    Python cannot stop it, which is why sync `once` tools have no timeout."""
    outcome: list[Any] = []
    context = copy_context()

    def run() -> None:
        try:
            outcome.append((True, context.run(call)))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, name=f"agentrun-{name}", daemon=True)
    with on_line(None):
        thread.start()
    thread.join(timeout)
    if not outcome:
        raise _too_long(name, timeout)
    succeeded, value = outcome[0]
    if succeeded:
        return value
    raise value


class _Stopped(Exception):
    """This very attempt ran out of its time; unlike a ToolTimeout that its body let through."""


def _too_long(name: str, timeout: float | None) -> _Stopped:
    return _Stopped(f"{name} took longer than its timeout of {timeout:g} s")
