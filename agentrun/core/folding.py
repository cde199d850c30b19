"""Builds the entries of a transcript from journal events. There is one handler for each event.

Steps are collected in a mutable form, because later events of a step (a second attempt, a decision
about a doubt) change an entry that is already in the list. An entry has the position of its first
event. So the band of a resume follows the step that the crash interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from agentrun.core.conversations import ConversationRequest, Conversations
from agentrun.core.differences import comparable_text
from agentrun.core.entries import (
    Attempt,
    AttemptStatus,
    Decision,
    Doubt,
    Ended,
    Entry,
    Failure,
    NewMessage,
    Note,
    Resume,
    Step,
    StepStatus,
)
from agentrun.core.events import Event, Json, RunStatus, Usage
from agentrun.core.failures import error_text, read_failure
from agentrun.core.history import listed_steps, scope_of
from agentrun.core.messages import (
    Message,
    reply_messages,
)
from agentrun.core.sharing import whole
from agentrun.core.state import status_after

__all__ = ["Fold"]

# The status of a step after a decision. After any other decision the step is open again.
_STATUS_AFTER_DECISION: dict[str | None, StepStatus] = {
    "happened": "ok",
    "unknown": "unknown",
    "fail": "error",
}

_OPEN = ("running", "unknown")  # attempts with an intent and no outcome

# Parts of a request that a transcript shows as messages, or that every request repeats. They are
# left out of `Step.input`: else each call of a long conversation would hold all of it.
_CONVERSATION = frozenset(
    {"messages", "input", "contents", "system", "instructions", "systemInstruction", "tools"}
)


@dataclass(slots=True)
class _FoldedStep:
    """A step while it is built. ``first`` is its first event."""

    first: Event
    status: StepStatus = "open"
    attempts: dict[int, Attempt] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    approvals: list[Decision] = field(default_factory=list)
    reopened: list[Decision] = field(default_factory=list)
    input: Json = None
    request: Json = None  # the input of a model call as it is stored: see `Step.request`
    output: Json = None
    error: Failure | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    model: str | None = None
    usage: Usage | None = None
    set_aside: bool = False
    masked: dict[str, Json] = field(default_factory=dict)
    accepted: int | None = None  # the attempt that the provider works on in the background

    @property
    def finished(self) -> bool:
        return self.status not in ("open", "in_doubt")

    @property
    def in_flight(self) -> bool:
        """True while the latest attempt has an intent and no outcome."""
        latest = self.attempts[max(self.attempts)].status if self.attempts else None
        return not self.finished and latest in _OPEN

    def mark_attempts_lost(self, *, accepted: bool) -> None:
        """Mark running attempts as ``unknown``, because their worker has lost the run.

        An attempt that the provider works on in the background stays running, unless ``accepted``
        says that it is given up too.
        """
        for number, attempt in self.attempts.items():
            if attempt.status == "running" and (accepted or number != self.accepted):
                self.attempts[number] = replace(attempt, status="unknown")

    def close_attempt(
        self, event: Event, status: AttemptStatus, error: Failure | None = None
    ) -> None:
        """Close the attempt of ``event``. A `read` step has no intent: its attempt begins here.

        The outcome says when the attempt began, as the views of the schema have it.
        """
        number = event.attempt or max(self.attempts, default=1)
        begun = self.attempts.get(number) or Attempt(number, event.worker, event.started_at)
        if begun.status == "settled":  # a decision closed the attempt, and its entry tells more
            return
        started = event.started_at or begun.started_at
        if started is not None and self.started_at is not None:
            self.started_at = min(self.started_at, started)
        failed = event.event == "attempt_failed"
        retry_in = _number(_get(event.output, "retry_in")) if failed else None
        self.attempts[number] = Attempt(
            number, begun.worker, started, event.at, status, error, event.reason, retry_in,
            begun.partial,
        )  # fmt: skip

    def freeze(self) -> Step:
        """The step as an entry of a transcript."""
        first = self.first
        running = any(attempt.status == "running" for attempt in self.attempts.values())
        is_running = running and self.status == "open" and first.kind != "wait"
        unanswered = sum(a.status in ("unknown", "cancelled") for a in self.attempts.values())
        return Step(
            step=first.step or 0,
            turn=first.turn,
            kind=first.kind,
            name=first.name or "",
            status="running" if is_running else self.status,
            effect=first.effect,
            idempotency_key=first.key,
            input=self.input,
            output=self.output,
            error=self.error,
            recorded_request=self.request,
            attempts=tuple(self.attempts[number] for number in sorted(self.attempts)),
            doubts=tuple(self.doubts),
            approvals=tuple(self.approvals),
            reopened=tuple(self.reopened),
            started_at=self.started_at,
            finished_at=self.finished_at,
            model=self.model,
            usage=self.usage,
            set_aside=self.set_aside,
            possibly_billed=unanswered if first.kind == "model" else 0,
            masked=self.masked or None,
            ident=first.ident or "",
        )


@dataclass(slots=True)
class _Band:
    """A resume while it is built. Events until the next claim still change its counts."""

    resume: Resume
    in_flight: set[int]


class Fold:
    """Takes the events of a run in order. Its fields describe the run after the last event."""

    key: str = ""
    agent: str = ""
    status: RunStatus = "queued"
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    input: Json = None
    result: Json = None
    error: Failure | None = None
    failed_step: int | None = None  # the step that the run's error comes from

    def __init__(self) -> None:
        self._entries: list[NewMessage | Note | _FoldedStep | _Band] = []
        self._steps: dict[int, _FoldedStep] = {}
        self._conversations = Conversations()
        self._requests: dict[int, ConversationRequest] = {}  # by model step
        self._results: set[str] = set()  # the results of tools, as `comparable_text` text
        self._band: _Band | None = None

    def add(self, event: Event) -> None:
        """Take the next event. An unknown event is ignored, since a newer version wrote it."""
        self.status = status_after(event) or self.status
        if handler := self._HANDLERS.get(event.event):
            handler(self, event)

    def entries(self, first: int = 0) -> tuple[Entry, ...]:
        """The entries of the transcript so far, from a position on, as frozen values."""
        return tuple(map(_freeze, self._entries[first:]))

    def entry(self, position: int) -> Entry:
        """One entry of the transcript so far, as a frozen value. Raises IndexError."""
        return _freeze(self._entries[position])

    def mark_attempts_lost(self, *, accepted: bool = False) -> None:
        """Mark running attempts as ``unknown``, because the run has no live owner.

        ``accepted`` includes the attempts that the provider works on in the background.
        """
        for step in self._steps.values():
            step.mark_attempts_lost(accepted=accepted)

    # ---- the run ---------------------------------------------------------------------------

    def _on_created(self, event: Event) -> None:
        self.key = event.key or str(event.run_id or "")
        self.agent = event.name or ""
        self.input = _arguments(event.input)
        self.created_at = event.at

    def _on_claimed(self, event: Event) -> None:
        if self.started_at is None and self._band is None:
            self.started_at = event.at
            self._band = _Band(_resume(event, []), set())  # the first claim shows no band
            return
        valid = {number: step for number, step in self._steps.items() if not step.set_aside}
        finished = [step for step in valid.values() if step.finished]
        in_flight = {number for number, step in valid.items() if step.in_flight}
        self.mark_attempts_lost()
        self._band = _Band(_resume(event, finished), in_flight)
        self._entries.append(self._band)

    def _on_ended(self, event: Event) -> None:
        self.mark_attempts_lost(accepted=True)
        self.finished_at = event.at
        if event.event == "run_finished":
            self.result = event.output
            return
        if event.event == "run_cancelled":  # no error: the reason says who did it, and why
            by = f"by {event.by}" if event.by else ""
            self._entries.append(Note(event.event, event.at, event.reason or by, event.step))
            return
        self.error = read_failure(event.output, event.reason)
        self.failed_step = self._failed_step(event)
        self._entries.append(Note(event.event, event.at, error_text(self.error), event.step))

    def _failed_step(self, event: Event) -> int | None:
        """The step that failed, or else the model call whose reply the agent read last."""
        number = _get(event.output, "reply") if event.step is None else event.step
        return number if isinstance(number, int) and number in self._steps else None

    def _on_diverged(self, event: Event) -> None:
        self._mark_set_aside(listed_steps(event, "set_aside"), True)
        self._add_note(event)

    def _on_step_reused(self, event: Event) -> None:
        moved = listed_steps(event, "steps") & self._steps.keys()
        self._mark_set_aside(moved, False)
        before = (self._steps[event.step].first.ident or "") if event.step in moved else ""
        for step in (self._steps[number] for number in moved if before and event.ident):
            ident = f"{event.ident}{(step.first.ident or '').removeprefix(before)}"
            step.first = replace(step.first, ident=ident)

    def _mark_set_aside(self, numbers: set[int], set_aside: bool) -> None:
        for number in numbers & self._steps.keys():
            self._steps[number].set_aside = set_aside

    def _add_note(self, event: Event) -> None:
        if event.event == "resumed":
            self.error = self.finished_at = self.failed_step = None
        if event.event in ("parked", "handed_back"):
            self.mark_attempts_lost()
        by = f"by {event.by}" if event.by else None
        text = " · ".join(part for part in (event.status, by, event.reason) if part)
        self._entries.append(Note(event.event, event.at, text, event.step))

    # ---- steps -----------------------------------------------------------------------------

    def _on_attempt_started(self, event: Event) -> None:
        step = self._step(event)
        if self._band and event.step in self._band.in_flight:
            self._band.in_flight.remove(event.step)
            self._band.resume = replace(self._band.resume, rerun=self._band.resume.rerun + 1)
        self._keep_partial(step, _get(event.output, "superseded"))
        number = event.attempt or max(step.attempts, default=0) + 1
        step.mark_attempts_lost(accepted=True)
        step.attempts[number] = Attempt(number, event.worker, event.at, status="running")
        step.status = "open"

    def _on_attempt_accepted(self, event: Event) -> None:
        self._step(event).accepted = event.attempt

    def _keep_partial(self, step: _FoldedStep, lost: Json) -> None:
        """Store the partial text of an interrupted stream with the attempt that received it."""
        number = _get(lost, "attempt")
        if isinstance(number, int) and number in step.attempts:
            texts = [message.text for message in reply_messages(_get(lost, "body"))]
            step.attempts[number] = replace(step.attempts[number], partial="\n".join(texts))

    def _on_attempt_failed(self, event: Event) -> None:
        unsent: dict[str | None, AttemptStatus] = {"unreached": "unreached", "not_sent": "not_sent"}
        status = unsent.get(event.status, "failed")
        self._step(event).close_attempt(event, status, read_failure(event.output))

    def _on_step_finished(self, event: Event) -> None:
        step = self._step(event)
        status = _outcome(event.status)
        step.error = read_failure(event.output, event.reason) if status == "error" else None
        step.close_attempt(event, status, step.error)
        for number, attempt in step.attempts.items():
            if number > (event.attempt or number) and attempt.status in _OPEN:
                step.attempts[number] = replace(attempt, status="not_sent", ended_at=event.at)
        step.status = status
        step.output = event.output if event.kind == "model" else _result(event.output)
        step.finished_at = event.at
        step.model, step.usage = event.model or step.model, event.usage
        if step.first.kind == "tool":
            result = {"error": step.error.message} if step.error else step.output
            self._results.add(comparable_text(result))
        if step.first.kind == "model":
            self._add_reply(step.first, reply_messages(_get(event.output, "body")), event.at)

    def _on_approval_requested(self, event: Event) -> None:
        self._step(event)

    def _on_in_doubt(self, event: Event) -> None:
        step = self._step(event)
        step.mark_attempts_lost(accepted=True)
        step.status = "in_doubt"
        self._add_doubt(step, event)

    def _on_resolved(self, event: Event) -> None:
        step = self._step(event)
        edited = _get(event.output, "approved") if event.status == "approved" else None
        claimed, signed = (_get(event.output, name) for name in ("claimed_by", "signed_by"))
        decision = Decision(
            event.status or "", event.by, event.reason, event.at, edited, claimed, signed
        )
        if event.status in ("approved", "rejected", "expired"):
            step.approvals.append(decision)
            return
        if event.status == "reopened":
            step.reopened.append(decision)
            step.status, step.error = "open", None
            return
        if not step.doubts or step.doubts[-1].decision:
            self._add_doubt(step, event)
        step.doubts[-1] = replace(step.doubts[-1], decision=decision)
        if step.first.kind != "model":  # for a model step the decision is a larger budget
            step.close_attempt(event, "settled")
        step.status = _STATUS_AFTER_DECISION.get(event.status, "open")
        if step.finished:
            step.finished_at = event.at
            step.output = _result(event.output)
            step.error = (
                read_failure(event.output, event.reason) if event.status == "fail" else None
            )

    # ---- helpers ---------------------------------------------------------------------------

    def _step(self, event: Event) -> _FoldedStep:
        """The step of an event. The first event of a step adds it to the transcript."""
        number = event.step or 0
        if number not in self._steps:
            step = self._steps[number] = _FoldedStep(event, started_at=event.started_at or event.at)
            if event.kind == "model":
                self._add_request(event)
            self._entries.append(step)
        step = self._steps[number]
        step.masked.update(event.masked or {})
        if step.input is None:
            step.model = event.model
            if step.first.kind != "model":
                step.input = _arguments(event.input)
            else:
                step.request = event.packed or event.input
                step.input = _settings(_outline(event))
        return step

    def _add_doubt(self, step: _FoldedStep, event: Event) -> None:
        step.doubts.append(Doubt(event.attempt or max(step.attempts, default=1), event.at))
        if self._band:
            self._band.resume = replace(self._band.resume, in_doubt=self._band.resume.in_doubt + 1)

    def _add_request(self, event: Event) -> None:
        body = _get(_outline(event), "body")
        request = self._conversations.add_request(_scope(event), body)
        self._requests[event.step or 0] = request
        if count := len(request.omitted):
            text = f"{count} earlier message{'s are' if count > 1 else ' is'} left out from here on"
            self._entries.append(Note("trimmed", event.at, text, event.step))
        self._add_messages(event, request.new, event.at)

    def _add_reply(self, event: Event, messages: list[Message], at: datetime | None) -> None:
        if (request := self._requests.get(event.step or 0)) is not None:
            self._conversations.add_reply(request, messages)
        self._add_messages(event, messages, at)

    def _add_messages(self, event: Event, messages: list[Message], at: datetime | None) -> None:
        self._entries += [
            NewMessage(event.step or 0, event.turn, message, at, echo=self._is_echo(message))
            for message in messages
        ]

    def _is_echo(self, message: Message) -> bool:
        return message.role == "tool" and comparable_text(message.text) in self._results

    _HANDLERS: ClassVar[dict[str, Callable[[Fold, Event], None]]] = {
        "created": _on_created,
        "claimed": _on_claimed,
        "attempt_started": _on_attempt_started,
        "attempt_accepted": _on_attempt_accepted,
        "attempt_failed": _on_attempt_failed,
        "step_finished": _on_step_finished,
        "approval_requested": _on_approval_requested,
        "in_doubt": _on_in_doubt,
        "resolved": _on_resolved,
        "diverged": _on_diverged,
        "step_reused": _on_step_reused,
        "request_changed": _add_note,
        "parked": _add_note,
        "handed_back": _add_note,
        "resumed": _add_note,
        "run_finished": _on_ended,
        "run_failed": _on_ended,
        "run_cancelled": _on_ended,
    }


def _resume(event: Event, finished: list[_FoldedStep]) -> Resume:
    """The band of a claim after which these finished steps are replayed."""
    calls = [step.freeze() for step in finished if step.first.kind == "model"]
    costs = [call.usage.cost for call in calls if call.usage and call.usage.cost is not None]
    return Resume(
        worker=event.worker,
        at=event.at,
        reason=event.reason,
        replayed=len(finished),
        rerun=0,
        saved=sum(costs, Decimal(0)),
        saved_unpriced=sum(call.unpriced for call in calls),
        in_doubt=0,
    )


def _freeze(entry: NewMessage | Note | _FoldedStep | _Band) -> Entry:
    if isinstance(entry, _FoldedStep):
        return entry.freeze()
    return entry.resume if isinstance(entry, _Band) else entry


def _scope(event: Event) -> str:
    """The scope that a model step belongs to."""
    return scope_of(event.ident or "")


def _outcome(status: str | None) -> Ended:
    match status:
        case "error" | "abandoned" | "cancelled":
            return status
        case _:
            return "ok"


def _arguments(value: Json) -> Json:
    return value["args"] if isinstance(value, dict) and "args" in value else value


def _result(value: Json) -> Json:
    if isinstance(value, dict) and ("result" in value or "error" in value):
        return value.get("result")
    return value


def _outline(event: Event) -> Json:
    """The input of a model call. If it is packed, lists that earlier calls began are a `Chain`."""
    return event.input if event.packed is None else event.packed.outline()


def _settings(value: Json) -> Json:
    """A model request without its conversation: model, temperature, limits and the like."""
    body = _get(value, "body")
    if not isinstance(body, dict):
        return whole(value)
    return whole({**value, "body": {k: v for k, v in body.items() if k not in _CONVERSATION}})


def _get(value: Json, field: str) -> Json:
    return value.get(field) if isinstance(value, dict) else None


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) else None
