"""How a run ends in this process: with a value, an exception, an interrupt, Ctrl-C.

Exactly one last event of this claim says so; only a lost lease writes nothing. What is in flight in
other tasks and threads of the run finishes first, so that its outcome counts.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from agentrun.core.codec import Unserialisable, check
from agentrun.core.errors import (
    ConfigError,
    Diverged,
    Diverging,
    Interrupt,
    JournalLost,
    LeaseLost,
    LimitExceeded,
    Parking,
    RunCancelled,
    RunError,
    RunExpired,
    RunFailed,
    RunHeld,
    ToolFailed,
)
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow
from agentrun.runner import failures
from agentrun.runner.context import RunContext, blocking
from agentrun.runner.handle import failed_text, run_held
from agentrun.runner.waiting import pause

if TYPE_CHECKING:
    from agentrun.runner.agent import DurableAgent

_DRAIN = 30.0  # seconds that steps in flight get to finish when a run is interrupted
_HANDED_BACK = (KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit)


def settle(
    run: RunContext,
    agent: DurableAgent[..., Any],
    value: Any,
    error: BaseException | None,
) -> Flow[Any]:
    """Journal how the agent ended, make it durable, and return or raise what that means."""
    interrupt = run.interrupt
    if run.pid != os.getpid() or isinstance(error, GeneratorExit):
        raise error or ConfigError(f"run {run.key!r} goes on in the parent of this forked process")
    # A worker stops its runs by a drain alone; any other exit is the agent's own, each time again.
    stopped = run.in_place or run.draining or run.nested
    if interrupt is None and isinstance(error, _HANDED_BACK) and stopped:
        interrupt = Parking(f"interrupted: {type(error).__name__}", status="queued")
    elif interrupt is None and isinstance(error, Interrupt):
        interrupt = error
    if interrupt is not None:
        over = isinstance(interrupt, RunCancelled | RunExpired | JournalLost)
        handed_back = isinstance(error, _HANDED_BACK) and not over
        run.stop(interrupt)
        try:
            yield from _in_flight(run)
            yield from _interrupted(run, interrupt)
        except LeaseLost as lost:
            if not handed_back or isinstance(lost, JournalLost):
                raise
        raise error if handed_back and error else _seen_outside(run, interrupt)
    failing = run.failing_step
    run.stop(Interrupt(f"run {run.key!r} has ended in this process"))
    yield from _in_flight(run)
    if error is None:
        stored, error = _result(agent, value)
    if error is not None:
        failed = _failed(error, failing)
        yield run.end(failed)
        yield from _tell_parent(run, failed)
        raise RunFailed(failed_text(run.key, failures.summary(error)), key=run.key) from error
    finished = Event(event="run_finished", output=stored, has_output=True)
    yield run.end(finished)
    yield from _tell_parent(run, finished)
    return agent.arguments.result.decode(stored)


def _failed(error: BaseException, step: int | None) -> Event:
    return Event(
        event="run_failed",
        step=step,
        reason=failures.summary(error),
        output=failures.describe(error, trace=True),
        has_output=True,
    )


def _result(agent: DurableAgent[..., Any], value: Any) -> tuple[Json, Exception | None]:
    try:
        stored = agent.arguments.result.encode(value)
        check(stored, "result")
    except (Unserialisable, ValueError, TypeError) as problem:
        text = f"the agent's result cannot be recorded: {problem}"
        return None, ToolFailed(text)
    return stored, None


def _interrupted(run: RunContext, interrupt: Interrupt) -> Flow[None]:
    match interrupt:
        case LeaseLost():
            return
        case Parking(status="queued"):
            last = Event(event="handed_back", reason=str(interrupt))
        case Parking():
            last = Event(
                event="parked",
                status=interrupt.status,
                step=interrupt.step,
                by=interrupt.by,
                reason=str(interrupt),
                wake_at=min(filter(None, (interrupt.wake_at, run.expires_at)), default=None),
            )
        case RunCancelled():
            last = Event(event="run_cancelled", reason=str(interrupt))
        case RunExpired():
            last = _failed(LimitExceeded(str(interrupt), key=run.key), None)
        case _:
            last = Event(event="parked", status="held", reason=str(interrupt))
    yield run.end(last)
    yield from _tell_parent(run, last)
    if last.event == "parked":  # mail may have come while the park was on its way
        yield blocking(partial(run.database.wake, run.run_id, list(run.seen.values())))


def _tell_parent(run: RunContext, last: Event) -> Flow[None]:
    """Wake the parent of a child run that ended by itself, while its parent was parked."""
    parent = run.parent
    if parent is not None and last.event in ("run_finished", "run_failed", "run_cancelled"):
        yield blocking(
            lambda: run.database.send_mail(
                parent["key"],
                "child",
                step=parent["step"],
                by=run.key,
                reason=last.event,
                payload={},
            )
        )


def _in_flight(run: RunContext) -> Flow[None]:
    """Let steps in flight in other tasks and threads finish, so that their outcomes count."""
    waited = 0.0
    while run.in_flight() and waited < _DRAIN:
        yield pause(0.02)
        waited += 0.02


def _seen_outside(run: RunContext, interrupt: Interrupt) -> BaseException:
    match interrupt:
        case LeaseLost():
            return interrupt
        case Diverging():
            return Diverged(
                f"run {run.key!r} diverged: {interrupt}\nNothing was sent. Restore the code, or "
                "accept the new path with .with_options(on_divergence='accept').",
                key=run.key,
                diff=interrupt.diff,
            )
        case Parking(status="queued"):
            return RunHeld(f"run {run.key!r} was handed back: {interrupt}", key=run.key)
        case Parking():
            return run_held(run.key, str(interrupt), interrupt.step)
        case RunExpired():
            failed = RunFailed(failed_text(run.key, f"LimitExceeded: {interrupt}"), key=run.key)
            failed.__cause__ = LimitExceeded(str(interrupt), key=run.key)
            return failed
        case _:
            return RunError(f"run {run.key!r}: {interrupt}", key=run.key)
