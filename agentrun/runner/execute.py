"""From a key to a result: create or find the run, claim it, execute it; `ending.py` does the rest.

One flow for `.run()` and `.arun()`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from agentrun.core.budget import Budget
from agentrun.core.codec import check, fingerprint
from agentrun.core.errors import (
    Interrupt,
    JournalLost,
    LeaseLost,
    Parking,
    RunCancelled,
    RunConflict,
    RunHeld,
)
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, Op
from agentrun.core.log import logger
from agentrun.core.secrets import redact
from agentrun.core.state import safeguard
from agentrun.runner import loss, propagate
from agentrun.runner.context import Line, RunContext, blocking, on_line
from agentrun.runner.ending import settle
from agentrun.runner.handle import ended, run_held
from agentrun.runner.model_step import warn_of_responses
from agentrun.runner.waiting import pause
from agentrun.store.database import Database
from agentrun.store.journal import Tail
from agentrun.store.liveness import Life

if TYPE_CHECKING:
    from agentrun.runner.agent import DurableAgent

_POLL = (0.02, 0.5)  # seconds between looks at a run that somebody else executes: first, at most
_LEAVING = 2.0  # seconds that an earlier claim of a run gets to leave this process


@dataclass(frozen=True)
class Options:
    """What `with_options` sets."""

    key: str | None = None
    on_busy: Literal["wait", "raise"] = "wait"
    on_held: Literal["raise", "wait"] = "raise"
    on_divergence: Literal["refuse", "accept"] = "refuse"
    in_place: bool = True  # False in a worker: waits park the run
    queue: str = "default"
    priority: int = 0
    delay: float | None = None  # seconds before a submitted run is due
    deadline: float | None = None  # seconds that a run may take, waiting included
    budget: Budget | None = None  # what a run may spend, its children included


@dataclass(frozen=True)
class Person:
    """Somebody who asks a run to go on: `resume`."""

    by: str
    reason: str | None = None


def start(
    agent: DurableAgent[..., Any],
    database: Database,
    key: str,
    options: Options,
    arguments: dict[str, Json],
    parent: tuple[Line, int] | None = None,
) -> Flow[Any]:
    """Create the run, or find it, and see it to its end here; ``parent``: its caller, and step."""
    yield from create(agent, database, key, options, arguments, parent)
    return (yield from proceed(agent, database, key, options, None, parent and parent[0]))


def create(
    agent: DurableAgent[..., Any],
    database: Database,
    key: str,
    options: Options,
    arguments: dict[str, Json],
    parent: tuple[Line, int] | None = None,
) -> Flow[None]:
    """Create the run, or find that it is there with the same agent and arguments."""
    check(arguments, "arguments")
    mark = fingerprint(redact(arguments)[0])
    given: dict[str, Json] = {"args": arguments}
    if parent is not None:
        given["parent"] = _above(*parent)
    if options.budget is not None:
        given["budget"] = options.budget.to_json()
    if options.deadline is not None:
        given["deadline"] = options.deadline
    created: bool = yield blocking(
        lambda: database.create(
            key,
            agent.name,
            given,
            mark,
            queue=options.queue,
            priority=options.priority,
            delay=options.delay,
            parent=parent and parent[0].run.run_id,
            budget=options.budget,
        )
    )
    if created:
        return
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
            f"choose another key, or `agentrun show {quote(key)}` to see them",
            key=key,
        )


def _above(parent: Line, step: int) -> dict[str, Json]:
    """What a child run's first event says of its parent."""
    above: dict[str, Json] = {"key": parent.run.key, "step": step}
    return {**above, "budgeted": True} if parent.run.budgeted else above


def _budgeted(given: dict[str, Json]) -> bool:
    return "budget" in given or bool(given.get("parent", {}).get("budgeted"))


def proceed(
    agent: DurableAgent[..., Any],
    database: Database,
    key: str,
    options: Options,
    person: Person | None,
    parent: Line | None = None,
) -> Flow[Any]:
    """Go on with an existing run until it is done, failed, or held."""
    wait = _POLL[0]
    while True:
        run: dict[str, Any] = yield blocking(partial(database.find, key))
        if run["status"] == "done" or (run["status"] in ("failed", "cancelled") and not person):
            events, _ = yield blocking(partial(database.events, run["run_id"]))
            return agent.arguments.result.decode(ended(key, events[-1]))
        if not person and (yield from _still_in_doubt(database, run)):
            if options.on_held == "raise":
                raise run_held(key, run["reason"], run["open_doubt"])
            yield pause(_POLL[1])
            continue
        claim = _Claim(database, run, person)
        try:
            claimed = yield blocking(claim)
        except BaseException:
            claim.drop()
            raise
        if isinstance(claimed, str) and options.on_busy == "raise":
            raise RunConflict(f"run {key!r} is being executed by {claimed}", key=key)
        if claimed is None or isinstance(claimed, str):
            yield pause(wait)
            wait = min(_POLL[1], wait * 1.5)
            continue
        try:
            return (
                yield from execute(agent, database, key, options, claimed, person, parent=parent)
            )
        except LeaseLost:
            person = None  # another worker has the run: wait for what it makes of it
        except RunHeld as held:
            person = None  # has been heard: from now on the run waits
            if options.on_held == "raise" or held.step is None:
                raise
            logger.warning("%s", held)  # somebody has to know


def _still_in_doubt(database: Database, run: dict[str, Any]) -> Flow[bool]:
    if run["status"] != "held" or run["open_doubt"] is None:
        return False
    news: bool = yield blocking(partial(database.has_news, run))
    return not news


