"""Hands out recorded outcomes of concurrent tasks in the order in which the tasks got them live.

The problem. On a resume every recorded outcome is there at once. Tasks that ask for steps side by
side would get them in the order in which they ask. Code that reads results as they come, from
`asyncio.as_completed`, a queue or a shared list, would then see another order than before.

The rule. An outcome is handed out at once if the journal has no earlier one that the code has yet
to get, and if the task that got the last one asks for it: this is so in all sequential code.
Otherwise it waits until the earlier ones are handed out, and until the loop has gone round a few
times after the last one, so that the code that got it has come to its next wait.

A step that has no outcome yet waits for all recorded ones, but those of its own body: its outcome
will come after them in the journal, and the next resume follows that order.

It never waits without a bound. If nothing is asked for or handed out for `_LATE` slow rounds, the
first of the steps that wait goes on. A claim waits so in vain `_PATIENCE` times; after that it
orders only what is asked for at the same time. Threads and sync code do not wait.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from agentrun.core.flow import Flow, Op
from agentrun.core.history import History, RecordedStep
from agentrun.steps.performer import Performer, performer

if TYPE_CHECKING:
    from agentrun.steps.run_context import RunContext
    from agentrun.steps.step import ActiveStep

_SETTLE = 10  # rounds of the loop in which the code that got an outcome comes to its next wait
_LATE = 25  # further, slow rounds for an earlier outcome that nobody has asked for
_SLOW_ROUND = 0.002  # seconds
_NEW = sys.maxsize  # the position of a step without an outcome
_PATIENCE = 10  # how often a claim waits so in vain


class ReplayOrder:
    """The recorded outcomes that the code has yet to get, and the tasks that wait for their turn.

    The run's lock guards it, since threads of the run ask for steps, too.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        steps = run.history.steps
        found = [known for known in steps.values() if _is_due(run.history, known)]
        self._due = deque(sorted(found, key=_position))
        self._expected = {known.ident: _position(known) for known in found}
        self._waiting: list[tuple[int, int, str, asyncio.Future[None]]] = []  # a heap
        self._idents: set[str] = set()  # of the steps in `_waiting`
        self._last: Performer | None = None  # who got the last outcome
        self.decoding = 0  # replies that are being read after their turn came
        self.rounds = 0  # since an outcome was last asked for or handed out
        self._patience = _PATIENCE
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_watching = False

    def take(self, step: ActiveStep, me: Performer) -> bool:
        """Whether ``me`` may go on with the step at once."""
        if not self._due:
            return True
        if step.outcome is None:
            return self._is_next(step.ident)
        if step.ident not in self._expected:
            return True
        calm = not self._idents and not self.decoding and self._last in (None, me)
        if not (calm and self._is_next(step.ident)):
            return False
        self._hand_out(step.ident, me)
        return True

    async def wait(self, step: ActiveStep, me: Performer) -> None:
        """Wait for the turn of the step."""
        loop, run, ident = asyncio.get_running_loop(), self._run, step.ident
        with run.lock:
            if self._idents and self._loop is not loop:
                self._hand_out(ident, me)
                return
            self._loop = loop
            turn = loop.create_future()
            position = _NEW if step.outcome is None else self._expected[ident]
            heapq.heappush(self._waiting, (position, step.number, ident, turn))
            self._idents.add(ident)
            run.upcoming.add(ident)  # the run must not park meanwhile
            self.rounds = 0
            if not self._is_watching:
                self._is_watching = True
                loop.call_soon(self._watch)
        try:
            await turn
        finally:
            with run.lock:
                turn.cancel()
                run.upcoming.discard(ident)
                self._idents.discard(ident)
                self._hand_out(ident, me)

    def _watch(self) -> None:
        """Count a round of the loop, and give the earliest waiting task its turn if it is time."""
        with self._run.lock:
            while self._waiting and self._waiting[0][3].done():
                heapq.heappop(self._waiting)
            if not self._waiting or self._loop is None or self._loop.is_closed():
                self._is_watching = False
                return
            position, _, ident, turn = self._waiting[0]
            self.rounds += 1
            is_next = self._is_next(ident)
            enough = _SETTLE if is_next or self._patience == 0 else _SETTLE + _LATE
            if self._run.interrupt is not None or (self.rounds > enough and not self.decoding):
                if not is_next:
                    self._patience = max(0, self._patience - 1)
                    self._give_up(position, ident)
                self.rounds = 0
                turn.set_result(None)
            if self.rounds <= _SETTLE:
                self._loop.call_soon(self._watch)
            else:
                self._loop.call_later(_SLOW_ROUND, self._watch)

    def _is_next(self, ident: str) -> bool:
        """Whether no outcome is due before this step goes on, other than those of its own body."""
        due = self._due
        while due and due[0].ident != ident:
            first = due[0]
            has_it = first.on_path and first.ident not in self._idents
            if not (has_it or first.set_aside_at or first.outcome is None):
                return first.ident.startswith(f"{ident}>")
            due.popleft()
        return True

    def _give_up(self, position: int, ident: str) -> None:
        """Wait no longer for the outcomes that are due before this step goes on."""
        within = f"{ident}>"
        kept = [k for k in self._due if _position(k) >= position or k.ident.startswith(within)]
        self._due = deque(kept)

    def _hand_out(self, ident: str, me: Performer) -> None:
        if self._expected.pop(ident, None) is not None:
            self.rounds = 0
            self._last = me


def await_turn(step: ActiveStep) -> Flow[None]:
    """Wait until it is the turn of this step. Sync code goes on at once."""
    run, me = step.run, performer()
    with run.lock:
        order = run.replay_order = run.replay_order or ReplayOrder(run)
        at_once = order.take(step, me)
    if not at_once:
        yield Op(lambda: None, partial(order.wait, step, me))
        run.check(step.scope)


@contextmanager
def decoding(run: RunContext) -> Iterator[None]:
    """Hold the next outcomes back while a thread reads a recorded reply."""
    order = run.replay_order
    if order is None:
        yield
        return
    with run.lock:
        order.decoding += 1
    try:
        yield
    finally:
        with run.lock:
            order.decoding -= 1
            order.rounds = 0


def _is_due(history: History, known: RecordedStep) -> bool:
    """Whether the code will ask for this outcome, and no cancellation has to come before it."""
    if known.outcome is None or known.outcome.status == "cancelled":
        return False
    # The body of a step that has an outcome is not executed again.
    outer = [known.ident[:at] for at, one in enumerate(known.ident) if one == ">"]
    above = filter(None, map(history.steps.get, outer))
    return not any(one.outcome is not None for one in above)


def _position(known: RecordedStep) -> int:
    """The seq of the event with which the code got the outcome."""
    assert known.outcome is not None
    return max(known.outcome.seq, known.born)
