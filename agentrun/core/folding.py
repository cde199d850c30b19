"""The fold behind `core.transcript`: one small handler an event.

Steps are collected in a mutable form, because a step's later events (a second attempt, a
decision about a doubt) change what was already placed in the transcript. An entry stands where
its first event stood, so a resume band follows the step that the crash interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from agentrun.core.entries import (
    Attempt,
    AttemptStatus,
    Decision,
    Doubt,
    Ended,
    Entry,
    Failure,
    Note,
    Resume,
    Said,
    Step,
    StepStatus,
)
from agentrun.core.events import Event, Json, RunStatus, Usage
from agentrun.core.identity import scope_of
from agentrun.core.messages import Message, left_out, new_messages, reply_messages, request_messages
from agentrun.core.state import status_after

__all__ = ["Fold"]

# What a decision makes of its step; after the others a further attempt follows.
_SETTLED: dict[str | None, StepStatus] = {"happened": "ok", "unknown": "unknown", "fail": "error"}

# The parts of a request that a transcript shows as messages, or that every request repeats:
# kept out of `Step.input`, or a long conversation would be held once for each of its calls.
_CONVERSATION = frozenset({"messages", "input", "system", "instructions", "tools"})


@dataclass(slots=True)
class _Step:
    """A step under construction; ``first`` is the event that named it."""

    first: Event
    status: StepStatus = "open"
    attempts: dict[int, Attempt] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    approvals: list[Decision] = field(default_factory=list)
    reopened: list[Decision] = field(default_factory=list)
    input: Json = None
    output: Json = None
    error: Failure | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    model: str | None = None
    usage: Usage | None = None
    set_aside: bool = False

    @property
    def finished(self) -> bool:
        return self.status not in ("open", "in_doubt")

    @property
    def in_flight(self) -> bool:
        """True while the latest attempt has an intent and no outcome."""
        latest = self.attempts[max(self.attempts)].status if self.attempts else None
        return not self.finished and latest == "unknown"

    def mark(self, event: Event, status: AttemptStatus, error: Failure | None = None) -> None:
        """Close the attempt that ``event`` speaks of; a `read` step's begins here as well."""
        number = event.attempt or max(self.attempts, default=1)
        begun = self.attempts.get(number) or Attempt(number, event.worker, event.started_at)
        if begun.status == "settled":  # the outcome that a decision gave; the decision tells more
            return
        retry_in = _number(_get(event.output, "retry_in")) if status == "failed" else None
        self.attempts[number] = Attempt(
            number, begun.worker, begun.started_at, event.at, status, error, event.reason, retry_in,
            begun.partial,
        )  # fmt: skip

    def freeze(self) -> Step:
        first = self.first
        unseen = sum(a.status in ("unknown", "cancelled") for a in self.attempts.values())
        return Step(
            step=first.step or 0,
            turn=first.turn,
            kind=first.kind,
            name=first.name or "",
            status=self.status,
            effect=first.effect,
            idempotency_key=first.key,
            input=self.input,
            output=self.output,
            error=self.error,
            attempts=tuple(self.attempts[number] for number in sorted(self.attempts)),
            doubts=tuple(self.doubts),
            approvals=tuple(self.approvals),
            reopened=tuple(self.reopened),
            started_at=self.started_at,
            finished_at=self.finished_at,
            model=self.model,
            usage=self.usage,
            set_aside=self.set_aside,
            possibly_billed=unseen if first.kind == "model" else 0,
        )


@dataclass(slots=True)
class _Band:
    """A resume under construction: what follows it until the next claim still counts."""

    resume: Resume
    in_flight: set[int]


