"""From a key to a result: create or find the run, claim it, execute it, end it.

One flow for `.run()` and `.arun()`. However the agent ends (a value, an exception, an interrupt,
Ctrl-C), exactly one last event of this claim says so; only a lost lease writes nothing.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from agentrun.core.codec import Unserialisable, check, fingerprint
from agentrun.core.errors import (
    Diverged,
    Diverging,
    Interrupt,
    LeaseLost,
    Parking,
    RunCancelled,
    RunConflict,
    RunError,
    RunFailed,
    RunHeld,
    ToolFailed,
)
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, Op
from agentrun.core.secrets import redact
from agentrun.runner import failures, propagate
from agentrun.runner.context import Line, RunContext, blocking, on_line
from agentrun.runner.waiting import pause
from agentrun.store.database import Database
from agentrun.store.journal import Tail
from agentrun.store.liveness import Life

if TYPE_CHECKING:
    from agentrun.runner.agent import Agent

_POLL = (0.02, 0.5)  # seconds between looks at a run that somebody else executes: first, at most
_DRAIN = 30.0  # seconds that steps in flight get to finish when a run is interrupted
_HANDED_BACK = (KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit)


@dataclass(frozen=True)
class Options:
    """What `with_options` sets."""

    key: str | None = None
    on_busy: Literal["wait", "raise"] = "wait"
    on_held: Literal["raise", "wait"] = "raise"
    on_divergence: Literal["refuse", "accept"] = "refuse"


@dataclass(frozen=True)
class Person:
    """Somebody who asks a run to go on: `resume`."""

    by: str
    reason: str | None = None


def start(
    agent: Agent[..., Any],
    database: Database,
    key: str,
    options: Options,
    arguments: dict[str, Json],
) -> Flow[Any]:
    """Create the run, or find it, and see it to its end here."""
    check(arguments, "arguments")
    mark = fingerprint(redact(arguments)[0])
    yield blocking(lambda: database.create(key, agent.name, arguments, mark))
    run: dict[str, Any] = yield blocking(lambda: database.find(key))
    if run["agent"] != agent.name:
        raise RunConflict(
            f"run {key!r} belongs to agent {run['agent']!r}, not {agent.name!r}; "
            "choose another key",
            key=key,
        )
    if run["fingerprint"] != mark:
        raise RunConflict(
            f"run {key!r} was started with other arguments; the same key means the same run: "
            f"choose another key, or `agentrun show {key}` to see them",
            key=key,
        )
    return (yield from proceed(agent, database, key, options, person=None))


def proceed(
    agent: Agent[..., Any], database: Database, key: str, options: Options, person: Person | None
) -> Flow[Any]:
    """Go on with an existing run until it is done, failed, or held."""
    wait = _POLL[0]
    while True:
        run: dict[str, Any] = yield blocking(partial(database.find, key))
        if run["status"] == "done" or (run["status"] in ("failed", "cancelled") and not person):
            events, _ = yield blocking(partial(database.events, run["run_id"]))
            return _recorded(agent, key, events)
        if not person and (yield from _still_in_doubt(database, run)):
            if options.on_held == "raise":
                raise _held(key, run["reason"], run["open_doubt"])
            yield pause(_POLL[1])
            continue
        claimed = yield blocking(partial(_claim, database, run, person))
        if isinstance(claimed, str) and options.on_busy == "raise":
            raise RunConflict(f"run {key!r} is being executed by {claimed}", key=key)
        if claimed is None or isinstance(claimed, str):
            yield pause(wait)
            wait = min(_POLL[1], wait * 1.5)
            continue
        try:
            return (yield from _execute(agent, database, key, options, claimed, person))
        except LeaseLost:
            person = None  # another worker has the run: wait for what it makes of it
        except RunHeld as held:
            if options.on_held == "raise" or held.step is None:
                raise


def _still_in_doubt(database: Database, run: dict[str, Any]) -> Flow[bool]:
    if run["status"] != "held" or run["open_doubt"] is None:
        return False
    news: bool = yield blocking(partial(database.has_news, run))
    return not news


def _claim(
    database: Database, run: dict[str, Any], person: Person | None
) -> tuple[Tail, list[Event]] | str | None:
    """The claimed run; the name of its live owner; or None when somebody else was faster."""
    owned, life = database.owner_of(run)
    return str(run["owner"]) if owned else database.claim(run, _why(run, life, person))


def _why(run: dict[str, Any], life: Life | None, person: Person | None) -> str:
    if life is not None:
        return f"took over from {life.worker}: {life.cause}"
    if person is not None:
        return f"resumed by {person.by}"
    return "first claim" if run["epoch"] == 0 else f"was {run['status']}"


# -- one claim -----------------------------------------------------------------------------------


def _execute(
    agent: Agent[..., Any],
    database: Database,
    key: str,
    options: Options,
    claimed: tuple[Tail, list[Event]],
    person: Person | None,
) -> Flow[Any]:
    tail, events = claimed
    run = RunContext(database, key, agent.name, tail, events, options.on_divergence)
    database.enter(run.run_id, run)
    try:
        with _terminable(run) as signalled:
            if person is not None:
                _reopen(run, person)
            try:
                arguments = agent.arguments.validate(events[0].input["args"])
                value = yield agent.body(Line(run, run.root), arguments)
            except BaseException as error:
                return (yield from _ended(run, agent, None, error, signalled))
            return (yield from _ended(run, agent, value, None, signalled))
    finally:
        run.stop(Interrupt(f"run {key!r} has ended in this process"))
        database.leave(run.run_id)


def _reopen(run: RunContext, person: Person) -> None:
    """Let a failed run go on: the error that ended it is set aside, by name."""
    events = [Event(event="resumed", by=person.by, reason=person.reason)]
    failed = run.history.by_number.get(run.history.failed_step or 0)
    if failed is not None and failed.outcome is not None and failed.outcome.status == "error":
        events.append(
            Event(
                event="resolved",
                step=failed.step,
                status="reopened",
                by=person.by,
                kind=failed.kind,
                ident=failed.ident,
                name=failed.name,
                reason=person.reason,
            )
        )
    run.append(*events)


def _ended(
    run: RunContext,
    agent: Agent[..., Any],
    value: Any,
    error: BaseException | None,
    signalled: list[int],
) -> Flow[Any]:
    """Journal how the agent ended, make it durable, and return or raise what that means."""
    interrupt = run.interrupt
    if interrupt is None and isinstance(error, _HANDED_BACK):
        interrupt = Parking(f"interrupted: {type(error).__name__}", status="queued")
    if interrupt is not None:
        run.stop(interrupt)
        yield from _in_flight(run)
        yield from _interrupted(run, interrupt)
        if isinstance(error, _HANDED_BACK):
            raise error
        if signalled:
            raise SystemExit(128 + signalled[0])
        raise _seen_outside(run, interrupt)
    if error is None:
        stored, error = _result(agent, value)
    if error is not None:
        failed = Event(
            event="run_failed",
            step=run.failing_step,
            reason=f"{type(error).__name__}: {error}",
            output=failures.describe(error, trace=True),
            has_output=True,
        )
        yield run.end(failed)
        raise RunFailed(
            _failed_text(run.key, f"{type(error).__name__}: {error}"), key=run.key
        ) from error
    yield run.end(Event(event="run_finished", output=stored, has_output=True))
    return agent.arguments.result.decode(stored)


def _result(agent: Agent[..., Any], value: Any) -> tuple[Json, Exception | None]:
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
                event="parked", status=interrupt.status, step=interrupt.step, reason=str(interrupt)
            )
        case RunCancelled():
            last = Event(event="run_cancelled", reason=str(interrupt))
        case _:
            last = Event(event="parked", status="held", reason=str(interrupt))
    yield run.end(last)


def _in_flight(run: RunContext) -> Flow[None]:
    """Let steps in flight in other tasks and threads finish, so that their outcomes count."""
    waited = 0.0
    while run.under_way > 0 and waited < _DRAIN:
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
            return _held(run.key, str(interrupt), interrupt.step)
        case _:
            return RunError(f"run {run.key!r}: {interrupt}", key=run.key)


def _held(key: str, reason: str | None, step: int | None) -> RunHeld:
    return RunHeld(f"run {key!r} waits for a person: {reason}", key=key, step=step)


def _failed_text(key: str, cause: str) -> str:
    return (
        f"run {key!r} failed: {cause.rstrip('.')}. `agentrun show {key}` shows where; "
        f"agentrun.resume({key!r}) goes on from the last recorded step"
    )


def _recorded(agent: Agent[..., Any], key: str, events: Sequence[Event]) -> Any:
    """The end of a run that ended before, in this process or another."""
    last = events[-1]
    if last.event == "run_finished":
        return agent.arguments.result.decode(last.output)
    if last.event == "run_failed":
        raise RunFailed(_failed_text(key, last.reason or ""), key=key) from failures.rebuild(
            last.output
        )
    raise RunError(f"run {key!r} was cancelled: {last.reason}", key=key)


# -- signals ---------------------------------------------------------------------------------------


@contextmanager
def _terminable(run: RunContext) -> Iterator[list[int]]:
    """SIGTERM drains: the step in flight finishes, the run is handed back, the process exits.

    Only in the main thread, and only where nobody else handles the signal.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield received
        return

    def handle(number: int, _frame: Any) -> None:
        received.append(number)
        run.drain()

    signal.signal(signal.SIGTERM, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def call_body(
    line: Line,
    function: Callable[..., Any],
    is_async: bool,
    args: list[Any],
    kwargs: dict[str, Any],
) -> Op[Any]:
    """Call an agent's function as the run: here, awaited, or (sync under async) in a thread."""
    propagate.install()

    def call() -> Any:
        with on_line(line):
            return function(*args, **kwargs)

    async def call_async() -> Any:
        if not is_async:
            return await asyncio.to_thread(call)
        propagate.install_on(asyncio.get_running_loop())
        with on_line(line):
            return await function(*args, **kwargs)

    return Op(call, call_async)
