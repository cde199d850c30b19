"""One run as it executes in this process, and the line of control that user code is on.

A `Line` is what `core.recorder.current` holds inside a run: the run, and the scope of the task or
thread that looks. Everything that is journaled goes through `RunContext.append`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from agentrun.core import recorder
from agentrun.core.errors import (
    ConfigError,
    Interrupt,
    LeaseLost,
    Parking,
    RunCancelled,
    RunExpired,
)
from agentrun.core.events import Event
from agentrun.core.flow import Flow, Op
from agentrun.core.identity import Asked, History, Scope
from agentrun.core.messages import reply_messages
from agentrun.core.recorder import ModelRequest, ModelStep
from agentrun.store.database import Database
from agentrun.store.durable import Durable
from agentrun.store.journal import Tail

if TYPE_CHECKING:
    from agentrun.runner.step import Step

T = TypeVar("T")
Performer = tuple[threading.Thread, "asyncio.Task[Any] | None"]


def blocking(call: Callable[[], T]) -> Op[T]:
    """An operation that blocks; async callers run it in a thread, which is no part of the run."""

    async def in_thread() -> T:
        with on_line(None):
            return await asyncio.to_thread(call)

    return Op(call, in_thread)


class RunContext:
    """A claimed run: its history, the end of its journal, and whether it may still go on."""

    def __init__(
        self,
        database: Database,
        key: str,
        agent: str,
        tail: Tail,
        events: Sequence[Event],
        on_divergence: str,
        in_place: bool = True,
        on_held: str = "raise",
    ) -> None:
        self.database = database
        self.pid = os.getpid()
        self.key = key
        self.agent = agent
        self.tail = tail
        self.on_divergence = on_divergence
        self.in_place = in_place  # waits hold the caller, as `.run()` does; a worker parks
        self.on_held = on_held  # whether `.run()` waits for a person, too
        self.waits: dict[int, datetime | None] = {}  # steps that wait, and until when
        self.children: list[RunContext] = []  # child runs that execute in this process
        self.task: asyncio.Task[Any] | None = None  # in which the body of an async agent executes
        self.parent: dict[str, Any] | None = None  # key and step of the run that waits for this one
        self.nested = False  # that run executes it, in this process
        self.within = False  # in the body of a tool: it is a part of that step
        self.expires_at: datetime | None = None  # the run's deadline
        self.budgeted = False  # a budget holds the run: its own, or that of a run above
        self.lock = threading.RLock()
        self._claimed = events  # the journal up to its claim, and what came since, by seq
        self._written: dict[int, Event] = {}
        self.history = History(events)
        self.root = Scope()
        self.interrupt: Interrupt | None = None
        self.draining = False
        # The step whose recorded error was handed out last, with nothing handed out since.
        self.failing_step: int | None = None
        self.under_way: dict[str, Step] = {}  # by ident: what somebody performs
        self.seen: dict[str, set[str]] = {}  # by ident: letters that the step has looked at
        self.consumed = {e.key for e in events if e.event in ("resolved", "received")}
        self.heart = database.heart_of(tail.worker)

    @property
    def run_id(self) -> UUID:
        return self.tail.run_id

    # -- may the run go on? ------------------------------------------------------------------

    def drain(self) -> None:
        """Stop at the next step: what is in flight finishes, then the run is handed back.

        A child run within a tool's body is in flight: handed back, the body would wait for it.
        """
        if self.within:
            return
        self.draining = True
        for child in self.children:
            child.drain()

    def cancel(self, reason: str) -> None:
        """Stop at the next step, for good; an async agent that waits is woken to stop now."""
        self.stop(RunCancelled(reason))
        self._rouse(reason)

    def expire(self) -> None:
        """`cancel`, for a run whose deadline has passed."""
        if self.expires_at is not None and self.heart.now() >= self.expires_at:
            reason = f"its deadline passed at {self.expires_at:%F %T} UTC"
            self.stop(RunExpired(reason))
            self._rouse(f"its parent {self.key!r} came to an end: {reason}")

    def _rouse(self, why: str) -> None:
        for child in self.children:
            child.cancel(why)
        task = self.task
        if task is not None:
            task.get_loop().call_soon_threadsafe(self._cancel_body)

    def _cancel_body(self) -> None:
        """In the loop, so that it cannot strike when the body has ended and the run comes to its
        end: every beat asks for this again, in case the body took no notice."""
        if self.task is not None:
            self.task.cancel()

    def check(self, scope: Scope) -> None:
        """Raise the run's interrupt: once interrupted, every further effect is refused."""
        with self.lock:
            over = self.tail.lost or self.tail.ended
            if self.interrupt is None and over is not None:
                self._interrupt_for(over)
            if self.interrupt is None:
                self.expire()
            if self.interrupt is None and self.draining and not scope.body:
                self.stop(Parking("the process is stopping", status="queued"))
            if self.interrupt is not None:
                raise self.interrupt

    def fence(self) -> Flow[bool]:
        """The last act before an effect is sent: the lease is good. Did that take a beat?"""
        waited = False
        try:
            while self.heart.stale:
                waited = True
                yield blocking(self.heart.fence)
        except LeaseLost as lost:
            raise self.stop(lost) from None
        return waited

    def letters(self, ident: str) -> Flow[list[dict[str, Any]]]:
        """What the run was told and has not read yet, oldest first; the step ``ident`` looks."""
        letters: list[dict[str, Any]]
        letters = yield blocking(lambda: self.database.mail(self.run_id))
        self.seen[ident] = {str(letter["id"]) for letter in letters}
        return [letter for letter in letters if str(letter["id"]) not in self.consumed]

    def in_flight(self) -> list[str]:
        """Steps being performed by tasks and threads that may still finish them."""
        with self.lock:
            return [ident for ident, step in self.under_way.items() if goes_on(step.performer)]

    def quit(self) -> None:
        """The calling task or thread goes no further: what it left unfinished stays so."""
        me = performer()
        with self.lock:
            for ident in [i for i, step in self.under_way.items() if step.performer == me]:
                del self.under_way[ident]

    @property
    def torn_down(self) -> bool:
        """Whether the task of the agent itself was cancelled, from outside, to end it here."""
        return self.task is not None and self.task.cancelling() > 0

    def _interrupt_for(self, lost: BaseException) -> None:
        if not isinstance(lost, Interrupt):
            raise lost  # the database refused this run's events: a StoreError, each time again
        self.stop(lost)

    def stop(self, interrupt: Interrupt) -> Interrupt:
        """Interrupt the run in this process, for good; the first interrupt stands."""
        with self.lock:
            self.interrupt = self.interrupt or interrupt
            return self.interrupt

    # -- journal -------------------------------------------------------------------------------

    def append(self, *events: Event) -> Durable:
        """Journal events in order and take them into the history."""
        with self.lock:
            done = self.database.writer.append(self.tail, events)
            first = self.tail.seq - len(events) + 1
            for seq, event in enumerate(events, first):
                self.take(event, seq)
        return done

    def take(self, event: Event, seq: int) -> None:
        """Take in what this claim has journaled at ``seq``."""
        self.history.apply(event, seq, self.tail.epoch)
        self._written[seq] = event

    def journaled(self, *, after: int) -> list[Event]:
        """What is known of the journal behind the seq ``after``, in order."""
        epoch, worker = self.tail.epoch, self.tail.worker
        with self.lock:
            written = [
                replace(event, seq=seq, epoch=epoch, worker=worker)
                for seq, event in self._written.items()
            ]
        known = sorted([*self._claimed, *written], key=lambda event: event.seq)
        return [event for event in known if event.seq > after]

    def end(self, last: Event) -> Op[None]:
        """Journal the last event of this claim; what still comes after it is no part of the run."""
        with self.lock:
            done = self.append(last)
            self.tail.ended = LeaseLost(f"run {self.key!r} has ended in this process")
        return self.durable(done)

    def let_go(self) -> None:
        """Hand the run back, unless its last event is on its way or it is another worker's."""
        with self.lock:
            if not (self.tail.lost or self.tail.ended or isinstance(self.interrupt, LeaseLost)):
                self.end(Event(event="handed_back", reason="interrupted"))

    def durable(self, done: Durable) -> Op[None]:
        """Wait until an append is committed. A cancelled waiter leaves the writer alone."""
        writer = self.database.writer

        async def wait() -> None:
            writer.hurry()
            await done.wait()

        return Op(lambda: writer.wait(done), wait)

    def flushed(self) -> Op[None]:
        """Wait until everything journaled so far is committed."""
        return self.durable(self.append())

    # -- tool calls that a reply asked for ------------------------------------------------------

    def learn_reply(self, scope: Scope, ident: str, turn: int | None, body: Any) -> None:
        """Remember the tool calls of a model's reply, so that they are found when made."""
        calls = [call for message in reply_messages(body) for call in message.calls]
        asked = [
            Asked(f"{ident}#{index}", call.name, call.id, call.arguments, turn)
            for index, call in enumerate(calls)
        ]
        with self.lock:
            scope.turn = turn if turn is not None else scope.turn
            if asked:
                scope.asked.append(asked)