class Fold:
    """Takes a run's events in order; afterwards its fields say what became of the run."""

    key: str = ""
    agent: str = ""
    status: RunStatus = "queued"
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    input: Json = None
    result: Json = None
    error: Failure | None = None

    def __init__(self) -> None:
        self._entries: list[Said | Note | _Step | _Band] = []
        self._steps: dict[int, _Step] = {}
        self._asked: dict[str, list[Message]] = {}  # the last request of each scope
        self._heard: dict[str, list[Message]] = {}  # and what was answered to it
        self._results: set[str] = set()  # what tools gave, as `_comparable` text
        self._band: _Band | None = None

    def add(self, event: Event) -> None:
        """Take the next event. An unknown one is ignored: a newer version wrote it."""
        self.status = status_after(event) or self.status
        if handler := self._HANDLERS.get(event.event):
            handler(self, event)

    def entries(self) -> tuple[Entry, ...]:
        return tuple(map(_frozen, self._entries))

    # ---- the run ---------------------------------------------------------------------------

    def _created(self, event: Event) -> None:
        self.key = event.key or str(event.run_id or "")
        self.agent = event.name or ""
        self.input = _arguments(event.input)
        self.created_at = event.at

    def _claimed(self, event: Event) -> None:
        if self.started_at is None and self._band is None:
            self.started_at = event.at
            self._band = _Band(_resume(event, []), set())  # the first claim shows no band
            return
        valid = {number: step for number, step in self._steps.items() if not step.set_aside}
        finished = [step for step in valid.values() if step.finished]
        in_flight = {number for number, step in valid.items() if step.in_flight}
        self._band = _Band(_resume(event, finished), in_flight)
        self._entries.append(self._band)

    def _ended(self, event: Event) -> None:
        self.finished_at = event.at
        if event.event == "run_finished":
            self.result = event.output
            return
        self.error = _failure(event.output)
        text = _told(self.error) if self.error else event.reason or ""
        self._entries.append(Note(event.event, event.at, text, event.step))

    def _diverged(self, event: Event) -> None:
        """What the scope recorded from the diverging step on counts no more (`History`)."""
        scope = _scope(event)
        born = [
            s.first.seq
            for s in self._steps.values()
            if s.first.ident == event.ident and not s.set_aside
        ]
        for step in self._steps.values():
            if step.first.seq >= max(born, default=0) and (step.first.ident or "").startswith(
                scope
            ):
                step.set_aside = True
        self._noted(event)

    def _noted(self, event: Event) -> None:
        if event.event == "resumed":
            self.error = self.finished_at = None
        by = f"by {event.by}" if event.by else None
        text = " · ".join(part for part in (event.status, by, event.reason) if part)
        self._entries.append(Note(event.event, event.at, text, event.step))

    # ---- steps -----------------------------------------------------------------------------

    def _attempt_started(self, event: Event) -> None:
        step = self._step(event)
        if self._band and event.step in self._band.in_flight:
            self._band.in_flight.remove(event.step)
            self._band.resume = replace(self._band.resume, rerun=self._band.resume.rerun + 1)
        self._superseded(step, _get(event.output, "superseded"))
        number = event.attempt or max(step.attempts, default=0) + 1
        step.attempts[number] = Attempt(number, event.worker, event.at)
        step.status = "open"

    def _superseded(self, step: _Step, lost: Json) -> None:
        """Keep what a stream had said with the attempt that it belongs to."""
        number = _get(lost, "attempt")
        if isinstance(number, int) and number in step.attempts:
            said = [message.text for message in reply_messages(_get(lost, "body"))]
            step.attempts[number] = replace(step.attempts[number], partial="\n".join(said))

    def _attempt_failed(self, event: Event) -> None:
        self._step(event).mark(event, "failed", _failure(event.output))

    def _step_finished(self, event: Event) -> None:
        step = self._step(event)
        status = _outcome(event.status)
        step.error = _failure(event.output, event.reason) if status == "error" else None
        step.mark(event, status, step.error)
        for number, attempt in step.attempts.items():
            if number > (event.attempt or number) and attempt.status == "unknown":
                step.attempts[number] = replace(attempt, status="not_sent", ended_at=event.at)
        step.status = status
        step.output = event.output if event.kind == "model" else _result(event.output)
        step.finished_at = event.at
        step.model, step.usage = event.model or step.model, event.usage
        if step.first.kind == "tool":
            told = {"error": step.error.message} if step.error else step.output
            self._results.add(_comparable(told))
        if step.first.kind == "model":
            self._say(step.first, reply_messages(_get(event.output, "body")), event.at)

    def _approval_requested(self, event: Event) -> None:
        self._step(event)

    def _in_doubt(self, event: Event) -> None:
        step = self._step(event)
        step.status = "in_doubt"
        self._doubt(step, event)

    def _resolved(self, event: Event) -> None:
        step = self._step(event)
        edited = _get(event.output, "approved") if event.status == "approved" else None
        decision = Decision(event.status or "", event.by, event.reason, event.at, edited)
        if event.status in ("approved", "rejected"):
            step.approvals.append(decision)
            return
        if event.status == "reopened":
            step.reopened.append(decision)
            step.status, step.error = "open", None
            return
        if not step.doubts or step.doubts[-1].decision:
            self._doubt(step, event)
        step.doubts[-1] = replace(step.doubts[-1], decision=decision)
        if step.first.kind != "model":  # there it is a larger budget, and says nothing of attempts
            step.mark(event, "settled")
        step.status = _SETTLED.get(event.status, "open")
        if step.finished:
            step.finished_at = event.at
            step.output = _result(event.output)
            step.error = _failure(event.output, event.reason) if event.status == "fail" else None

    # ---- helpers ---------------------------------------------------------------------------

    def _step(self, event: Event) -> _Step:
        """The step of an event, placed in the transcript when it is first heard of."""
        number = event.step or 0
        if number not in self._steps:
            step = self._steps[number] = _Step(event, started_at=event.started_at or event.at)
            if event.kind == "model":
                self._ask(event)
            self._entries.append(step)
        step = self._steps[number]
        if step.input is None:
            read = _settings if step.first.kind == "model" else _arguments
            step.input, step.model = read(event.input), event.model
        return step

    def _doubt(self, step: _Step, event: Event) -> None:
        step.doubts.append(Doubt(event.attempt or max(step.attempts, default=1), event.at))
        if self._band:
            self._band.resume = replace(self._band.resume, in_doubt=self._band.resume.in_doubt + 1)

    def _ask(self, event: Event) -> None:
        conversation = request_messages(_get(event.input, "body"))
        asked = self._asked.get(_scope(event), [])
        before = self._heard.get(_scope(event), [])
        self._asked[_scope(event)] = conversation
        self._heard[_scope(event)] = [*conversation]
        if gone := len(left_out(conversation, asked)):
            text = f"{gone} earlier message{'s are' if gone > 1 else ' is'} left out from here on"
            self._entries.append(Note("trimmed", event.at, text, event.step))
        self._place(event, new_messages(conversation, before), event.at)

    def _say(self, event: Event, messages: list[Message], at: datetime | None) -> None:
        self._heard.setdefault(_scope(event), []).extend(messages)
        self._place(event, messages, at)

    def _place(self, event: Event, messages: list[Message], at: datetime | None) -> None:
        self._entries += [
            Said(event.step or 0, event.turn, message, at, echo=self._is_echo(message))
            for message in messages
        ]

    def _is_echo(self, message: Message) -> bool:
        return message.role == "tool" and _comparable(message.text) in self._results

    _HANDLERS: ClassVar[dict[str, Callable[[Fold, Event], None]]] = {
        "created": _created,
        "claimed": _claimed,
        "attempt_started": _attempt_started,
        "attempt_failed": _attempt_failed,
        "step_finished": _step_finished,
        "approval_requested": _approval_requested,
        "in_doubt": _in_doubt,
        "resolved": _resolved,
        "diverged": _diverged,
        "parked": _noted,
        "handed_back": _noted,
        "resumed": _noted,
        "run_finished": _ended,
        "run_failed": _ended,
        "run_cancelled": _ended,
    }


