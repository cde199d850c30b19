"""Doubt: a `once` attempt has an intent and no outcome. Did the effect happen?

Asked in this order, and every decision is journaled with who took it and why: the late answer of
the worker that was lost; a person (`resolve`); the tool's own `reconcile`; its `on_doubt`. Nothing
is repeated silently: a further attempt exists only behind a `resolved` event.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from agentrun.core import points
from agentrun.core.errors import Parking
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, Op
from agentrun.core.identity import Known
from agentrun.runner import failures
from agentrun.runner.context import blocking, on_line
from agentrun.runner.values import outcome_of
from agentrun.runner.waiting import pause

if TYPE_CHECKING:
    from agentrun.runner.step import Step

OnDoubt = Literal["hold", "tell_model", "retry", "fail"]


@dataclass(frozen=True)
class Happened:
    """The effect took place; ``result`` is what the tool would have returned."""

    result: Any = None


@dataclass(frozen=True)
class NotHappened:
    """The effect did not take place: a further attempt may be made."""


@dataclass(frozen=True)
class Unknown:
    """Nobody can tell."""


Outcome = Happened | NotHappened | Unknown


@dataclass(frozen=True)
class Policy:
    """How a tool's doubts are decided."""

    on_doubt: OnDoubt = "hold"
    reconcile: Callable[..., Any] | None = None
    arguments: dict[str, Any] | None = None  # of the call in doubt, for `reconcile`
    encode: Callable[[Any], Json] = lambda value: value


def settle(step: Step, known: Known) -> Flow[None]:
    """Decide about the open attempt: the step then has an outcome, or may be attempted again.

    Raises Parking when only a person can tell.
    """
    opened = known.open
    assert opened is not None
    if (yield from _told(step, known)):
        return
    if (yield from _until_settled(step, opened.worker or "")) and (yield from _told(step, known)):
        return
    why = ""
    if step.wanted.doubt.reconcile is not None:
        why = yield from _reconciled(step)
        if not why:
            return
    _by_policy(step, known, why)


def _told(step: Step, known: Known) -> Flow[bool]:
    """Whether somebody who knows has said what happened: the lost worker itself, or a person."""
    late = yield from step._late(known.attempts)
    if late is None:
        return (yield from _by_mail(step, known))
    _close(
        step,
        "happened",
        "late result",
        f"answer kept by {late.worker}",
        late.status or "ok",
        late.output,
    )
    return True


def _until_settled(step: Step, worker: str) -> Flow[bool]:
    """Wait until the worker that began the attempt can surely send nothing more; was it a wait?

    One that lives on let go of the run: what it had not sent by then, its fence has held back
    since. It gets as long as a dead one, no longer.
    """
    database = step.run.database
    waited, left = 0.0, (yield blocking(lambda: database.settled_in(worker)))
    longest: float = left
    while left > 0 and waited < longest:
        step.run.check(step.scope)
        yield pause(min(left, 0.5))
        waited += 0.5
        left = yield blocking(lambda: database.settled_in(worker))
    return longest > 0


def _by_mail(step: Step, known: Known) -> Flow[bool]:
    """Apply a person's resolution, if one was sent since this doubt was raised."""
    raised = known.doubted_at if known.doubted else None
    for letter in (yield from step.run.letters(step.ident)):
        if letter["kind"] == "resolve" and letter["step"] == step.number:
            step.run.consumed.add(str(letter["id"]))
            if raised is None or letter["sent_at"] < raised:  # it was about an earlier attempt
                step.run.append(step.read(letter))
                continue
            payload = letter["payload"]
            _close(
                step,
                payload["outcome"],
                letter["by"] or "somebody",
                letter["reason"],
                "ok" if payload["outcome"] == "happened" else "",
                {"result": payload.get("result")},
                mail=str(letter["id"]),
            )
            return True
    return False


def _reconciled(step: Step) -> Flow[str]:
    """Ask the tool's own `reconcile`; return why that decided nothing, or "" if it did."""
    policy = step.wanted.doubt
    assert policy.reconcile is not None
    call = policy.reconcile
    arguments = {k: v for k, v in (policy.arguments or {}).items() if k != "key"}

    # On no line of the run: what is asked here is asked by this resume alone, so a step of it would
    # be in the way of those that follow.
    def ask() -> Any:
        with on_line(None):
            return call(step.key, **arguments)

    async def ask_async() -> Any:
        with on_line(None):
            answer = call(step.key, **arguments)
            return await answer if inspect.isawaitable(answer) else answer

    try:
        yield from step.run.fence()
        points.reach("reconcile", "before")
        outcome = yield Op(ask, ask_async)
        points.reach("reconcile", "after")
    except Exception as error:
        return f"reconcile raised {failures.summary(error)}"
    name = getattr(call, "__name__", "reconcile")
    match outcome:
        case Happened(result):
            told = outcome_of(step.wanted.name, result, policy.encode)
            _close(step, "happened", f"reconcile ({name})", None, *told)
        case NotHappened():
            _close(step, "not_happened", f"reconcile ({name})", None, "", None)
        case _:
            return "reconcile could not tell"
    return ""


def _by_policy(step: Step, known: Known, why: str) -> None:
    match step.wanted.doubt.on_doubt:
        case "retry":
            _close(step, "retry", "on_doubt", "declared on_doubt='retry'", "", None)
        case "tell_model":
            _close(step, "unknown", "on_doubt", "declared on_doubt='tell_model'", "", None)
        case "fail":
            _close(step, "fail", "on_doubt", "declared on_doubt='fail'", "", None)
        case _:
            _hold(step, known, why)


def _hold(step: Step, known: Known, why: str) -> None:
    """Park the run in the inbox until somebody says what happened."""
    reason = (
        f"step {step.number}, {step.wanted.name}: it was sent and its outcome is unknown"
        f"{f' ({why})' if why else ''}. "
        f"Say what happened: agentrun resolve {quote(step.run.key)} {step.number} "
        "--happened RESULT | --not-happened | --unknown"
    )
    if not known.doubted:
        step.run.append(step._event("in_doubt", reason=reason))
    raise step.run.stop(Parking(reason, step=step.number))


def _close(
    step: Step,
    status: str,
    by: str,
    reason: str | None,
    outcome: str,
    output: Json,
    mail: str | None = None,
) -> None:
    """Journal a decision and, where it is one, the outcome: in one batch, so never apart."""
    events: list[Event] = [step.resolved(status, by, reason, mail)]
    if status in ("unknown", "fail"):
        text = (
            f"the outcome of {step.wanted.name} is unknown: it may or may not have taken effect; "
            "verify before repeating it"
            if status == "unknown"
            else f"{step.wanted.name} was interrupted and its outcome is unknown"
        )
        kind = "agentrun.core.errors.ToolFailed"
        outcome, output = "error", {"error": {"type": kind, "message": text, "args": [text]}}
    if outcome:
        events.append(step.outcome_event(outcome, output, by=by))
    step.run.append(*events)
    if outcome:
        step.over(events[-1])


__all__ = ["Happened", "NotHappened", "OnDoubt", "Outcome", "Policy", "Unknown"]
