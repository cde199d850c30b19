"""A step of a run and its attempts. Every effect of a run passes through this file.

Three rules hold here, and the project's promise rests on them:

* The intent of an attempt is durable before its effect begins. So a crash cannot hide an effect:
  an attempt without an intent was never sent.
* The outcome is queued for the journal before the result is handed to the agent's code. The next
  effect of the run is sent only after that outcome is durable, so no effect can follow from a
  result that the journal lost.
* A recorded outcome is handed out and the step is never performed again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from agentrun.core.codec import plain
from agentrun.core.divergence import RequestedStep
from agentrun.core.errors import ConfigError, Refusing
from agentrun.core.events import Event, Json, Usage
from agentrun.core.flow import Flow
from agentrun.core.identity import RequestedToolCall, Scope
from agentrun.steps import doubt, letters
from agentrun.steps.blocking import blocking
from agentrun.steps.performer import Performer, cancellations, performer
from agentrun.steps.run_context import RunContext
from agentrun.store.late_results import late_result
from agentrun.store.mail import Letter
from agentrun.store.partials import partials_of
from agentrun.values.callables import unfinished_kind
from agentrun.values.exceptions import describe
from agentrun.values.tagged_json import TypeMismatch, type_divergence


@dataclass(frozen=True, kw_only=True)
class StepRequest(RequestedStep):
    """A step that the code asks for, with the objects that performing it needs in this process."""

    # The bytes of the files that `asked` refers to by claim checks (digest and size).
    attached: tuple[bytes, ...] = ()
    opens_turn: bool = True  # False for a model call that belongs to the current turn
    # The tool call of a model's reply that this step performs.
    call: RequestedToolCall | None = None
    doubt: doubt.Policy = field(default_factory=doubt.Policy)

    def __post_init__(self) -> None:
        # A model may send any string as a tool's name. The stored form is used from here on,
        # because a resume compares the name with what was stored.
        object.__setattr__(self, "name", plain(self.name))


@dataclass(eq=False)
class ActiveStep:
    """A step that is being performed, or whose recorded outcome is being handed out."""

    run: RunContext
    scope: Scope
    request: StepRequest
    ident: str
    number: int
    turn: int | None
    key: str
    fingerprint: str
    overlapping: bool
    attempts: int = 0
    adopted: int | None = None  # the number of the attempt whose late result became the outcome
    outcome: Event | None = None
    started_at: datetime | None = None
    performer: Performer = field(default_factory=performer)
    cancellations: int = field(default_factory=cancellations)  # of its task, before the step
    failure: BaseException | None = None  # the exception raised in this process, with its traceback
    # True after the task was cancelled during the step. If the agent's code goes on afterwards, the
    # agent cancelled the step; otherwise the whole task is ending (see `_release_earlier_steps`).
    cancelled: bool = False

    # -- attempts ------------------------------------------------------------------------------

    def attempt(self, *, adopts: bool = True, reserved: Usage | None = None) -> Flow[Event | None]:
        """Begin an attempt. When this returns, its intent is durable and the lease is valid.

        ``reserved`` is the amount that a budget reserved for the attempt. The intent records it.

        Returns the late result of an earlier attempt if there is one and ``adopts`` is True. The
        caller must then send nothing. Returns None if the effect may be sent now.

        A `read` step has no intent: repeating it does no harm.

        Raises Interrupt when the run may not go on in this process.
        """
        self.run.check(self.scope)
        self.attempts += 1
        self.started_at = self.run.heart.now()
        if self.request.effect == "read":
            # A loop of reads never waits for a commit, so the queue would only grow.
            if self.run.database.load.is_full:
                yield self.run.flushed()
            yield from self.await_fence()
            return None
        superseded = yield from self._superseded_output()
        intent = self._event("attempt_started", usage=reserved, **superseded)
        durable = self.run.append(intent)
        try:
            yield self.run.durable(durable)
            if self.attempts > 1 and adopts:
                late = yield from self.find_late_result(self.attempts - 1)
                if late is not None:
                    self.adopted = late.attempt
                    return late
            yield from self.await_fence()
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self._withdraw()
            raise
        return None

    def _withdraw(self) -> None:
        """Close the attempt as not sent, so that a resume may make another one without a doubt."""
        with self.run.lock:
            stopped = self.run.tail.lost or self.run.tail.ended
            # The intent of a wait or a child sends nothing. It marks the beginning, and stays open.
            if stopped is None and self.request.kind not in ("wait", "child"):
                reason = "the run was stopped before this was sent"
                self.record_failed_attempt(
                    {"type": "NotSent", "message": reason}, 0.0, reason, "not_sent"
                )

    def _superseded_output(self) -> Flow[dict[str, Any]]:
        """What the previous attempt received of a streamed reply, as columns for the new intent.

        The journal keeps this text, so that the transcript can show what the crash interrupted.
        """
        if self.request.kind != "model" or self.attempts == 1:
            return {}
        rows = yield blocking(partial(partials_of, self.run.database, self.run.run_id, self.number))
        before = [row for row in rows if row.attempt < self.attempts]
        if not before:
            return {}
        self.run.database.partials.mark_stored(self.run.run_id, self.number)
        last = before[-1]
        output = {"superseded": {"attempt": last.attempt, "body": last.body}}
        return {"output": output, "has_output": True}

    def accept(self, identifier: str) -> Flow[None]:
        """Journal the provider's id for work that goes on without us; durable when this returns."""
        output = {"response": identifier}
        accepted = self._event("attempt_accepted", output=output, has_output=True)
        yield self.run.durable(self.run.append(accepted))

    def pick_up(self) -> Flow[None]:
        """Continue an accepted attempt that an earlier claim of the run began."""
        opened = self.run.history.steps[self.ident].open
        self.started_at = (opened.at if opened else None) or self.run.heart.now()
        yield from self.await_fence()

    def await_fence(self) -> Flow[None]:
        """Wait until the run may go on and its lease is valid. Then the effect may be sent."""
        # The lease is checked last, because `check` may wait for the run's lock while time passes.
        self.run.check(self.scope)
        while (yield from self.run.fence()):
            self.run.check(self.scope)

    def find_late_result(self, attempt: int) -> Flow[Event | None]:
        """The result that a lost worker stored for this attempt after it had lost the run."""
        database, run_id = self.run.database, self.run.run_id
        look = partial(late_result, database, run_id, self.number, attempt)
        late: Event | None = yield blocking(look)
        return late

    def record_failed_attempt(
        self, error: Json, retry_in: float, reason: str, status: str | None = None
    ) -> None:
        """Journal that this attempt failed and that another follows in ``retry_in`` seconds."""
        self.run.append(self.failed_event(error, retry_in, reason, status))

    def failed_event(
        self, error: Json, retry_in: float, reason: str, status: str | None = None
    ) -> Event:
        """The `attempt_failed` event of this attempt."""
        output = {"error": error, "retry_in": round(retry_in, 3)}
        return self._event(
            "attempt_failed",
            status=status,
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
        raw_name: str | None = None,
        model: str | None = None,
        usage: Usage | None = None,
        by: str | None = None,
    ) -> Event:
        """Journal the outcome, without waiting for the commit: the next effect waits for it."""
        outcome = self.outcome_event(
            status, output, raw=raw, raw_name=raw_name, model=model, usage=usage, by=by
        )
        self.run.append(outcome)
        self.mark_finished(outcome)
        return outcome

    def fail(self, error: BaseException, *, control_flow: bool = False) -> Event:
        """Journal an exception as the outcome. The code gets it as it is read back from there.

        ``control_flow``: a framework pauses or ends its agent with it, so it is no failure.
        """
        self.failure = error
        output: dict[str, Json] = {"error": describe(error, trace=True)}
        if control_flow:
            output["control_flow"] = True
        return self.finish("error", output)

    def adopt_committed_event(self, event: Event, seq: int) -> None:
        """Add an event to the history that the step's own transaction has committed at ``seq``."""
        with self.run.lock:
            self.run.apply_event(event, seq)
        if event.event == "step_finished":
            self.mark_finished(event)

    def mark_finished(self, outcome: Event) -> None:
        """Set the outcome, which is in the journal or queued for it, and end the step."""
        self.outcome = outcome
        self.hand_out(outcome)
        self.leave()

    def hand_out(self, outcome: Event) -> None:
        """Update what later steps depend on, now that the agent's code sees this outcome."""
        failed = outcome.status == "error"
        self.run.failing_step = self.number if failed else None
        self.scope.failed = (self.fingerprint, self.key) if failed else None
        if self.request.call is not None:
            self.request.call.failed = failed

    def outcome_event(self, status: str, output: Json, **columns: Any) -> Event:
        """The `step_finished` event. For a tool it repeats the arguments, for queries by SQL."""
        return self._event(
            "step_finished",
            status=status,
            output=output,
            has_output=True,
            started_at=self.started_at,
            **columns,
        )

    def check_finished(self, value: Any) -> None:
        """Raise Refusing if the function returned a generator or the like that does its work later.

        Effects of such a value could not be recorded. The step is recorded as failed first, because
        the function may already have acted before it returned.
        """
        what = unfinished_kind(value)
        if what is None:
            return
        refused = Refusing(
            f"{self.request.name} returned a {what}, which does its work later, where it could not "
            "be recorded: make the function `async def`, or return a list",
            step=self.number,
        )
        # The transaction of a `transaction` tool is rolled back: nothing is to be recorded of it.
        if self.request.effect != "transaction":
            self.finish("error", {"error": describe(ConfigError(str(refused)))})
        raise self.run.stop(refused)

    def decision_event(
        self,
        status: str,
        by: str | None,
        reason: str | None,
        mail: str | None = None,
        output: Json = None,
    ) -> Event:
        """The `resolved` event: a decision about this step."""
        columns = {} if output is None else {"output": output, "has_output": True}
        return self._event("resolved", status=status, by=by, reason=reason, key=mail, **columns)

    def record_decision(
        self, letter: Letter, status: str, output: Json = None, *then: Event
    ) -> None:
        """Journal a person's decision about this step, and its consequences in the same commit."""
        details = {**letters.sender_names(letter), **(output or {})} or None
        mail = letter.mail_id
        self.run.consumed.add(mail)
        decision = self.decision_event(status, letter.by, letter.reason, mail, details)
        self.run.append(decision, *then)

    def received_event(self, letter: Letter) -> Event:
        """The `received` event, which marks a letter as read. A letter is read once."""
        return Event(
            event="received",
            step=self.number,
            kind=self.request.kind,
            name=self.request.name,
            ident=self.ident,
            key=letter.mail_id,
            by=letter.by,
            reason=letter.reason,
        )

    def approval_request_event(self, reason: str, suggested: Json = None) -> Event:
        """The `approval_requested` event: the step waits for a person before its first attempt.

        ``suggested`` are the limits that a request for a larger budget suggests.
        """
        columns: dict[str, Any] = {"reason": reason}
        if suggested is not None:
            columns |= {"output": {"suggested_budget": suggested}, "has_output": True}
        return self._event("approval_requested", **columns)

    def decode_result(self, decode: Callable[[Json], Any]) -> Any:
        """Decode the recorded result into the type that the code declares.

        Raises Diverging if the code now declares another type that the result does not fit.
        """
        assert self.outcome is not None
        try:
            return decode(self.outcome.output["result"])
        except TypeMismatch as changed:
            what = f"step {self.number}, {self.request.kind} {self.request.name!r}"
            raise self.run.stop(type_divergence(what, "result", changed)) from None

    def leave(self) -> None:
        """Mark the step as no longer performed here.

        A cancelled step stays marked until it is clear who cancelled it (see ``cancelled``).
        """
        cancelled = isinstance(sys.exception(), asyncio.CancelledError)
        if self.outcome is None and cancelled and self.was_cancelled():
            self.cancelled = True
            return
        with self.run.lock:
            if self.scope.active.pop(self.number, None) is not None:
                self.run.under_way.pop(self.ident, None)

    def was_cancelled(self) -> bool:
        """Whether the calling task was cancelled during the step.

        Otherwise the step's own code raised the CancelledError, for example because it awaited a
        task that was cancelled. A resume must then raise it again, since nobody cancels the step.
        """
        before = self.cancellations if self.performer == performer() else 0
        return cancellations() > before

    def _event(self, event: Any, **columns: Any) -> Event:
        """An event of this step.

        The input of the step is in its first intent, in a request for approval, and in the outcome
        of all steps but paid model calls: their requests are large and need no second copy.
        """
        outcome = event == "step_finished"
        has_input = event == "approval_requested" or (
            self.request.kind != "model" or self.request.effect == "read"
            if outcome
            else (event == "attempt_started" and self.attempts == 1)
        )
        columns.setdefault("key", self.key)
        if has_input and event == "attempt_started":
            columns["attached"] = self.request.attached
        return Event(
            event=event,
            step=self.number,
            turn=self.turn,
            kind=self.request.kind,
            name=self.request.name,
            ident=self.ident,
            attempt=(self.adopted if outcome else None) or max(1, self.attempts),
            effect=self.request.effect,
            fingerprint=self.fingerprint,
            overlapping=self.overlapping,
            input=self.request.input if has_input else None,
            has_input=has_input,
            **columns,
        )