def _resume(event: Event, finished: list[_Step]) -> Resume:
    """The band of a claim that found these steps recorded."""
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


def _frozen(entry: Said | Note | _Step | _Band) -> Entry:
    if isinstance(entry, _Step):
        return entry.freeze()
    return entry.resume if isinstance(entry, _Band) else entry


def _scope(event: Event) -> str:
    """The conversation that a model step continues."""
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


def _settings(value: Json) -> Json:
    """A model request without its conversation: model, temperature, limits."""
    body = _get(value, "body")
    if not isinstance(body, dict):
        return value
    return {**value, "body": {k: v for k, v in body.items() if k not in _CONVERSATION}}


def _failure(output: Json, reason: str | None = None) -> Failure:
    """An error wherever it was recorded: ours, a transport's pair, or a provider's body."""
    error = _get(output, "error")
    if error is None and _get(output, "message") is not None:
        error = output
    if isinstance(error, dict):
        return Failure(_word(error.get("type")) or "Error", _word(error.get("message")))
    if isinstance(error, list | tuple) and len(error) == 2:
        return Failure(_word(error[0]), _word(error[1]))
    if error is not None:
        return Failure("Error", _word(error))
    status = _get(output, "status")
    message = _get(_get(_get(output, "body"), "error"), "message")
    return Failure(f"HTTP {status}" if status else "Error", _word(message) or reason or "")


def _told(failure: Failure) -> str:
    return f"{failure.type}: {failure.message}" if failure.message else failure.type


def _get(value: Json, field: str) -> Json:
    return value.get(field) if isinstance(value, dict) else None


def _word(value: Json) -> str:
    return "" if value is None else str(value)


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _comparable(value: Json) -> str:
    """``value``, or the value that a text spells, in one spelling."""
    spelt = value
    if isinstance(value, str):
        try:
            spelt = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return _spell(spelt)


_spell = json.JSONEncoder(sort_keys=True, default=str).encode
