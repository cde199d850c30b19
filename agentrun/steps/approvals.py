"""Approval: a tool call waits for a person before its first attempt.

A person approves one call with certain arguments, and nothing else. A letter therefore names the
request that it answers and the fingerprint of the arguments that were shown. If the person edits
the arguments, the edited ones are recorded beside the original ones. A call that is not decided
about in time ends with the outcome `ApprovalExpired`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from agentrun.core.errors import ApprovalExpired, ToolFailed
from agentrun.core.events import Json
from agentrun.core.flow import Flow
from agentrun.steps import letters
from agentrun.steps.open_step import locate_step
from agentrun.steps.performer import performer
from agentrun.steps.waits import await_letter
from agentrun.values import exceptions

if TYPE_CHECKING:
    from agentrun.steps.execution_point import ExecutionPoint
    from agentrun.steps.step import ActiveStep, StepRequest
    from agentrun.store.mail import Letter

Approve = bool | Callable[..., bool]


def needs_approval(approve: Approve, arguments: dict[str, Any]) -> bool:
    """Whether a call with these arguments needs an approval."""
    return approve(**arguments) if callable(approve) else approve


def request_approval(point: ExecutionPoint, call: StepRequest) -> None:
    """Request the approval of a call of a reply before its turn comes.

    So the inbox lists all calls of a reply at once. Only a call that a reply asked for can be
    requested early: the reply determines its place in the run.
    """
    if call.call is None:
        return
    with point.run.lock:
        point.run.check(point.scope)
        step, known = locate_step(point, call, performer())
        if step.outcome is None and not (known and (known.granted or known.attempts)):
            _request(step)


def await_approval(step: ActiveStep, timeout: float | None = None) -> Flow[Json]:
    """Wait for the decision. Returns the edited arguments, or None if the call stands as it is.

    If the call is rejected, or not decided about within ``timeout`` seconds, the step gets an error
    as its outcome, which the model reads. The caller then finds ``step.outcome`` set.
    """
    known = step.run.history.steps.get(step.ident)
    if known is not None and known.granted:
        return known.approved
    reason = _request(step)
    # The request becomes visible, and a person may decide while other steps of the run go on.
    yield step.run.flushed()
    until = None if timeout is None else _requested_at(step) + timedelta(seconds=timeout)
    letter = yield from await_letter(
        step, lambda sent: letters.answers_request(sent, step), until, "approval", reason
    )
    if letter is None:
        _expire(step, None, f"nobody decided about {step.request.name} within {timeout:g} s")
        return None
    if until is not None and letter.kind == "approve" and letter.sent_at > until:
        _expire(step, letter, f"nobody decided about {step.request.name} within {timeout:g} s")
        return None
    expires = letter.payload.get("expires")
    if expires is not None and datetime.fromisoformat(expires) <= step.run.heart.now():
        _expire(step, letter, f"the approval of {step.request.name} expired at {expires}")
        return None
    return _apply_decision(step, letter)


def _request(step: ActiveStep) -> str:
    """Journal the request for approval, once. Returns the text that people see of it."""
    reason = f"step {step.number}, {step.request.name}, waits for an approval"
    known = step.run.history.steps.get(step.ident)
    if known is None or known.request is None:
        step.run.append(step.approval_request_event(reason))
    return reason


def _requested_at(step: ActiveStep) -> datetime:
    """When the request was made. That may be before the run was parked and resumed."""
    known = step.run.history.steps[step.ident]
    asked = known.request.at if known.request is not None else None
    return asked or step.run.heart.now()


def _apply_decision(step: ActiveStep, letter: Letter) -> Json:
    """Journal an approval or a rejection. Returns the person's edited arguments, if any."""
    if letter.kind == "approve":
        edited = letter.payload.get("arguments")
        asked = step.request.input["args"]
        output = None if edited is None else {"original": asked, "approved": edited}
        step.record_decision(letter, "approved", output)
        return edited
    by, reason = letters.deciding_name(letter), letter.reason
    text = f"{step.request.name} was not approved by {by}" + (f": {reason}" if reason else "")
    error = {"error": exceptions.describe(ToolFailed(text))}
    step.outcome = step.outcome_event("error", error, by=by)
    step.record_decision(letter, "rejected", None, step.outcome)
    step.leave()
    return None


def _expire(step: ActiveStep, letter: Letter | None, text: str) -> None:
    """End the step with ApprovalExpired: no decision came in time, or the approval had expired."""
    error = {"error": exceptions.describe(ApprovalExpired(f"{text}: it was not made"))}
    step.outcome = step.outcome_event("error", error)
    if letter is None:
        step.run.append(step.decision_event("expired", "agentrun", text), step.outcome)
    else:
        step.record_decision(letter, "expired", None, step.outcome)
    step.leave()
