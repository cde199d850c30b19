"""A step: found or begun, attempted, finished. Every effect passes through here.

The order is the promise. An attempt's intent is durable before its effect begins; the outcome is
queued before anything is handed on; what is recorded is handed out and never performed again.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from agentrun.core.codec import plain
from agentrun.core.errors import ConfigError, Diverging
from agentrun.core.events import Effect, Event, Json, Kind, Usage
from agentrun.core.flow import Flow, Op
from agentrun.core.identity import (
    Asked,
    Known,
    Place,
    Scope,
    check_same,
    fingerprint_step,
    place_call,
    place_next,
    scope_of,
    step_key,
)
from agentrun.runner import doubt
from agentrun.runner.context import Line, Performer, RunContext, blocking, goes_on, performer
from agentrun.runner.waiting import pause
from agentrun.store.late import late_result
from agentrun.store.partials import partials_of

_CANCELLED = {"error": {"type": "CancelledError", "message": "cancelled by the agent itself"}}
_JOIN = 0.02  # seconds between looks at a step that another thread performs


@dataclass(frozen=True)
class Wanted:
    """What the code asks for: one step."""

    kind: Kind
    name: str
    effect: Effect
    asked: Json  # recorded as the step's input
    compared: Json = None  # what the fingerprint is taken of; None: `asked`
    call: Asked | None = None  # the tool call of a reply that this step answers
    doubt: doubt.Policy = field(default_factory=doubt.Policy)

    def __post_init__(self) -> None:
        # A model may ask for a tool by any name; what is compared on resume is what was stored.
        object.__setattr__(self, "name", plain(self.name))

    @property
    def fingerprint(self) -> str:
        compared = self.asked if self.compared is None else self.compared
        return fingerprint_step(self.kind, self.name, compared)


@dataclass(eq=False)
class Step:
    """A step under way, or one whose recorded outcome only has to be handed out."""

    run: RunContext
    scope: Scope
    wanted: Wanted
    ident: str
    number: int
    turn: int | None
    key: str
    fingerprint: str
    overlapping: bool
    attempts: int = 0
    adopted: int | None = None  # the attempt whose late answer is the outcome
    outcome: Event | None = None
    started_at: datetime | None = None
    performer: Performer = field(default_factory=performer)
    cancelled: bool = False  # by the agent, or with it: that shows when its code goes on, or not

    # -- attempts ------------------------------------------------------------------------------

    def attempt(self, *, adopts: bool = True, reserved: Usage | None = None) -> Flow[Event | None]:
        """Begin an attempt: its intent is durable, and the lease good, when this returns.

        ``reserved`` is what a budget has set aside for it, and is recorded with the intent.

        Returns an earlier attempt's late answer, if one is there and the step ``adopts`` it: then
        nothing may be sent. Raises Interrupt when the run may not go on here.
        """
        self.run.check(self.scope)
        self.attempts += 1
        self.started_at = self.run.heart.now()
        if self.wanted.effect != "read":
            superseded = yield from self._superseded()
            intent = self._event("attempt_started", usage=reserved, **superseded)
            yield self.run.durable(self.run.append(intent))
            if self.attempts > 1 and adopts:
                late = yield from self._late(self.attempts - 1)
                if late is not None:
                    self.adopted = late.attempt
                    return late
        elif self.run.database.load.full:  # nothing else would slow it down
            yield self.run.flushed()
        yield from self._fenced()
        return None

    def _superseded(self) -> Flow[dict[str, Any]]:
        """What had come of a streamed reply before this attempt, for its intent to keep."""
        if self.wanted.kind != "model" or self.attempts == 1:
            return {}
        kept = yield blocking(partial(partials_of, self.run.database, self.run.run_id, self.number))
        before = [one for one in kept if one.attempt < self.attempts]
        if not before:
            return {}
        self.run.database.partials.found(self.run.run_id, self.number)
        last = before[-1]
        output = {"superseded": {"attempt": last.attempt, "body": last.body}}
        return {"output": output, "has_output": True}

    def accept(self, identifier: str) -> Flow[None]:
        """The attempt goes on by itself under this id, durably so when this returns."""
        output = {"response": identifier}
        accepted = self._event("attempt_accepted", output=output, has_output=True)
        yield self.run.durable(self.run.append(accepted))

    def pick_up(self) -> Flow[None]:
        """Go on with the attempt that an earlier claim began, and that went on by itself."""
        opened = self.run.history.steps[self.ident].open
        self.started_at = (opened.at if opened else None) or self.run.heart.now()
        yield from self._fenced()

    def _fenced(self) -> Flow[None]:
        # The lease is looked at last: `check` may wait for another thread of the run.
        self.run.check(self.scope)
        while (yield from self.run.fence()):
            self.run.check(self.scope)

    def _late(self, attempt: int) -> Flow[Event | None]:
        database, run_id = self.run.database, self.run.run_id
        late: Event | None = yield blocking(
            lambda: late_result(database, run_id, self.number, attempt)
        )
        return late

    def failed(self, error: Json, retry_in: float, reason: str) -> None:
        """This attempt failed and another will follow in ``retry_in`` seconds."""
        self.run.append(self.failed_event(error, retry_in, reason))

    def failed_event(self, error: Json, retry_in: float, reason: str) -> Event:
        """A failed attempt as an event."""
        output = {"error": error, "retry_in": round(retry_in, 3)}
        return self._event(
            "attempt_failed",
            output=output,
            has_output=True,
            reason=reason,
            started_at=self.started_at,
        )

    def finish(
        self,
        status: str,
        output: Json,
        *,
        raw: bytes | None = None,
        model: str | None = None,
        usage: Usage | None = None,
        by: str | None = None,
    ) -> Event:
        """Record the outcome. Not waited for: the next effect of the run waits for it."""
        outcome = self.outcome_event(status, output, raw=raw, model=model, usage=usage, by=by)
        self.run.append(outcome)
        self.over(outcome)
        return outcome

    def took(self, event: Event, seq: int) -> None:
        """Take in an event that went into the journal by another way: its transaction's own."""
        with self.run.lock:
            self.run.take(event, seq)
        if event.event == "step_finished":
            self.over(event)

    def over(self, outcome: Event) -> None:
        """The step has its outcome, which is in the journal or on its way there."""
        self.outcome = outcome
        self.run.failing_step = self.number if outcome.status == "error" else None
        self.done()

    def outcome_event(self, status: str, output: Json, **columns: Any) -> Event:
        """The outcome as an event; tools repeat their arguments, so that one row answers."""
        return self._event(
            "step_finished",
            status=status,
            output=output,
            has_output=True,
            started_at=self.started_at,
            **columns,
        )

    def resolved(
        self,
        status: str,
        by: str,
        reason: str | None,
        mail: str | None = None,
        output: Json = None,
    ) -> Event:
        """A decision about this step, as an event."""
        told = {} if output is None else {"output": output, "has_output": True}
        return self._event("resolved", status=status, by=by, reason=reason, key=mail, **told)

    def read(self, letter: dict[str, Any]) -> Event:
        """That a letter was read, as an event: so that it is read once."""
        return Event(
            event="received",
            step=self.number,
            kind=self.wanted.kind,
            name=self.wanted.name,
            ident=self.ident,
            key=str(letter["id"]),
            by=letter["by"],
            reason=letter["reason"],
        )

    def asks_approval(self, reason: str) -> Event:
        """That the step waits for a person, as an event: what is asked for, before any attempt."""
        return self._event("approval_requested", reason=reason)

    def done(self) -> None:
        """The step is not under way any more."""
        if self.outcome is None and isinstance(sys.exception(), asyncio.CancelledError):
            self.cancelled = True
            return
        with self.run.lock:
            if self.scope.active.pop(self.number, None) is not None:
                self.run.under_way.pop(self.ident, None)

    def _event(self, event: Any, **columns: Any) -> Event:
        outcome = event == "step_finished"
        tells = event == "approval_requested" or (
            self.wanted.kind != "model"
            if outcome
            else (event == "attempt_started" and self.attempts == 1)
        )
        columns.setdefault("key", self.key)
        return Event(
            event=event,
            step=self.number,
            turn=self.turn,
            kind=self.wanted.kind,
            name=self.wanted.name,
            ident=self.ident,
            attempt=(self.adopted if outcome else None) or max(1, self.attempts),
            effect=self.wanted.effect,
            fingerprint=self.fingerprint,
            overlapping=self.overlapping,
            input=self.wanted.asked if tells else None,
            has_input=tells,
            **columns,
        )


