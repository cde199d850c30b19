"""Doubt: an attempt of a `once` effect has an intent and no outcome. Did the effect happen?

The problem. The intent of an attempt is durable before the effect is sent, and the outcome after
the effect was answered. A crash in between leaves an intent alone, and the journal cannot tell
whether the effect happened. A `read` or `idempotent` effect may be repeated. A `once` effect may
not: a second attempt could book, pay or send twice.

The rule. A further attempt exists only after a `resolved` event that says who decided, and why.
The deciders are asked in this order, and the first one that knows decides:

1. the worker that was lost, if it stored a late result;
2. a person, by `agentrun resolve`;
3. the tool's own `reconcile` function;
4. the tool's `on_doubt`: retry, tell the model, fail, or hold the run for a person (the default).

Before 3 and 4, the run waits until the lost worker can send nothing more: see `_await_last_send`.
Otherwise `reconcile` could find that nothing happened, and the old request would arrive later.

The decision and the outcome that follows from it are one commit. If they were two, a crash between
them could leave a decision without its outcome, and the doubt would be decided a second time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentrun.core import points
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, Op, pause
from agentrun.core.history import RecordedStep
from agentrun.core.pauses import PollSchedule
from agentrun.steps import letters, parking
from agentrun.steps.blocking import blocking
from agentrun.steps.execution_point import at_point
from agentrun.store.mail import Letter
from agentrun.values import exceptions
from agentrun.values.arguments import Arguments
from agentrun.values.typed_values import Result, outcome_of

if TYPE_CHECKING:
    from agentrun.steps.step import ActiveStep

OnDoubt = Literal["hold", "tell_model", "retry", "fail"]


@dataclass(frozen=True)
class Happened:
    """The effect happened. ``result`` is what the tool would have returned.

    Example:
        >>> agentrun.resolve("ticket-42", 3, agentrun.Happened({"refunded": 500}))
    """

    result: Any = None


@dataclass(frozen=True)
class NotHappened:
    """The effect did not happen, so a further attempt may be made.

    Example:
        >>> agentrun.resolve("ticket-42", 3, agentrun.NotHappened())
    """


@dataclass(frozen=True)
class Unknown:
    """It cannot be found out whether the effect happened.

    Example:
        >>> agentrun.resolve("ticket-42", 3, agentrun.Unknown())   # the model reads that
    """


Outcome = Happened | NotHappened | Unknown


@dataclass(frozen=True)
class Policy:
    """How the doubts of a tool are decided."""

    on_doubt: OnDoubt = "hold"
    reconcile: Callable[..., Any] | None = None
    arguments: Arguments | None = None  # the types of the tool's parameters and result


def decide(step: ActiveStep, known: RecordedStep) -> Flow[None]:
    """Decide about the open attempt. Afterwards the step has an outcome or may be attempted again.

    Waits, or parks the run, if only a person can decide.
    """
    opened = known.open
    assert opened is not None
    try:
        if (yield from _apply_known_outcome(step, known)):
            return
        waited = yield from _await_last_send(step, opened.worker or "")
        if waited and (yield from _apply_known_outcome(step, known)):
            return
        why = ""
        if step.request.doubt.reconcile is not None:
            why = yield from _ask_reconcile(step)
            if not why:
                return
        yield from _apply_on_doubt(step, known, why)
    finally:
        parking.end_wait(step)


def _apply_known_outcome(step: ActiveStep, known: RecordedStep) -> Flow[bool]:
    """Apply what the lost worker or a person has reported; False if neither has."""
    late = yield from step.find_late_result(known.attempts)
    if late is None:
        return (yield from _apply_resolution(step))
    parking.complete_wait(step)
    _record_decision(
        step,
        "happened",
        "late result",
        f"result stored by {late.worker} after it had lost the run",
        late.status or "ok",
        late.output,
    )
    return True


def _await_last_send(step: ActiveStep, worker: str) -> Flow[bool]:
    """Wait until the worker that began the attempt can send nothing more; True if that took time.

    A worker sends nothing after 80 % of its lease without a heartbeat. So a worker that is dead, or
    cut off, can send nothing once its lease has ended. A worker that is alive but has lost the run
    renews its lease all the time. Its fence has held back, since it lost the run, whatever it had
    not sent yet. It is therefore waited for as long as for a dead worker, and no longer.
    """
    database = step.run.database
    waited, remaining = 0.0, (yield blocking(lambda: database.settled_in(worker)))
    longest: float = remaining
    while remaining > 0 and waited < longest:
        step.run.check(step.scope)
        yield pause(min(remaining, 0.5))
        waited += 0.5
        remaining = yield blocking(lambda: database.settled_in(worker))
    return longest > 0


def _apply_resolution(step: ActiveStep) -> Flow[bool]:
    """Apply a person's resolution of this doubt; False if there is none."""
    for letter in (yield from step.run.letters(step.ident)):
        if letters.answers_request(letter, step):
            parking.complete_wait(step, letter)
            payload = letter.payload
            happened = payload["outcome"] == "happened"
            _record_decision(
                step,
                payload["outcome"],
                letters.deciding_name(letter),
                letter.reason,
                "ok" if happened else "",
                {"result": payload.get("result")} if happened else None,
                letter,
            )
            return True
    return False