class _Claim:
    """Claims the run; hands it back should nobody wait for it any more, as when cancelled.

    A thread cannot be cancelled, and a run claimed by it would be executed by nobody.
    """

    def __init__(self, database: Database, run: dict[str, Any], person: Person | None) -> None:
        self._database, self._run, self._person = database, run, person
        self._lock = threading.Lock()
        self._dropped = False
        self._tail: Tail | None = None

    def __call__(self) -> tuple[Tail, list[Event]] | str | None:
        """The claimed run; the name of its live owner; or None when somebody else was faster."""
        run, database = self._run, self._database
        owned, life = database.owner_of(run)
        if owned:
            return str(run["owner"])
        claimed = database.claim(run, _why(run, life, self._person))
        if claimed is not None:
            with self._lock:
                self._tail = claimed[0]
                if self._dropped:
                    database.hand_back(self._tail)
        return claimed

    def drop(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._dropped = True
            if self._tail is not None:
                self._database.hand_back(self._tail)


def _why(run: dict[str, Any], life: Life | None, person: Person | None) -> str:
    if life is not None:
        return took_over(life)
    if person is not None:
        return f"resumed by {person.by}"
    return "first claim" if run["epoch"] == 0 else f"was {run['status']}"


def took_over(life: Life) -> str:
    """Why a run changes hands, for its journal."""
    return f"took over from {life.worker}: {life.cause}"


# -- one claim -----------------------------------------------------------------------------------


def execute(
    agent: DurableAgent[..., Any],
    database: Database,
    key: str,
    options: Options,
    claimed: tuple[Tail, list[Event]],
    person: Person | None = None,
    *,
    parent: Line | None = None,
) -> Flow[Any]:
    """Execute a claimed run, and journal how it ends."""
    tail, events = claimed
    run = RunContext(
        database,
        key,
        agent.name,
        tail,
        events,
        options.on_divergence,
        options.in_place,
        options.on_held,
    )
    run.expires_at = _expires_at(run, events, person)
    run.budgeted = _budgeted(events[0].input)
    run.nested = parent is not None
    run.within = parent is not None and (parent.scope.body or parent.run.within)
    yield from _entered(run)
    if parent is not None:
        parent.run.children.append(run)
    else:
        run.parent = events[0].input.get("parent")
    try:
        with _terminable(run):
            if person is not None:
                _reopen(run, person)
            try:
                if tail.epoch > 1:  # it may have been cancelled on its way into a park
                    yield blocking(database.obey_cancellations)
                    if isinstance(run.interrupt, RunCancelled):
                        warn_of_responses(key, run.history)
                run.check(run.root)
                if person is None and (kept := safeguard(events)):
                    raise run.stop(Parking(kept.reason or "", by=kept.by))
                arguments = agent.arguments.validate(events[0].input["args"])
                value = yield agent.body(Line(run, run.root), arguments)
            except BaseException as error:
                return (yield from settle(run, agent, None, error))
            return (yield from settle(run, agent, value, None))
    except JournalLost as lost:
        raise (yield from loss.settle(run, lost)) from None
    finally:
        if run.pid == os.getpid():
            run.let_go()  # interrupted once more, while it was coming to its end
            run.stop(Interrupt(f"run {key!r} has ended in this process"))
            database.leave(run.run_id)
            if parent is not None:
                parent.run.children.remove(run)


def _expires_at(run: RunContext, events: list[Event], person: Person | None) -> datetime | None:
    """The run's deadline: counted from its submission, anew when a person resumes it."""
    seconds = events[0].input.get("deadline")
    if seconds is None:
        return None
    begun = [event.at for event in events if event.event in ("created", "resumed") and event.at]
    return (run.heart.now() if person else begun[-1]) + timedelta(seconds=seconds)


def _entered(run: RunContext) -> Flow[None]:
    """Wait until this process has left an earlier claim of the run, which it may be about to do.

    If a step of that claim takes long, the run goes to whoever is free to execute it.
    """
    waited = 0.0
    try:
        while not run.database.enter(run.run_id, run):
            if waited >= _LEAVING:
                reason = "a step of an earlier claim is still under way in this process"
                later = run.heart.now() + timedelta(seconds=_LEAVING)
                yield run.end(Event(event="handed_back", reason=reason, wake_at=later))
                raise LeaseLost(f"run {run.key!r} was handed back: {reason}")
            yield pause(_POLL[0])
            waited += _POLL[0]
    except BaseException:
        run.let_go()
        raise


def _reopen(run: RunContext, person: Person) -> None:
    """Let a failed run go on: the error that ended it is set aside, by name.

    Of a tool whose body ended in the error of a step of its own, that one's too.
    """
    events = [Event(event="resumed", by=person.by, reason=person.reason)]
    failed = run.history.by_number.get(run.history.failed_step or 0)
    while failed is not None and failed.outcome is not None and failed.outcome.status == "error":
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
        failed = run.history.last_inside(failed.ident)
    run.append(*events)


# -- signals ---------------------------------------------------------------------------------------


@contextmanager
def _terminable(run: RunContext) -> Iterator[None]:
    """SIGTERM drains: the step in flight finishes, the run is handed back, the process exits.

    Only in the main thread, and only where nobody else handles the signal.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        received.append(number)
        for other in [run, *run.database.active.values()]:
            other.drain()

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if received:
            raise SystemExit(128 + received[0])


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
            try:
                return function(*args, **kwargs)
            finally:
                line.run.quit()

    async def call_async() -> Any:
        if not is_async:
            return await asyncio.to_thread(call)
        propagate.install_on(asyncio.get_running_loop())
        line.run.task = asyncio.current_task()
        with on_line(line):
            try:
                return await function(*args, **kwargs)
            finally:
                line.run.task = None
                line.run.quit()

    return Op(call, call_async)