def open_step(line: Line, wanted: Wanted) -> Flow[Step]:
    """Find the step that the code asks for, or begin it.

    Raises:
        Diverging: something else is recorded at this place, and divergence is refused.
        Interrupt: the run may not go on here, or its doubt waits for a person.
    """
    run = line.run
    with run.lock:
        run.check(line.scope)
        me = performer()
        _leave_behind(line, me)
        step, known = _placed(line, wanted, me)
    while not _taken(step):
        # The body of an attempt that timed out still performs it: its outcome is this one's.
        yield pause(_JOIN)
        run.check(line.scope)
        known = run.history.steps.get(step.ident)
        if known is not None:
            step.number, step.attempts, step.outcome = known.step, known.attempts, known.outcome
    if step.outcome is not None and step.outcome.status == "cancelled":
        yield _until_cancelled()
    if known is not None and known.open is not None and wanted.effect == "once":
        try:
            yield from doubt.settle(step, known)
        except BaseException:
            step.done()
            raise
    return step


def _leave_behind(line: Line, me: Performer) -> None:
    """Whoever asks for the next step of a scope is done with the last, whatever became of it.

    So is the code that began a task, or entered a branch, once that has ended.
    """
    run = line.run
    for number in [n for n, who in line.scope.active.items() if who == me]:
        del line.scope.active[number]
    for step in list(run.under_way.values()):
        left = step.performer == me or not goes_on(step.performer)
        if left and scope_of(step.ident).startswith(line.scope.path):
            del run.under_way[step.ident]
            begun = step.outcome is None and step.attempts > 0
            if step.cancelled and begun and not run.torn_down:
                step.finish("cancelled", _CANCELLED)


