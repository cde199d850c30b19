"""The inbox: requests that wait for a person, and the decisions that answer them.

A decision is a letter that answers one request. When a letter comes, the database compares it with
the request, records the login of its sender, and accepts only the first letter.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from agentrun.api.acting_user import acting_user
from agentrun.core.budget import Budget
from agentrun.core.codec import check
from agentrun.core.errors import AlreadyDecided, ConfigError, RunError
from agentrun.core.events import Json
from agentrun.core.waiting import Inbox, suggested_limits
from agentrun.lifecycle.live_workers import warn_missing_worker
from agentrun.steps.doubt import Happened, NotHappened, Outcome, Unknown
from agentrun.store.database import OpenDatabase
from agentrun.store.inbox import find_decision, find_question, list_waiting, waiting_steps
from agentrun.store.mail import send_letter
from agentrun.store.opening import default
from agentrun.store.runs import FoundRun, find_run

_OUTCOMES = {Happened: "happened", NotHappened: "not_happened", Unknown: "unknown"}


def inbox(key: str | None = None) -> Inbox:
    """List the requests that wait for a person, the oldest first.

    Args:
        key: only requests of the run with this key. Default: of all runs.

    Example:
        >>> for waiting in agentrun.inbox():
        ...     print(waiting.key, waiting.step, waiting.reason)
    """
    return list_waiting(default(), key)


def resolve(
    key: str,
    step: int,
    outcome: Outcome,
    *,
    by: str | None = None,
    reason: str | None = None,
    fingerprint: str | None = None,
) -> UUID:
    """Record whether the effect of a step in doubt happened. The run then goes on.

    A worker takes the run up by itself; without a worker, `run` or `resume` goes on with it.

    Args:
        key: the run's key.
        step: the number that `agentrun show` prints.
        outcome: ``Happened(result)``: the step has this result. ``NotHappened()``: it is
            attempted again. ``Unknown()``: the model reads that the outcome is unknown.
        by: the person who decides. Default: the user of this process. The database also records
            the login of the sender.
        reason: why, for the record.
        fingerprint: the `Waiting.fingerprint` that you have seen; the decision is refused if the
            run asks for something else by now. Default: the present request.

    Returns:
        The id of the letter that carries the decision.

    Raises:
        RunNotFound: no run has this key.
        AlreadyDecided: the step is decided already.
        RunError: the run is not in doubt about this step.
        ConfigError: ``outcome`` is none of the three.

    Example:
        >>> agentrun.resolve("ticket-42", 3, agentrun.NotHappened(), reason="no refund at the bank")
    """
    name = _OUTCOMES.get(type(outcome))
    if name is None:
        raise ConfigError("resolve() takes Happened(result), NotHappened() or Unknown()")
    payload: dict[str, Any] = {"outcome": name}
    if isinstance(outcome, Happened):
        check(outcome.result, "result")
        payload["result"] = outcome.result
    return decide(key, "resolve", step, payload, by=by, reason=reason, fingerprint=fingerprint)


def approve(
    key: str,
    step: int,
    *,
    by: str | None = None,
    reason: str | None = None,
    arguments: dict[str, Any] | None = None,
    budget: Budget | None = None,
    expires: datetime | None = None,
    fingerprint: str | None = None,
) -> UUID:
    """Approve a tool call that waits for a person, or raise the budget that a run waits for.

    A worker takes the run up by itself; without a worker, `run` or `resume` goes on with it.

    Args:
        key: the run's key.
        step: the number that `agentrun inbox` prints.
        by: the person who approves. Default: the user of this process. The database also records
            the login of the sender.
        reason: why, for the record.
        arguments: edited arguments; the tool is called with them instead of the requested ones.
        budget: new limits, in total, for the run, or for the run above it whose budget is used
            up. Limits that are left out stay as they are, and no limit is lowered.
        expires: an aware time. If the run has not read the approval by then, the call is not
            made, and raises ApprovalExpired in the run.
        fingerprint: the `Waiting.fingerprint` that you have seen; the decision is refused if the
            run asks for something else by now. Default: the present request.

    Returns:
        The id of the letter that carries the decision.

    Raises:
        RunNotFound: no run has this key.
        AlreadyDecided: the request is decided already.
        RunError: the run does not wait at this step, asks for something else there, or waits for
            a larger budget and ``budget`` is not given.
        ConfigError: ``expires`` has no time zone.

    Example:
        >>> agentrun.approve("ticket-42", 3, by="ana@desk.example", arguments={"cents": 500})
    """
    payload: dict[str, Any] = {"arguments": arguments} if arguments is not None else {}
    if budget is not None:
        payload["budget"] = budget.to_json()
    if expires is not None:
        if expires.tzinfo is None:
            raise ConfigError(f"expires={expires!r} has no time zone: give an aware datetime")
        payload["expires"] = expires.isoformat()
    return decide(key, "approve", step, payload, by=by, reason=reason, fingerprint=fingerprint)


def reject(
    key: str,
    step: int,
    *,
    by: str | None = None,
    reason: str | None = None,
    fingerprint: str | None = None,
) -> UUID:
    """Reject a tool call that waits for a person. The model reads that it was rejected, and why.

    Args:
        key: the run's key.
        step: the number that `agentrun inbox` prints.
        by: the person who rejects. Default: the user of this process.
        reason: why, for the record and for the model.
        fingerprint: as in `approve`.

    Returns:
        The id of the letter that carries the decision.

    Raises:
        RunNotFound: no run has this key.
        AlreadyDecided: the request is decided already.
        RunError: the run does not wait at this step, or asks for something else there.

    Example:
        >>> agentrun.reject("ticket-42", 3, reason="the order was never paid")
    """
    return decide(key, "reject", step, {}, by=by, reason=reason, fingerprint=fingerprint)


def decide(
    key: str,
    kind: Literal["approve", "reject", "resolve"],
    step: int,
    payload: dict[str, Any],
    *,
    by: str | None,
    reason: str | None,
    fingerprint: str | None,
    signed_by: str | None = None,
    mail_id: UUID | None = None,
) -> UUID:
    """Send a decision, if it answers the present request of the run; return the letter's id.

    ``mail_id`` is an id that the sender has chosen: a letter that is sent twice exists once.
    """
    check(payload, "payload")
    database = default()
    run = find_run(database, key)
    waits_for = "doubt" if kind == "resolve" else "decision"
    asked = find_question(database, run.run_id, step)
    if asked is None or asked.waits_for != waits_for:
        raise _refusal_of(database, run, step, waits_for)
    if fingerprint not in (None, asked.fingerprint):
        raise RunError(
            f"run {key!r} asks for something else at step {step} now: {asked.name} with "
            f"{asked.args}; `agentrun inbox` shows it",
            key=key,
        )
    if kind == "approve" and "budget" not in payload:
        refuse_mere_approval(key, step, asked.suggested_budget)
    letter = send_letter(
        database,
        key,
        kind,
        step=step,
        by=(by or acting_user()) if signed_by is None else by,
        reason=reason,
        payload=payload,
        fingerprint=asked.fingerprint,
        signed_by=signed_by,
        mail_id=mail_id,
    )
    warn_missing_worker(database, key, decided=True, stacklevel=4)
    return letter


def refuse_mere_approval(key: str, step: int, suggested_budget: Json) -> None:
    """Raise RunError if the request is about a budget, since an approval alone raises none."""
    if suggested_budget is None:
        return
    larger = suggested_limits(suggested_budget) or "usd=2"
    raise RunError(
        f"run {key!r} waits at step {step} for a larger budget: raise it with --budget {larger}, "
        f"in Python budget=Budget({larger}), or reject the request",
        key=key,
    )


def _refusal_of(database: OpenDatabase, run: FoundRun, step: int, waits_for: str) -> RunError:
    """The error of a decision that answers no request: it came too late, or none was asked for."""
    key = run.key
    decision = find_decision(database, run.run_id, step, doubt=waits_for == "doubt")
    if decision is not None:
        return AlreadyDecided(f"step {step} of run {key!r} is decided already: {decision}", key=key)
    if run.parked_for == "divergence":
        what = f"waits for no decision about a call. It {run.reason}"
    elif waits_for == "decision":
        what = f"does not wait for a decision about step {step}"
    elif doubts := waiting_steps(database, run.run_id, "doubt"):
        what = f"is in doubt about step {', '.join(map(str, doubts))}"
    else:
        what = "is not in doubt"
    return RunError(f"run {key!r} {what}; `agentrun inbox` lists what waits", key=key)
