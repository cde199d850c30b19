"""A model call of a run that a budget holds: its worst case is reserved before it is made.

What does not fit waits for calls under way in the run or its relatives, which may cost less than is
reserved for them; else for a person, in the inbox; or it fails the run, as the budget says.
"""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from agentrun.core.budget import Budget, Grant, Refusal, nearly_used
from agentrun.core.errors import ConfigError, Parking, RunExpired
from agentrun.core.flow import Flow
from agentrun.core.log import logger
from agentrun.core.recorder import ModelRequest
from agentrun.models.quote import quote
from agentrun.runner import approvals
from agentrun.runner.context import blocking
from agentrun.runner.waiting import pause
from agentrun.store.budgets import Attempt, Holder, raise_budget
from agentrun.store.budgets import reserve as ask

if TYPE_CHECKING:
    from agentrun.runner.step import Step
    from agentrun.runner.waits import Letter

_POLL = (0.02, 1.0)  # seconds between looks while others are under way: first, at most
_PATIENCE = 600.0  # seconds; a call made while reading the stream of another waits for itself

_warned: set[UUID] = set()  # runs whose budget this process has warned about


def reserve(step: Step, request: ModelRequest) -> Flow[Grant]:
    """What the budgets above grant to the next attempt of a step.

    Raises Interrupt: the run is held for a person, or fails.
    """
    run = step.run
    worst = yield blocking(partial(quote, request))
    asking = Attempt(run.run_id, step.number, step.attempts + 1, step.turn, run.tail.epoch)
    look, waited, asked = _POLL[0], 0.0, False
    while True:
        run.check(step.scope)
        heard = len(run.consumed)
        yield run.flushed()  # what the last call cost
        holders, decided = yield blocking(partial(ask, run.database, asking, worst))
        _warn(holders)
        if isinstance(decided, Grant):
            return decided
        holder = holders[decided.holder]
        if decided.wait and waited < _PATIENCE:
            yield pause(look)
            waited, look = waited + look, min(_POLL[1], look * 1.5)
        elif not (yield from _told(step, holder)) and heard == len(run.consumed):
            # Whoever raises it between this look and the park must know of us: ask, look again.
            _refuse(step, holder, decided, asked=asked)
            asked = True


def _warn(holders: list[Holder]) -> None:
    for holder in holders:
        nearly = nearly_used(holder.budget, holder.spent)
        if nearly and holder.run_id not in _warned:
            _warned.add(holder.run_id)
            logger.warning("run %r nears its budget: %s", holder.key, "; ".join(nearly))


def _told(step: Step, holder: Holder) -> Flow[bool]:
    """Follow what a person has said about this step, if anybody has."""
    for letter in (yield from step.run.letters(step.ident)):
        if approvals.decides(letter, step.run.heart.now()) and _is_for(step, letter):
            yield from _follow(step, holder, letter)
            return True
    return False


def _refuse(step: Step, holder: Holder, refusal: Refusal, *, asked: bool) -> None:
    """Ask for a larger budget; once asked in vain, hold the run. Or fail it."""
    run = step.run
    whose = "" if holder.run_id == run.run_id else f" of run {holder.key!r}"
    spent = f"the budget{whose} does not allow the next model call: {refusal.reason}"
    larger = f"--budget {_example(holder.budget, refusal)}"
    if holder.budget.on_exhausted == "fail":
        way = f"agentrun resume {shlex.quote(holder.key)} FILE {larger}"
        raise run.stop(RunExpired(f"{spent}. Raise it: {way}"))
    place = f"{shlex.quote(run.key)} {step.number}"
    reason = f"{spent}. Raise it: agentrun approve {place} {larger} | agentrun reject {place}"
    if asked:
        raise run.stop(Parking(reason, step=step.number))
    run.append(step.asks_approval(reason))


def _is_for(step: Step, letter: Letter) -> bool:
    """Whether it speaks of this step; or raises the budget, at whichever call the run was held."""
    if letter["step"] == step.number:
        return True
    other = step.run.history.by_number.get(letter["step"])
    return "budget" in letter["payload"] and other is not None and other.kind == "model"


def _follow(step: Step, holder: Holder, letter: Letter) -> Flow[None]:
    run, by, mail = step.run, letter["by"] or "somebody", str(letter["id"])
    approved = letter["kind"] == "approve"
    to = _raised(letter) if approved else None
    if to is not None:
        reason = f"the budget of run {holder.key!r} was raised at step {step.number} of {run.key!r}"
        tell = partial(raise_budget, run_id=run.run_id, by=by, reason=reason)
        yield blocking(partial(tell, run.database, holder.run_id, to))
    with run.lock:
        if mail not in run.consumed:  # another task of the run may have followed it, too
            run.consumed.add(mail)
            output = {"budget": to and to.to_json(), "approved": None, "of": holder.key}
            status = "approved" if approved else "rejected"
            run.append(step.resolved(status, by, letter["reason"], mail, output))
    if not approved:
        why = f": {letter['reason']}" if letter["reason"] else ""
        raise run.stop(RunExpired(f"a larger budget was rejected by {by}{why}"))


def _raised(letter: Letter) -> Budget | None:
    """The limits that a letter gives; None: it gives none, or what it gives is no budget."""
    given = letter["payload"].get("budget")
    try:
        return Budget.from_json(given) if isinstance(given, dict) else None
    except ConfigError as error:
        logger.warning("an approval by %s is no budget: %s", letter["by"], error)
        return None


def _example(budget: Budget, refusal: Refusal) -> str:
    """A way to raise it: the limit that was reached, doubled."""
    limits = budget.limits()
    if refusal.limit not in limits:
        return f"{refusal.limit}=100000"
    return f"{refusal.limit}={limits[refusal.limit] * 2:g}"
