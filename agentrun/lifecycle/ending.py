"""How a run ends in this process: with a value, an exception, an interrupt, or Ctrl-C.

The rule: each claim of a run writes exactly one last event, and nothing after it. The event says
whether the run has ended (`run_finished`, `run_failed`, `run_cancelled`), waits (`parked`), or may
be claimed by any process (`handed_back`). Without it the run would look as if this process still
executed it. There are two exceptions, which write nothing: after a lost
lease another worker owns the journal, and after a lost database nothing can be written.

Before the last event, steps in flight in other tasks and threads of the run get `_DRAIN` seconds to
finish. An outcome that comes after the last event would be lost, and the step would be in doubt.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import Any

from agentrun.core.codec import check
from agentrun.core.errors import (
    ConfigError,
    Diverged,
    Diverging,
    Interrupt,
    JournalLost,
    LeaseLost,
    LimitExceeded,
    Parking,
    Refusing,
    RunCancelled,
    RunError,
    RunExpired,
    RunFailed,
    RunHeld,
    StoreLost,
    ToolFailed,
)
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, pause
from agentrun.core.state import park_event, tried_versions
from agentrun.lifecycle.code_version import code_version
from agentrun.lifecycle.registry import RunnableAgent
from agentrun.lifecycle.related_runs import cancel_children, reason_for_children, tell_parent
from agentrun.lifecycle.run_ends import failed_text, held_error
from agentrun.steps.blocking import blocking
from agentrun.steps.run_context import RunContext
from agentrun.store.mail import wake
from agentrun.store.patience import GRACE
from agentrun.values import exceptions

_DRAIN_POLL = 0.02  # seconds between checks for them
_DRAIN = 30.0  # seconds that steps in flight get to finish when a run is interrupted
_HANDED_BACK = (KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit)


def finish_run(
    run: RunContext,
    agent: RunnableAgent,
    value: Any,
    error: BaseException | None,
) -> Flow[Any]:
    """Journal how the agent ended, make the event durable, and return or raise the end.

    ``value`` is what the agent's function returned; ``error`` is what it raised, or None.
    """
    interrupt = run.interrupt
    if run.pid != os.getpid() or isinstance(error, GeneratorExit):
        if error is None or isinstance(error, Refusing):
            away = f"run {run.key!r} goes on in the parent of this forked process"
            raise ConfigError(str(error or away)) from error
        raise error
    # A worker stops a run only by draining it. Any other SystemExit was raised by the agent, which
    # would raise it again on each resume: it is not handed back, but fails the run.
    stopped = run.in_place or run.draining or run.nested
    if interrupt is None and isinstance(error, _HANDED_BACK) and stopped:
        interrupt = Parking(f"interrupted: {type(error).__name__}")
    elif interrupt is None and isinstance(error, Interrupt):
        interrupt = error
    if interrupt is not None:
        ended = isinstance(interrupt, RunCancelled | RunExpired | JournalLost)
        handed_back = isinstance(error, _HANDED_BACK) and not ended
        run.stop(interrupt)
        try:
            if handed_back:
                run.patience.hurry()
            yield from _await_steps_in_flight(run)
            yield from _end_interrupted(run, interrupt)
        except (LeaseLost, Parking) as lost:
            if not handed_back or isinstance(lost, JournalLost):
                raise
        raise error if handed_back and error else error_for_caller(run, interrupt)
    failing = run.failing_step
    run.stop(Interrupt(f"run {run.key!r} has ended in this process"))
    yield from _await_steps_in_flight(run)
    stored: Json = None
    if error is None:
        stored, error = _record_result(agent, value)
    if error is not None:
        # A ConfigError is the code's fault, and never that of the reply.
        own = failing is not None or isinstance(error, ConfigError)
        reply = None if own else run.last_reply
        failed = _failed_event(error, failing, reply)
        yield from _notify_related_runs(run, failed)
        yield run.end(failed)
        text = failed_text(run.key, exceptions.summary(error), reply)
        # The cause is rebuilt from the record, so that each later caller gets the same one.
        raise RunFailed(text, key=run.key) from exceptions.rebuild(failed.output, error)
    finished = Event(event="run_finished", output=stored, has_output=True)
    yield from _notify_related_runs(run, finished)
    yield run.end(finished)
    return agent.arguments.result.decode(stored)


def _failed_event(error: BaseException, step: int | None, reply: int | None = None) -> Event:
    """The event of a run that ``error`` ended, in ``step`` or outside any step.

    ``reply`` is the step of the last reply that the agent read, which may have caused the error.
    """
    cause = {} if reply is None else {"reply": reply}
    return Event(
        event="run_failed",
        step=step,
        reason=exceptions.summary(error),
        output={**exceptions.describe(error, trace=True), **cause},
        has_output=True,
    )


def _record_result(agent: RunnableAgent, value: Any) -> tuple[Json, Exception | None]:
    try:
        stored = agent.arguments.result.record(value, agent.name)
        check(stored, "result")
    except (ValueError, TypeError, AttributeError) as problem:
        text = f"the agent's result cannot be recorded: {problem}"
        return None, ToolFailed(text)
    return stored, None


def _end_interrupted(run: RunContext, interrupt: Interrupt) -> Flow[None]:
    match interrupt:
        case LeaseLost() | StoreLost():
            return
        case Parking():
            last = _parking_event(run, interrupt)
        case RunCancelled():
            last = Event(event="run_cancelled", reason=str(interrupt))
        case RunExpired():
            last = _failed_event(LimitExceeded(str(interrupt), key=run.key), None)
        case Refusing():
            last = _failed_event(ConfigError(str(interrupt)), interrupt.step)
        case Diverging():
            versions = tried_versions(run.journaled_events(after=0))
            output = {"divergence": {**interrupt.detail, "versions": [*versions, code_version()]}}
            last = park_event("divergence", _divergence_reason(interrupt), output=output)
        case _:
            last = park_event("review", str(interrupt))
    yield from _notify_related_runs(run, last)
    yield run.end(last)
    if last.event == "parked":  # a letter may have come before the park was durable
        yield blocking(partial(wake, run.database, run.run_id, list(run.seen_letters.values())))


def _parking_event(run: RunContext, parking: Parking) -> Event:
    if parking.parked_for is None:
        return Event(event="handed_back", reason=str(parking))
    due = min(filter(None, (parking.wake_at, run.expires_at)), default=None)
    return park_event(parking.parked_for, str(parking), step=parking.step, wake_at=due)


def _divergence_reason(interrupt: Diverging) -> str:
    """The reason of the park, for people."""
    text = str(interrupt)
    return text if text.startswith("diverged") else f"diverged: {text}"


def _notify_related_runs(run: RunContext, last: Event) -> Flow[None]:
    """Cancel the child runs and wake the parent, before the last event of a run that ends.

    In this order a crash in between loses nothing: the run has not ended, so its next owner
    does both again.
    """
    if last.event not in ("run_finished", "run_failed", "run_cancelled"):
        return
    if (reason := reason_for_children(run)) is not None:
        below = partial(cancel_children, run.database, run.run_id, by=run.key, reason=reason)
        yield blocking(below)
    # run.parent is None if there is no parent, or if the parent executes this run itself.
    if run.parent is not None:
        yield run.flushed()  # if this process dies now, the next owner lacks only the last event
        yield blocking(partial(tell_parent, run.database, run.key, run.parent, last.event))


def _await_steps_in_flight(run: RunContext) -> Flow[None]:
    """Wait for the steps in flight in other tasks and threads, for `_DRAIN` seconds at most."""
    began, waited = time.monotonic(), 0.0
    while run.in_flight() and waited < _DRAIN:
        if run.patience.is_over(began) and run.database.load.stuck_for > GRACE:
            return  # the steps wait for a database that is away
        yield pause(_DRAIN_POLL)
        waited += _DRAIN_POLL


def error_for_caller(run: RunContext, interrupt: Interrupt) -> BaseException:
    """The exception that the caller of `run` gets, for the interrupt that ended the run here."""
    match interrupt:
        case LeaseLost():
            return interrupt
        case StoreLost():
            return interrupt.error
        case Diverging():
            text = f"run {run.key!r} {_divergence_reason(interrupt)}"
            return Diverged(text, key=run.key, diff=interrupt.diff)
        case Refusing():
            failed = RunFailed(failed_text(run.key, f"ConfigError: {interrupt}"), key=run.key)
            failed.__cause__ = ConfigError(str(interrupt))
            return failed
        case Parking(parked_for=None):
            return RunHeld(f"run {run.key!r} was handed back: {interrupt}", key=run.key)
        case Parking(parked_for="child"):  # its text says how the child goes on
            return RunHeld(f"run {run.key!r} {interrupt}", key=run.key, step=interrupt.step)
        case Parking():
            return held_error(run.key, str(interrupt), interrupt.step)
        case RunExpired():
            failed = RunFailed(failed_text(run.key, f"LimitExceeded: {interrupt}"), key=run.key)
            failed.__cause__ = LimitExceeded(str(interrupt), key=run.key)
            return failed
        case _:
            return RunError(f"run {run.key!r}: {interrupt}", key=run.key)