def _until_cancelled() -> Op[None]:
    """Where the agent cancelled a step and went on, it will do so again."""

    async def forever() -> None:
        await asyncio.Event().wait()

    return Op(_never, forever)


def _never() -> None:
    raise ConfigError("a step that the agent cancelled was awaited, and is now called in sync code")


def _taken(step: Step) -> bool:
    """Note who performs the step, or that its outcome is handed out; False: another performs it."""
    run = step.run
    with run.lock:
        if step.outcome is not None:
            run.failing_step = step.number if step.outcome.status == "error" else None
        elif step.ident in run.in_flight():
            return False
        else:
            run.under_way[step.ident] = step
            step.scope.active[step.number] = step.performer
        return True


def _placed(line: Line, wanted: Wanted, me: Performer) -> tuple[Step, Known | None]:
    run, scope, history = line.run, line.scope, line.run.history
    fingerprint = wanted.fingerprint
    place = _place(line, wanted, fingerprint, me)
    try:
        check_same(place, wanted.kind, wanted.name, fingerprint, wanted.asked)
    except Diverging as diverging:
        if run.on_divergence != "accept":
            raise run.stop(diverging) from None
        run.append(
            Event(
                event="diverged",
                ident=place.ident,
                by="on_divergence",
                step=place.known.step if place.known else None,
                reason=diverging.diff,
            )
        )
        place = Place(place.ident, scope.turn_of_new(wanted.kind), place.overlapping, None)
    known = place.known
    if known is None:
        history.last_step += 1
        turn = place.turn if place.turn is not None else _next_turn(run, wanted)
        number = history.last_step
        key = step_key(run.run_id, place.ident, history.divergences)
    else:
        number, turn = known.step, known.turn
        key = known.key or step_key(run.run_id, place.ident, history.divergences)
    step = Step(
        run,
        scope,
        wanted,
        place.ident,
        number,
        turn,
        key,
        fingerprint,
        place.overlapping,
        attempts=known.attempts if known else 0,
        outcome=known.outcome if known else None,
    )
    return step, known


def _place(line: Line, wanted: Wanted, fingerprint: str, me: Performer) -> Place:
    if wanted.call is not None:
        return place_call(line.run.history, line.scope, wanted.call)
    return place_next(
        line.run.history,
        line.scope,
        wanted.kind,
        wanted.name,
        wanted.effect,
        fingerprint,
        me,
    )


def _next_turn(run: RunContext, wanted: Wanted) -> int | None:
    if wanted.kind != "model":
        return run.history.last_turn or None
    run.history.last_turn += 1
    return run.history.last_turn
