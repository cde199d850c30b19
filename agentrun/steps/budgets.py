"""Budgets: a call of a run with a budget is reserved or counted before it is made.

A model call reserves the most that it can cost. If that does not fit, it waits for calls under way
in the run and its relatives, which may cost less than they reserved. If there are none, a person is
asked in the inbox, or the run fails, as the budget says.

Tool calls are counted. At first, calls beyond the limit are rejected: their outcome tells the model
to answer without tools. If the conversation asks for a tool after it has read that, the call waits
for a person or fails the run, as a model call does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from agentrun.core.budget import Budget, BudgetRefusal, Grant, nearly_used
from agentrun.core.errors import RunExpired, ToolFailed
from agentrun.core.flow import Flow, pause
from agentrun.core.history import RecordedStep, scope_of
from agentrun.core.identity import RequestedToolCall, step_key
from agentrun.core.log import logger
from agentrun.core.pauses import PollSchedule
from agentrun.core.recorder import ModelRequest
from agentrun.core.shell import write_command
from agentrun.core.waiting import suggested_limits
from agentrun.models.cost_estimate import estimate_worst_case
from agentrun.steps import letters, parking
from agentrun.steps.blocking import blocking
from agentrun.store.budgets import BudgetHolder, ReservedAttempt, count_calls, raise_budget
from agentrun.store.budgets import reserve as reserve_attempt
from agentrun.values.exceptions import describe

if TYPE_CHECKING:
    from agentrun.steps.execution_point import ExecutionPoint
    from agentrun.steps.run_context import RunContext
    from agentrun.steps.step import ActiveStep
    from agentrun.store.mail import Letter

# Seconds to wait for calls under way. The limit ends a deadlock: a call that is made while the
# stream of another is read waits for that stream, which waits for its reader.
_PATIENCE = 600.0

_LIMIT = "tool_calls"

_warned: set[UUID] = set()  # runs that this process has warned about


def reserve(step: ActiveStep, request: ModelRequest) -> Flow[Grant]:
    """Reserve the step's next attempt, and return what the budgets grant.

    Raises Interrupt: the run is held for a person, or fails.
    """
    run = step.run
    worst = yield blocking(partial(estimate_worst_case, request))
    attempt = ReservedAttempt(run.run_id, step.number, step.attempts + 1, step.turn, run.tail.epoch)
    schedule, waited = PollSchedule(), 0.0
    try:
        while True:
            run.check(step.scope)
            yield run.flushed()  # the cost of the last call must be in the database
            asking = partial(reserve_attempt, run.database, attempt, worst)
            holders, decided = yield blocking(asking)
            _check_holders(run, holders)
            if isinstance(decided, Grant):
                parking.complete_wait(step)
                return decided
            holder = holders[decided.holder]
            if decided.wait and waited < _PATIENCE:
                parking.end_wait(step)
                rest = schedule.next_pause()
                yield pause(rest)
                waited += rest
            else:
                yield from _await_decision(step, holder, decided, schedule)
    finally:
        parking.end_wait(step)


# -- tool calls ------------------------------------------------------------------------------------


def admit_reply(point: ExecutionPoint, calls: Sequence[RequestedToolCall]) -> Flow[None]:
    """Count the calls of a reply together, so that each rejection says how many were refused."""
    run = point.run
    if not (run.budgeted and run.counts_calls and calls):
        return
    known = [run.history.steps.get(call.ident) for call in calls]
    keys = [
        _key(run, call, recorded)
        for call, recorded in zip(calls, known, strict=True)
        if recorded is None or recorded.outcome is None
    ]
    if not keys:
        return
    _, refusal = yield from _count(run, keys)
    if refusal is not None:
        refused = [key for key in keys if key not in run.admitted]
        before = sum(_is_rejection(recorded) for recorded in known if recorded is not None)
        many = f"{len(refused) + before} of the {len(calls)} calls of this reply"
        run.refused_calls.update(dict.fromkeys(refused, many))


def admit(step: ActiveStep) -> Flow[None]:
    """Count a tool call. A call beyond the limit is rejected: the model reads that as its outcome.

    Raises Interrupt if the conversation had read a rejection before: the run is then held for a
    person, or fails.
    """
    run = step.run
    if not (run.budgeted and run.counts_calls) or step.key in run.admitted:
        return
    schedule = PollSchedule()
    try:
        while True:
            run.check(step.scope)
            holders, refusal = yield from _count(run, [step.key])
            if refusal is None:
                parking.complete_wait(step)
                return
            if not _was_rejected_before(step):
                parking.complete_wait(step)
                many = run.refused_calls.pop(step.key, "this call")
                _reject_call(step, holders[refusal.holder], refusal, many)
                return
            yield from _await_decision(step, holders[refusal.holder], refusal, schedule)
    finally:
        parking.end_wait(step)


def _count(
    run: RunContext, keys: list[str]
) -> Flow[tuple[list[BudgetHolder], BudgetRefusal | None]]:
    """Count calls by their keys. Returns the refusal if not all of them fit."""
    counting = partial(count_calls, run.database, run.run_id, run.tail.epoch, keys)
    holders, counted, refusal = yield blocking(counting)
    _check_holders(run, holders)
    run.admitted.update(counted)
    return holders, refusal


def _key(run: RunContext, call: RequestedToolCall, known: RecordedStep | None) -> str:
    """The idempotency key that the step of a call has or will have."""
    recorded = known.key if known is not None else call.key
    return recorded or step_key(run.run_id, call.ident, run.history.divergences)


def _was_rejected_before(step: ActiveStep) -> bool:
    """Whether this conversation had read a rejection before it asked for this call."""
    ident, _, index = step.ident.partition("#")
    steps, scope = step.run.history.steps, scope_of(step.ident)
    asker = steps[ident].step if index and ident in steps else step.run.last_reply or step.number
    # Some frameworks make each model call in a new task. A conversation is then several scopes.
    fresh = ident.removeprefix(scope) == "1"
    return any(
        known.step < asker and (fresh or scope_of(known.ident) == scope)
        for known in steps.values()
        if _is_rejection(known)
    )


def _is_rejection(known: RecordedStep) -> bool:
    """Whether the outcome of a step says that the budget of tool calls is used up."""
    output = known.outcome.output if known.outcome is not None else None
    return isinstance(output, dict) and output.get("limit") == _LIMIT


def _reject_call(step: ActiveStep, holder: BudgetHolder, refusal: BudgetRefusal, many: str) -> None:
    """Reject a call that is beyond the limit. Its outcome is what the model reads."""
    whose = "" if holder.run_id == step.run.run_id else f" of run {holder.key!r}"
    text = (
        f"not performed: the budget of tool calls{whose} is used up ({refusal.reason}); "
        f"{many} left out. Ask for no further tool: answer now, with what you have"
    )
    output = {"error": describe(ToolFailed(text)), "limit": _LIMIT}
    outcome = step.outcome_event("error", output)
    step.run.append(step.decision_event("rejected", "agentrun", text), outcome)
    step.mark_finished(outcome)


# -- model calls and tool calls --------------------------------------------------------------------


def _await_decision(
    step: ActiveStep, holder: BudgetHolder, refusal: BudgetRefusal, schedule: PollSchedule
) -> Flow[None]:
    """Apply a person's decision, or ask for one, or wait for it. Then ask the budget again."""
    if (yield from _apply_letter(step, holder)):
        return
    # The order matters: request, ask the budget once more, then wait. If the budget was raised
    # before the request was visible, no letter wakes this run.
    reason = _refusal_text(step, holder, refusal)
    known = step.run.history.steps.get(step.ident)
    if known is None or known.request is None:
        step.run.append(step.approval_request_event(reason, refusal.suggested))
        return
    yield from parking.wait(step, schedule.next_pause(), None, "budget", reason)