@dataclass(eq=False)
class Line:
    """A run, and where in it the calling task or thread stands."""

    run: RunContext
    scope: Scope

    def open_model_step(self, request: ModelRequest) -> Flow[ModelStep]:
        from agentrun.runner.model_step import open_model_step

        self.check_process()

        return open_model_step(self, request)

    def check_process(self) -> None:
        """A forked child inherits the line, but neither the run's threads nor its connections."""
        if self.run.pid != os.getpid():
            raise ConfigError(
                f"run {self.run.key!r} belongs to the parent of this forked process and cannot "
                "go on in the child; start processes with 'spawn', or use threads or tasks"
            )

    def child(self) -> Line:
        """The line of a task or thread started from here."""
        with self.run.lock:
            return Line(self.run, self.scope.child())


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a tool's body may know about its own step."""

    key: str
    attempt: int
    number: int
    _connection: Any = field(default=None, repr=False)

    @property
    def connection(self) -> Any:
        """The psycopg connection of a `transaction` tool.

        Raises ConfigError in tools of any other class.
        """
        if self._connection is None:
            raise ConfigError(
                "current_step().connection exists only in tools declared effect='transaction'"
            )
        return self._connection


_step: ContextVar[StepInfo | None] = ContextVar("agentrun_step", default=None)


