"""Steps that wait: for a time, for mail, for a person.

`.run()` waits in place. In a worker the run is parked, and holds no thread, no connection and no
slot; it is taken up again when its time has come or mail has arrived, and replays to this step.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from agentrun.core.codec import plain
from agentrun.core.errors import ConfigError, Parking
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.runner import failures
from agentrun.runner.context import Line, current_line
from agentrun.runner.step import Step, Wanted, open_step
from agentrun.runner.waiting import pause

_POLL = (0.02, 0.5)  # seconds between looks at the mail while waiting in place: first, at most

_SETTLE = 0.05  # seconds in which all lines of a run must wait before it is parked

Letter = dict[str, Any]


def sleep(seconds: float) -> None:
    """Sleep for ``seconds``; inside a run durably: a crash does not begin it anew.

    Raises ConfigError for a negative or infinite time.
    """
    _check_seconds("sleep", seconds)
    line = current_line()
    if line is None:
        run_sync(_plain_pause(seconds))
    else:
        run_sync(_sleep(line, seconds))


async def asleep(seconds: float) -> None:
    """`sleep`, awaited."""
    _check_seconds("asleep", seconds)
    line = current_line()
    await run_async(_plain_pause(seconds) if line is None else _sleep(line, seconds))


def receive(name: str, timeout: float | None = None) -> Any:
    """Wait for the next signal of this name and return its payload.

    Raises:
        TimeoutError: none came within ``timeout`` seconds.
        ConfigError: called outside a run.
    """
    return run_sync(_receive(_line("receive"), name, timeout))


async def areceive(name: str, timeout: float | None = None) -> Any:
    """`receive`, awaited."""
    return await run_async(_receive(_line("areceive"), name, timeout))


# -- flows -----------------------------------------------------------------------------------------


def _sleep(line: Line, seconds: float) -> Flow[None]:
    wanted = Wanted(kind="wait", name="sleep", effect="idempotent", asked={"seconds": seconds})
    step = yield from open_step(line, wanted)
    try:
        if step.outcome is None:
            until = (yield from _began(step)) + timedelta(seconds=seconds)
            yield from wait_until(step, until, f"sleeps until {until:%F %T} UTC")
            step.finish("ok", {"result": None})
    finally:
        step.done()


def _receive(line: Line, name: str, timeout: float | None) -> Flow[Any]:
    wanted = Wanted(
        kind="wait", name=f"receive {name}", effect="idempotent", asked={"timeout": timeout}
    )
    step = yield from open_step(line, wanted)
    try:
        if step.outcome is None:
            began = yield from _began(step)
            until = None if timeout is None else began + timedelta(seconds=timeout)
            letter = yield from await_letter(
                step, lambda sent: is_signal(sent, name), until, f"waits for signal {name!r}"
            )
            _close(step, name, letter)
        assert step.outcome is not None
        if step.outcome.status == "error":
            raise failures.rebuild(step.outcome.output["error"])
        return step.outcome.output["result"]
    finally:
        step.done()


def _close(step: Step, name: str, letter: Letter | None) -> None:
    if letter is None:
        error = TimeoutError(f"no signal {name!r} came in time")
        step.finish("error", {"error": failures.describe(error)})
    else:
        outcome = step.outcome_event("ok", {"result": letter["payload"].get("payload")})
        consume(step, letter, outcome)  # in one commit, or a crash could lose the letter
        step.over(outcome)


def _began(step: Step) -> Flow[datetime]:
    """When the wait began: at its first attempt, in whichever process that was."""
    known = step.run.history.steps.get(step.ident)
    if known is not None and known.open is not None and known.open.at is not None:
        step.attempts = known.attempts
        return known.open.at
    yield from step.attempt(adopts=False)
    return step.run.heart.now()


def await_letter(
    step: Step,
    wanted: Callable[[Letter], bool],
    until: datetime | None,
    reason: str,
    *,
    held: bool = False,
) -> Flow[Letter | None]:
    """The oldest unread letter that is ``wanted``; None when ``until`` has passed without one.

    ``held``: a person has to act first. `.run()` does not wait for that either, the run parks.
    """
    look = _POLL[0]
    while True:
        for letter in (yield from step.run.letters(step.ident)):
            if wanted(letter):
                found: Letter = letter
                return found
        left = None if until is None else (until - step.run.heart.now()).total_seconds()
        if left is not None and left <= 0:
            return None
        yield from _wait(step, look if left is None else min(look, left), until, reason, held)
        look = min(_POLL[1], look * 1.5)


def wait_until(step: Step, until: datetime, reason: str) -> Flow[None]:
    """Wait for a time; ``reason`` is told of a run that is parked meanwhile."""
    while (left := (until - step.run.heart.now()).total_seconds()) > 0:
        yield from _wait(step, min(left, 1.0), until, reason)


def _wait(
    step: Step, seconds: float, until: datetime | None, reason: str, held: bool = False
) -> Flow[None]:
    """Wait a moment in place; in a worker, park the run once nothing in it does anything else."""
    run = step.run
    run.check(step.scope)
    with run.lock:
        run.waits[step.number] = until
    try:
        if run.in_place and not held:
            yield pause(seconds)
            return
        # Other tasks of the run may be between two steps: only a pause shows that all wait.
        yield pause(min(seconds, _SETTLE))
        run.check(step.scope)
        with run.lock:
            if len(run.waits) == len(run.in_flight()):
                times = [time for time in run.waits.values() if time is not None]
                wake_at = min(times, default=None)
                # One that the journal does not know yet is numbered anew when the run goes on.
                number = step.number if step.ident in run.history.steps else None
                raise run.stop(Parking(reason, status="waiting", step=number, wake_at=wake_at))
    finally:
        with run.lock:
            run.waits.pop(step.number, None)


def consume(step: Step, letter: Letter, *then: Event) -> None:
    """Journal that a letter was read, so that it is read once, and what came of it."""
    step.run.consumed.add(str(letter["id"]))
    step.run.append(step.read(letter), *then)


def is_signal(letter: Letter, name: str) -> bool:
    """Whether a letter is the signal of this name."""
    return bool(letter["kind"] == "signal" and letter["payload"].get("name") == name)


def signal(name: str, payload: Json) -> Json:
    """A signal as a letter's payload."""
    if not isinstance(name, str) or not name or plain(name) != name:
        raise ConfigError("a signal needs a name: a non-empty string without NUL or surrogates")
    return {"name": name, "payload": payload}


def _line(what: str) -> Line:
    line = current_line()
    if line is None:
        raise ConfigError(f"{what}() was called outside a run: only a run has mail")
    return line


def _plain_pause(seconds: float) -> Flow[None]:
    yield pause(seconds)


def _check_seconds(what: str, seconds: float) -> None:
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{what}({seconds!r}): give a finite number of seconds, 0 or more")