def _check_holders(run: RunContext, holders: list[BudgetHolder]) -> None:
    """Note whether a budget limits tool calls, and warn if one is nearly used up."""
    run.counts_calls = any(holder.budget.tool_calls is not None for holder in holders)
    _warn(holders)


def _warn(holders: list[BudgetHolder]) -> None:
    for holder in holders:
        nearly = nearly_used(holder.budget, holder.spent)
        if nearly and holder.run_id not in _warned:
            _warned.add(holder.run_id)
            logger.warning("run %r nears its budget: %s", holder.key, "; ".join(nearly))


def _apply_letter(step: ActiveStep, holder: BudgetHolder) -> Flow[bool]:
    """Apply a person's decision about this step; False if there is none."""
    for letter in (yield from step.run.letters(step.ident)):
        if letters.answers_request(letter, step):
            parking.complete_wait(step, letter)
            yield from _apply_decision(step, holder, letter)
            return True
    return False


def _refusal_text(step: ActiveStep, holder: BudgetHolder, refusal: BudgetRefusal) -> str:
    """The text that a person reads in the inbox. Raises RunExpired if the budget fails the run."""
    run = step.run
    whose = "" if holder.run_id == run.run_id else f" of run {holder.key!r}"
    what = "tool" if refusal.limit == _LIMIT else "model"
    spent = f"the budget{whose} does not allow the next {what} call: {refusal.reason}"
    if holder.budget.on_exhausted == "fail":
        larger = suggested_limits(refusal.suggested)
        way = write_command("resume", holder.key, "FILE", options=f"--budget {larger}")
        raise run.stop(RunExpired(f"{spent}. Raise it: {way}"))
    return spent


def _apply_decision(step: ActiveStep, holder: BudgetHolder, letter: Letter) -> Flow[None]:
    """Journal a person's decision, and raise the budget. Raises RunExpired if it was rejected."""
    run, by = step.run, letters.deciding_name(letter)
    approved = letter.kind == "approve"
    to = _raised_budget(letter) if approved else None
    if to is not None:
        reason = f"the budget of run {holder.key!r} was raised at step {step.number} of {run.key!r}"
        raising = partial(raise_budget, run_id=run.run_id, by=by, reason=reason)
        yield blocking(partial(raising, run.database, holder.run_id, to))
    output = {"budget": to and to.to_json(), "approved": None, "of": holder.key}
    step.record_decision(letter, "approved" if approved else "rejected", output)
    if not approved:
        why = f": {letter.reason}" if letter.reason else ""
        raise run.stop(RunExpired(f"a larger budget was rejected by {by}{why}"))


def _raised_budget(letter: Letter) -> Budget | None:
    """The budget that a letter sets; None if it sets none and the run only asks again."""
    limits = letter.payload.get("budget")
    return None if limits is None else Budget.from_json(limits)