def current_line() -> Line | None:
    """The line of the calling code; None outside a run and inside a model call."""
    found = recorder.current.get()
    if not isinstance(found, Line):
        return None
    found.check_process()
    return found


def current_run() -> RunContext | None:
    """The run that the calling code belongs to, or None."""
    line = current_line()
    return line.run if line else None


def current_step() -> StepInfo:
    """The step whose body is executing: `.key`, `.attempt`, `.connection`.

    Outside a run a tool is a plain function; there the key is empty and the attempt is 1.
    """
    return _step.get() or StepInfo(key="", attempt=1, number=0)


class on_line:
    """Execute the block as part of ``line`` (and as the body of ``step``); None: of no run."""

    __slots__ = ("_line", "_step", "_tokens")

    def __init__(self, line: Line | None, step: StepInfo | None = None) -> None:
        self._line, self._step = line, step

    def __enter__(self) -> None:
        self._tokens = recorder.current.set(self._line), _step.set(self._step)

    def __exit__(self, *_error: object) -> None:
        line_token, step_token = self._tokens
        recorder.current.reset(line_token)
        _step.reset(step_token)


def performer() -> Performer:
    """Who executes the calling code: thread and task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.current_thread(), task


def goes_on(who: Performer) -> bool:
    """Whether that thread or task may still finish what it performs."""
    thread, task = who
    return thread.is_alive() if task is None else not task.done()
