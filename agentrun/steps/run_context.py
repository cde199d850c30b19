"""A claimed run as it executes in this process.

Everything that the run journals passes through `RunContext.append`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentrun.core.errors import (
    ConfigError,
    Interrupt,
    LeaseLost,
    Parking,
    RunCancelled,
    RunExpired,
    StoreLost,
)
from agentrun.core.events import Event
from agentrun.core.flow import Flow, Op
from agentrun.core.history import History
from agentrun.core.identity import RequestedToolCall, Scope
from agentrun.core.log import logger
from agentrun.core.messages import reply_messages
from agentrun.core.recorder import ModelRequest, ModelStep, OpenReply
from agentrun.steps import letters
from agentrun.steps.blocking import blocking
from agentrun.steps.performer import is_executing, performer
from agentrun.steps.refusals import asking_database, refusal
from agentrun.store.commit_waiters import PendingCommit
from agentrun.store.database import OpenDatabase
from agentrun.store.journal import JournalTail
from agentrun.store.mail import Letter, letters_of
from agentrun.store.patience import PROCESS, Patience, wait_until_done

if TYPE_CHECKING:
    from agentrun.steps.execution_point import ExecutionPoint
    from agentrun.steps.parking import Wait
    from agentrun.steps.replay_order import ReplayOrder
    from agentrun.steps.step import ActiveStep

# Seconds that a new task or thread may take to begin its first step before a park ignores it.
_BEGIN = 2.0

OpenModelStep = Callable[["ExecutionPoint", ModelRequest], Flow[ModelStep]]


class RunContext:
    """A claimed run: its history, the tail of its journal, and whether it may still go on.

    Its state is used by several threads: the agent's, those of its tools, and the heartbeat's. They
    hold `lock` where they read and change it.
    """

    def __init__(
        self,
        database: OpenDatabase,
        key: str,
        agent: str,
        tail: JournalTail,
        events: Sequence[Event],
        on_divergence: str,
        diverged_by: str,
        in_place: bool = True,
        on_held: str = "raise",
        open_model_step: OpenModelStep | None = None,
    ) -> None:
        self.database = database
        self.pid = os.getpid()
        self.key = key
        self.agent = agent
        self.tail = tail
        self.on_divergence = on_divergence
        self.diverged_by = diverged_by  # who chose `on_divergence`
        # True: waits block the caller, as in `.run()`. False: they park the run, as in a worker.
        self.in_place = in_place
        self.on_held = on_held  # "wait": `.run()` also waits for a person
        self.open_model_step = open_model_step  # None: model calls cannot be made in this run
        self.waits: dict[str, Wait] = {}  # steps that wait, by ident
        # New tasks and threads that have not begun a step, with the time of their start.
        self.new_scopes: deque[tuple[Scope, float]] = deque()
        # The order of the recorded outcomes; None until the code asks for the first of them.
        self.replay_order: ReplayOrder | None = None
        self.upcoming: set[str] = set()  # idents of calls of a reply that are about to begin
        self.children: list[RunContext] = []  # child runs that execute in this process
        # The task in which the body of an async agent executes.
        self.task: asyncio.Task[Any] | None = None
        # The parent's key and its step that waits for this run.
        self.parent: dict[str, Any] | None = None
        self.nested = False  # True if the parent run executes this run in this process
        # True inside the body of a tool: this child run is then a part of that step.
        self.in_tool_body = False
        self.expires_at: datetime | None = None  # the run's deadline
        self.budgeted = False  # True if this run or a run above it has a budget
        self.counts_calls = True  # True if a budget limits tool calls, or if that is not known yet
        self.admitted: set[str] = set()  # idempotency keys of the tool calls that the budgets allow
        # Tool calls that the budgets refuse, by idempotency key: the text that says how many calls
        # of the reply are refused ("2 of the 3 calls of this reply").
        self.refused_calls: dict[str, str] = {}
        self.lock = threading.RLock()
        # The journal up to this claim, and by seq the events that were appended since.
        self._claimed = events
        self._written: dict[int, Event] = {}
        self.history = History(events)
        self.root = Scope()
        self.interrupt: Interrupt | None = None
        self.draining = False
        # The step whose error was handed out last, if no outcome was handed out since.
        self.failing_step: int | None = None
        self.last_reply: int | None = None  # the model step whose reply was handed out last
        self.model_warning_given = False  # a NoModelWarning
        self.under_way: dict[str, ActiveStep] = {}  # steps that are being performed, by ident
        # Replies whose streams the code has not read to the end, by ident of the model step, and
        # the scope that reads each; None once that scope has begun a later model call.
        self.open_replies: dict[str, tuple[Scope | None, OpenReply]] = {}
        # Letters that a waiting step has seen, by ident of the step.
        self.seen_letters: dict[str, set[str]] = {}
        self.consumed = {e.key for e in events if e.event in ("resolved", "received")}
        self.heart = database.heart_of(tail.worker)
        self.patience = Patience(PROCESS)  # how long the run waits for the database

    @property
    def run_id(self) -> UUID:
        return self.tail.run_id

    @property
    def created(self) -> Event:
        """The first event of the run: what it was created with."""
        return self._claimed[0]

    # -- may the run go on? ------------------------------------------------------------------

    def drain(self) -> None:
        """Stop at the next step. Steps in flight finish, then the run is handed back.

        A child run within a tool's body is in flight itself. If it were handed back, the body would
        wait for it, and the drain would never end.
        """
        if self.in_tool_body:
            return
        self.draining = True
        for child in self.children:
            child.drain()

    def cancel(self, reason: str) -> None:
        """Stop at the next step, for good. An async agent that waits is woken and stops now."""
        self.stop(RunCancelled(reason))
        self._wake(reason)

    def expire(self) -> None:
        """Stop the run, as `cancel` does, if its deadline has passed."""
        if self.expires_at is not None and self.heart.now() >= self.expires_at:
            reason = f"its deadline passed at {self.expires_at:%F %T} UTC"
            self.stop(RunExpired(reason))
            self._wake(f"its parent {self.key!r} came to an end: {reason}")

    def _wake(self, why: str) -> None:
        for child in self.children:
            child.cancel(why)
        task = self.task
        if task is not None:
            task.get_loop().call_soon_threadsafe(self._cancel_body)

    def _cancel_body(self) -> None:
        """Cancel the agent's task. Called in its event loop.

        There it cannot interrupt the end of the run, which comes after the body. Each heartbeat
        repeats the cancellation, in case the body swallowed the previous one.
        """
        if self.task is not None:
            self.task.cancel()

    def check(self, scope: Scope) -> None:
        """Raise the run's interrupt if there is one: every further effect is then refused."""
        with self.lock:
            error = self.tail.lost or self.tail.ended
            if self.interrupt is None and error is not None:
                self.stop(error if isinstance(error, Interrupt) else StoreLost(error))
            if self.interrupt is None:
                self.expire()
            if self.interrupt is None and self.draining and not scope.body:
                self.stop(Parking("the process is stopping"))
            if self.interrupt is not None:
                raise self.interrupt

    def fence(self) -> Flow[bool]:
        """Make sure that the lease is valid, as the last act before an effect.

        Returns True if that took a heartbeat.
        """
        waited = False
        try:
            while self.heart.stale:
                waited = True
                yield blocking(self.heart.fence)
        except LeaseLost as lost:
            raise self.stop(lost) from None
        return waited

    def letters(self, ident: str) -> Flow[list[Letter]]:
        """The run's unread letters, oldest first, as the waiting step ``ident`` sees them.

        Letters that no step has to act upon are journaled as read here, and are left out.
        """
        sent: list[Letter] = yield blocking(partial(letters_of, self.database, self.run_id))
        with self.lock:
            unread = [letter for letter in sent if letter.mail_id not in self.consumed]
            relevant = [letter for letter in unread if not self._journal_if_handled(letter)]
            self.seen_letters[ident] = {letter.mail_id for letter in relevant}
        return relevant

    def _journal_if_handled(self, letter: Letter) -> bool:
        """Journal a letter that no step has to act upon; False if a step may have to."""
        if letter.kind == "budget":  # the waiting steps ask the budget again by themselves
            notes = [Event(event="received", key=letter.mail_id, by=letter.by)]
        elif (why := letters.why_ignored(letter, self.history)) is not None:
            notes = letters.ignored_events(letter, why, self.history)
            logger.warning("run %r: %s", self.key, notes[0].reason)
        else:
            return False
        self.consumed.add(letter.mail_id)
        self.append(*notes)
        return True

    def in_flight(self) -> list[str]:
        """The idents of the steps that living tasks and threads perform."""
        with self.lock:
            return [ident for ident, step in self.under_way.items() if is_executing(step.performer)]

    def forget_begun(self) -> None:
        """Forget new tasks and threads that have begun a step, or have had the time to."""
        oldest = time.monotonic() - _BEGIN
        while self.new_scopes and (
            self.new_scopes[0][0].has_begun or self.new_scopes[0][1] < oldest
        ):
            self.new_scopes.popleft()

    def abandon_steps(self) -> None:
        """Forget the steps that the calling task or thread performs: it will not finish them."""
        me = performer()
        with self.lock:
            for ident in [i for i, step in self.under_way.items() if step.performer == me]:
                del self.under_way[ident]

    @property
    def cancelled_from_outside(self) -> bool:
        """Whether the agent's own task was cancelled from outside."""
        return self.task is not None and self.task.cancelling() > 0

    def stop(self, interrupt: Interrupt) -> Interrupt:
        """Interrupt the run in this process for good. Returns the first interrupt, which stands."""
        with self.lock:
            self.interrupt = self.interrupt or interrupt
            return self.interrupt

    # -- journal -------------------------------------------------------------------------------

    def append(self, *events: Event) -> PendingCommit:
        """Journal events in order, and add them to the history."""
        with self.lock:
            done = self.database.writer.append(self.tail, events)
            first = self.tail.seq - len(events) + 1
            for seq, event in enumerate(events, first):
                self.apply_event(event, seq)
        return done

    def apply_event(self, event: Event, seq: int) -> None:
        """Add to the history an event that this claim has journaled at ``seq``."""
        self.history.apply(event, seq, self.tail.epoch)
        self._written[seq] = event

    def journaled_events(self, *, after: int) -> list[Event]:
        """The events of the journal behind the seq ``after``, in order, committed or queued."""
        epoch, worker = self.tail.epoch, self.tail.worker
        with self.lock:
            written = [
                replace(event, seq=seq, epoch=epoch, worker=worker)
                for seq, event in self._written.items()
            ]
        known = sorted([*self._claimed, *written], key=lambda event: event.seq)
        return [event for event in known if event.seq > after]

    def end(self, last: Event) -> Op[None]:
        """Journal the last event of this claim. Whatever is appended later is refused."""
        with self.lock:
            done = self.append(last)
            self.tail.ended = LeaseLost(f"run {self.key!r} has ended in this process")
        return self.durable(done)

    def hand_back(self) -> None:
        """Hand the run back, unless its last event is queued or another worker has the run."""
        with self.lock:
            if not (self.tail.lost or self.tail.ended or isinstance(self.interrupt, LeaseLost)):
                self.end(Event(event="handed_back", reason="interrupted"))

    def durable(self, done: PendingCommit) -> Op[None]:
        """Wait until an append is committed. Cancelling the wait does not affect the writer."""

        def here() -> None:
            with asking_database(self):
                self.database.writer.wait(done)

        async def wait() -> None:
            self.database.writer.hurry()
            with asking_database(self):
                await wait_until_done(done.wait())

        return Op(here, wait)

    def flushed(self) -> Op[None]:
        """Wait until everything that the run has journaled is committed."""
        return self.durable(self.append())

    # -- tool calls that a reply asked for ------------------------------------------------------

    def finish_reply(self, scope: Scope, name: str, call_id: str | None) -> Flow[None]:
        """Read the reply that asks for this tool call to its end, if it is still being streamed.

        Nothing acts on a reply that is not recorded: after a crash the model would be asked again,
        and could ask for something else. And until a reply is whole, nobody knows the place of its
        calls. A call without id can only answer a reply that ``scope`` can see, and not one that
        ``scope`` has left for a later reply.

        Raises Refusing where the rest cannot be read.
        """
        with self.lock:
            replies = list(self.open_replies.values())
        for of_scope, reply in replies:
            if call_id or any(of_scope is one for one in scope.line()):
                calls = [c for one in reply_messages(reply.partial_body()) for c in one.calls]
                if any(c.name == name and (not call_id or c.id == call_id) for c in calls):
                    try:
                        yield reply.read_rest(name)
                    except ConfigError as error:
                        raise refusal(str(error)) from None

    def leave_replies(self, scope: Scope) -> None:
        """Note that ``scope`` begins a model call: only a call id leads to its open replies now.

        Code may stop reading a stream without closing it. A call of a later reply must not read
        that stream, which may never end.
        """
        with self.lock:
            for ident, (of_scope, reply) in self.open_replies.items():
                if of_scope is scope:
                    self.open_replies[ident] = (None, reply)

    def learn_reply(self, scope: Scope, ident: str, turn: int | None, body: Any) -> None:
        """Remember the tool calls of a model's reply: the code's calls are matched with them."""
        calls = [call for message in reply_messages(body) for call in message.calls]
        asked = [
            RequestedToolCall(f"{ident}#{index}", call.name, call.id, call.arguments, turn)
            for index, call in enumerate(calls)
        ]
        with self.lock:
            scope.turn = turn if turn is not None else scope.turn
            known = self.history.steps.get(ident)
            self.last_reply = known.step if known is not None else None
            if asked:
                scope.add_reply(asked)
