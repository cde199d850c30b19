"""`redo`: set a recorded step aside by a person's decision, so that the run does it anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from agentrun.api.acting_user import acting_user
from agentrun.core.divergence import price_of
from agentrun.core.errors import RunConflict, RunError, RunNotFound, RunPruned
from agentrun.core.events import Event
from agentrun.core.history import History, RecordedStep
from agentrun.core.redo import Redo, plan_redo
from agentrun.core.shell import write_command
from agentrun.lifecycle.child_runs import child_key
from agentrun.store.database import OpenDatabase
from agentrun.store.opening import default
from agentrun.store.runs import FoundRun, find_run
from agentrun.store.values import read_events

__all__ = ["aredo", "check_once", "redo"]


def redo(
    key: str,
    step: int,
    *,
    by: str | None = None,
    reason: str | None = None,
    once: bool = False,
    dry_run: bool = False,
) -> Redo:
    """Set a recorded step aside, so that the run does it and the steps that depend on it anew.

    The run is queued: `run`, `resume` or a worker goes on with it. A later step that the code asks
    for again, with equal name and arguments, keeps its recorded outcome.

    Args:
        key: the run's key.
        step: the number that `agentrun show` prints.
        by: the person who decides. Default: the user of this process.
        reason: why, for the record.
        once: perform a `once` or `transaction` effect, or a child run, again.
        dry_run: change nothing; only return what a redo would pay and do again.

    Returns:
        The plan: the steps that are done anew, and what they pay and do again. ``print`` shows it.

    Raises:
        RunNotFound: no run has this key.
        RunConflict: a process executes the run.
        RunError: the step has no recorded outcome; the step acts once and ``once`` is not given;
            or the run was cancelled.

    Example::

        print(agentrun.redo("ticket-42", 3, dry_run=True))   # what it pays and does again
        agentrun.redo("ticket-42", 3, reason="the reply was no JSON")
    """
    database = default()
    run = find_run(database, key)
    plan = _plan(database, run, step)
    if dry_run:
        return plan
    if not once:
        check_once(plan)
    owned, _ = database.owner_of(run)
    by = by or acting_user()
    resumed = Event(event="resumed", by=by, reason=f"redo of step {step}")
    back = Event(event="handed_back", reason=f"redo of step {step} by {by}")
    # All in one commit: otherwise a crash in between would leave a run that goes on without the
    # redo. The plan fits the journal, because a claim fails if the journal has grown since.
    then = [resumed, plan.event(by, reason), back]
    if owned or database.claim(run, f"redo of step {step} by {by}", then=then) is None:
        raise RunConflict(
            f"run {key!r} is being executed: wait until it has ended or is held, or cancel it with "
            f"`{write_command('cancel', key)}`",
            key=key,
        )
    return plan


async def aredo(
    key: str,
    step: int,
    *,
    by: str | None = None,
    reason: str | None = None,
    once: bool = False,
    dry_run: bool = False,
) -> Redo:
    """Like `redo`, without blocking the event loop: it works in a thread.

    Example:
        >>> await agentrun.aredo("ticket-42", 3, reason="the reply was no JSON")
    """
    return await asyncio.to_thread(
        lambda: redo(key, step, by=by, reason=reason, once=once, dry_run=dry_run)
    )


def check_once(plan: Redo) -> None:
    """Raise RunError if the redo would perform again a step that acts once."""
    if plan.once:
        repeated = "; ".join((", ".join(plan.once), *plan.children))
        raise RunError(
            f"a redo of step {plan.step} of run {plan.key!r} would perform again what acts once: "
            f"{repeated}. If that is meant: "
            f"`{write_command('redo', plan.key, plan.step, options='--once')}`",
            key=plan.key,
        )


def _plan(database: OpenDatabase, run: FoundRun, step: int) -> Redo:
    key = run.key
    if run.status == "cancelled":  # a resume would cancel the run again before its first step
        raise RunError(f"run {key!r} was cancelled, which is for good: start another run", key=key)
    events, _ = read_events(database, run.run_id)
    _refuse_child_with_recorded_end(database, key, events[0].input.get("parent"))
    history = History(events)
    plan = plan_redo(key, history, step)
    below = [one for one in plan.redone if one.kind == "child"]
    return replace(plan, children=tuple(_describe_child(database, run, one) for one in below))


def _refuse_child_with_recorded_end(
    database: OpenDatabase, key: str, parent: dict[str, Any] | None
) -> None:
    """Refuse a child run whose end its parent has recorded.

    The parent would go on with the recorded end, and never see what the child did anew.
    """
    if parent is None:
        return
    events, _ = read_events(database, find_run(database, parent["key"]).run_id)
    known = History(events).by_number.get(parent["step"])
    if known is None or known.outcome is None:
        return
    raise RunError(
        f"run {key!r} is a child of run {parent['key']!r}, which has recorded its end: "
        f"`{write_command('redo', parent['key'], parent['step'])}` does it anew",
        key=key,
    )


def _describe_child(database: OpenDatabase, run: FoundRun, known: RecordedStep) -> str:
    """Describe the child run of a step, and what doing it anew pays and does again.

    Raises RunError if the child's agent has a key of its own: then a redo would find the same
    run again.
    """
    assert known.key is not None
    key = child_key(run.key, run.run_id, known.begun_at, known.key)
    try:
        child = find_run(database, key)
    except RunPruned:
        return f"child run {key!r}, which was pruned, is begun anew, as another run"
    except RunNotFound:
        raise RunError(
            f"step {known.step} of run {run.key!r} is the child run {known.name!r}, whose agent "
            "was given a key: it is one run each time, and would be found again. Call it without "
            "with_options(key=…), or with another key",
            key=run.key,
        ) from None
    events, _ = read_events(database, child.run_id)
    had = price_of(History(events).steps.values())
    done = f", and {', '.join(had.effects)}" if had.effects else ""
    return (
        f"child run {key!r} is begun anew, as another run, where nothing of it is found again: "
        f"it had {had.paid}{done}"
    )