def _ask_reconcile(step: ActiveStep) -> Flow[str]:
    """Ask the tool's `reconcile`. Returns "" if it decided, else the reason why it did not."""
    policy = step.request.doubt
    assert policy.reconcile is not None
    call = policy.reconcile
    recorded = policy.arguments.restore(step.request.input["args"]) if policy.arguments else {}
    arguments = {k: v for k, v in recorded.items() if k != "key"}

    # `reconcile` runs outside the run. Only this resume calls it: steps recorded for its calls
    # would shift the positions of later steps, and the next resume would diverge.
    def ask() -> Any:
        with at_point(None):
            return call(step.key, **arguments)

    async def ask_async() -> Any:
        with at_point(None):
            answer = call(step.key, **arguments)
            return await answer if inspect.isawaitable(answer) else answer

    try:
        yield from step.run.fence()
        points.reach("reconcile", "before")
        outcome = yield Op(ask, ask_async)
        points.reach("reconcile", "after")
    except Exception as error:
        return f"reconcile raised {exceptions.summary(error)}"
    name = getattr(call, "__name__", "reconcile")
    match outcome:
        case Happened(result):
            returned = policy.arguments.result if policy.arguments else Result()
            status, output = outcome_of(step.request.name, result, returned)
            _record_decision(step, "happened", f"reconcile ({name})", None, status, output)
        case NotHappened():
            _record_decision(step, "not_happened", f"reconcile ({name})", None, "", None)
        case _:
            return "reconcile could not tell"
    return ""


def _apply_on_doubt(step: ActiveStep, known: RecordedStep, why: str) -> Flow[None]:
    match "hold" if known.asks_person else step.request.doubt.on_doubt:
        case "retry":
            _record_decision(step, "retry", "on_doubt", "declared on_doubt='retry'", "", None)
        case "tell_model":
            _record_decision(
                step, "unknown", "on_doubt", "declared on_doubt='tell_model'", "", None
            )
        case "fail":
            _record_decision(step, "fail", "on_doubt", "declared on_doubt='fail'", "", None)
        case _:
            yield from _hold_for_person(step, known, why)


def _hold_for_person(step: ActiveStep, known: RecordedStep, why: str) -> Flow[None]:
    """Put the doubt into the inbox, and wait or park until the outcome is reported."""
    reason = (
        f"step {step.number}, {step.request.name}: it was sent and its outcome is unknown"
        f"{f' ({why})' if why else ''}"
    )
    if known.request is None:
        step.run.append(step._event("in_doubt", reason=reason))
        yield step.run.flushed()
    schedule = PollSchedule()
    while not (yield from _apply_known_outcome(step, known)):
        yield from parking.wait(step, schedule.next_pause(), None, "doubt", reason)


def _record_decision(
    step: ActiveStep,
    status: str,
    by: str,
    reason: str | None,
    outcome: str,
    output: Json,
    letter: Letter | None = None,
) -> None:
    """Journal a decision, with the outcome if one follows from it, in one commit."""
    then: list[Event] = []
    if status in ("unknown", "fail"):
        text = (
            f"the outcome of {step.request.name} is unknown: it may or may not have taken effect; "
            "verify before repeating it"
            if status == "unknown"
            else f"{step.request.name} was interrupted and its outcome is unknown"
        )
        kind = "agentrun.core.errors.ToolFailed"
        outcome, output = "error", {"error": {"type": kind, "message": text, "args": [text]}}
    if outcome:
        then.append(step.outcome_event(outcome, output, by=by))
    if letter is None:
        step.run.append(step.decision_event(status, by, reason), *then)
    else:
        step.record_decision(letter, status, None, *then)
    if outcome:
        step.mark_finished(then[-1])


__all__ = ["Happened", "NotHappened", "OnDoubt", "Outcome", "Policy", "Unknown"]
