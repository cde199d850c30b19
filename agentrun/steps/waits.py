"""Steps that wait: for a time, for a letter, for a person.

`.run()` waits in place. A worker parks the run, which then holds no thread, no connection and no
slot. When the time has come or a letter has arrived, a worker claims the run again and replays it
to this step.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agentrun.core.codec import is_storable
from agentrun.core.errors import ConfigError
from agentrun.core.events import Event, Json, ParkedFor
from agentrun.core.flow import Flow, pause, run_async, run_sync
from agentrun.core.pauses import PollSchedule
from agentrun.steps import parking
from agentrun.steps.execution_point import ExecutionPoint, current_point
from agentrun.steps.masking import refuse_credential
from agentrun.steps.open_step import open_step
from agentrun.steps.step import ActiveStep, StepRequest
from agentrun.store.mail import Letter
from agentrun.values import exceptions


def sleep(seconds: float) -> None:
    """Sleep for ``seconds``. Inside a run the sleep survives a crash and is not begun anew.

    In a worker the run is parked meanwhile, and holds no thread.

    Args:
        seconds: how many seconds to sleep; 0 or more.

    Raises:
        ConfigError: ``seconds`` is negative or infinite.

    Example:
        >>> agentrun.sleep(3600)   # resumed after 50 minutes, it sleeps 10 minutes more
    """
    _check_seconds("sleep", seconds)
    point = current_point()
    if point is None:
        run_sync(_plain_pause(seconds))
    else:
        run_sync(_sleep(point, seconds))


async def asleep(seconds: float) -> None:
    """Like `sleep`, without blocking the event loop: other tasks of the run go on.

    Example:
        >>> await agentrun.asleep(3600)
    """
    _check_seconds("asleep", seconds)
    point = current_point()
    await run_async(_plain_pause(seconds) if point is None else _sleep(point, seconds))


def receive(name: str, timeout: float | None = None) -> Any:
    """Wait for the next signal of this name and return its payload.

    Signals of one name are received in the order in which they came, each of them once. In a worker
    the run is parked meanwhile, and holds no thread.

    Args:
        name: the name that the sender gave to `send`.
        timeout: seconds to wait at most; None waits without a limit.

    Raises:
        TimeoutError: no signal came within ``timeout`` seconds.
        ConfigError: called outside a run, or the name is empty, is not a string, or holds a
            credential.

    Example:
        >>> reply = agentrun.receive("customer replied", timeout=24 * 3600)
        >>> reply["text"]
        'yes, please'
    """
    return run_sync(_receive(_require_point("receive"), name, timeout))


async def areceive(name: str, timeout: float | None = None) -> Any:
    """Like `receive`, without blocking the event loop: other tasks of the run go on.

    Example:
        >>> reply = await agentrun.areceive("customer replied", timeout=24 * 3600)
    """
    return await run_async(_receive(_require_point("areceive"), name, timeout))


# -- flows -----------------------------------------------------------------------------------------


def _sleep(point: ExecutionPoint, seconds: float) -> Flow[None]:
    request = StepRequest(
        kind="wait", name="sleep", effect="idempotent", input={"seconds": seconds}
    )
    step = yield from open_step(point, request)
    try:
        if step.outcome is None:
            until = (yield from _start_time(step)) + timedelta(seconds=seconds)
            yield from wait_until(step, until, "time", f"sleeps until {until:%F %T} UTC")
            step.finish("ok", {"result": None})
    finally:
        step.leave()


def _receive(point: ExecutionPoint, name: str, timeout: float | None) -> Flow[Any]:
    _check_name(name)
    request = StepRequest(
        kind="wait", name=f"receive {name}", effect="idempotent", input={"timeout": timeout}
    )
    step = yield from open_step(point, request)
    try:
        if step.outcome is None:
            began = yield from _start_time(step)
            until = None if timeout is None else began + timedelta(seconds=timeout)
            reason = f"waits for signal {name!r}"
            taken = partial(_take_signal, step, name)
            letter = yield from await_letter(step, taken, until, "signal", reason)
            _record_signal(step, name, letter)
        assert step.outcome is not None
        if step.outcome.status == "error":
            exceptions.throw(step.outcome.output["error"])
        return step.outcome.output["result"]
    finally:
        step.leave()


def _take_signal(step: ActiveStep, name: str, letter: Letter) -> bool:
    """Take a letter if it is this signal and no other thread of the run has taken it."""
    with step.run.lock:
        free = letter.mail_id not in step.run.consumed
        if taken := free and is_signal(letter, name):
            step.run.consumed.add(letter.mail_id)
        return taken


def _record_signal(step: ActiveStep, name: str, letter: Letter | None) -> None:
    if letter is None:
        error = TimeoutError(f"no signal {name!r} came in time")
        step.finish("error", {"error": exceptions.describe(error)})
    else:
        outcome = step.outcome_event("ok", {"result": letter.payload.get("payload")})
        # In one commit: a crash between two would lose the signal.
        record_received(step, letter, outcome)
        step.mark_finished(outcome)


def _start_time(step: ActiveStep) -> Flow[datetime]:
    """When the wait began: at its first attempt, which may have been in another process."""
    known = step.run.history.steps.get(step.ident)
    if known is not None and known.open is not None and known.open.at is not None:
        step.attempts = known.attempts
        return known.open.at
    yield from step.attempt(adopts=False)
    return step.run.heart.now()


def await_letter(
    step: ActiveStep,
    accepts: Callable[[Letter], bool],
    until: datetime | None,
    parked_for: ParkedFor,
    reason: str,
) -> Flow[Letter | None]:
    """Wait for an unread letter that ``accepts``, the oldest first. Returns None after ``until``.

    ``parked_for`` and ``reason`` are passed to `parking.wait`.
    """
    schedule = PollSchedule()
    try:
        while True:
            for letter in (yield from step.run.letters(step.ident)):
                if accepts(letter):
                    found: Letter = letter
                    parking.complete_wait(step, found)
                    return found
            left = None if until is None else (until - step.run.heart.now()).total_seconds()
            if left is not None and left <= 0:
                parking.complete_wait(step)
                return None
            rest = schedule.next_pause()
            rest = rest if left is None else min(rest, left)
            yield from parking.wait(step, rest, until, parked_for, reason)
    finally:
        parking.end_wait(step)


def wait_until(step: ActiveStep, until: datetime, parked_for: ParkedFor, reason: str) -> Flow[None]:
    """Wait until a time. ``reason`` is shown for a run that is parked meanwhile."""
    try:
        while (left := (until - step.run.heart.now()).total_seconds()) > 0:
            yield from parking.wait(step, min(left, 1.0), until, parked_for, reason)
        parking.complete_wait(step)
    finally:
        parking.end_wait(step)


def record_received(step: ActiveStep, letter: Letter, *then: Event) -> None:
    """Journal that a letter was read, with what follows from it, so that it is read once."""
    step.run.consumed.add(letter.mail_id)
    step.run.append(step.received_event(letter), *then)


def is_signal(letter: Letter, name: str) -> bool:
    """Whether a letter is a signal of this name."""
    return bool(letter.kind == "signal" and letter.payload.get("name") == name)


def signal_payload(name: str, payload: Json) -> Json:
    """The payload of a letter that is a signal."""
    _check_name(name)
    return {"name": name, "payload": payload}


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or not is_storable(name):
        raise ConfigError("a signal needs a name: a non-empty string without NUL or surrogates")
    refuse_credential("the signal name", name)


def _require_point(what: str) -> ExecutionPoint:
    point = current_point()
    if point is None:
        raise ConfigError(f"{what}() was called outside a run: only a run has mail")
    return point


def _plain_pause(seconds: float) -> Flow[None]:
    yield pause(seconds)


def _check_seconds(what: str, seconds: float) -> None:
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{what}({seconds!r}): give a finite number of seconds, 0 or more")
