"""The parent and the children of a run that ends: the parent is woken, the children are cancelled.

Both happen before the run's own last event is written. If the process is killed in between, the run
has not ended, and its next owner does both again. A parent that was woken too early finds that the
child has not ended, and waits for it or executes it.

A child that is being created while its parent ends is not among the children that the parent
cancels. The process that creates it looks at the parent afterwards (`cancel_if_parent_ended`). If
that process is killed before, the process that claims the child looks (`stop_if_parent_ended`).
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any
from uuid import UUID

from agentrun.core.errors import LimitExceeded, RunCancelled, RunError, RunExpired, RunNotFound
from agentrun.core.events import Event
from agentrun.core.history import History
from agentrun.steps.model_step import warn_of_responses
from agentrun.steps.run_context import RunContext
from agentrun.store.database import OpenDatabase
from agentrun.store.mail import send_letter
from agentrun.store.runs import FoundRun, find_run, list_open_children
from agentrun.store.values import read_events
from agentrun.values import exceptions

__all__ = [
    "cancel",
    "cancel_children",
    "cancel_if_parent_ended",
    "reason_for_children",
    "stop_if_parent_ended",
    "tell_parent",
]

_ENDED = ("done", "failed", "cancelled")


def tell_parent(database: OpenDatabase, key: str, parent: dict[str, Any] | None, ends: str) -> None:
    """Wake the parent of the run ``key``, which is about to end by this event."""
    if parent is not None:
        tell = partial(send_letter, kind="child", step=parent["step"], by=key, reason=ends)
        with contextlib.suppress(RunNotFound):
            tell(database, parent["key"], payload={})


def cancel_if_parent_ended(parent: RunContext, key: str) -> None:
    """Cancel the child run ``key``, which was just created, if ``parent`` ended meanwhile."""
    if (reason := reason_for_children(parent)) is not None:
        with contextlib.suppress(RunError):  # the parent has cancelled it
            cancel(parent.database, key, by=parent.key, reason=reason)


def stop_if_parent_ended(child: RunContext, parent_key: str) -> None:
    """Stop a child run that a worker has claimed, if its parent was cancelled or has expired."""
    with contextlib.suppress(RunNotFound):  # the parent has ended regularly, and is pruned
        parent = find_run(child.database, parent_key)
        expired = parent.status == "failed" and _has_expired(child, parent)
        if expired or parent.status == "cancelled":
            child.cancel(f"its parent {parent_key!r} is {parent.status}")


def _has_expired(child: RunContext, run: FoundRun) -> bool:
    """Whether this failed run was ended by its deadline or by its budget."""
    events, _ = read_events(child.database, run.run_id)
    return isinstance(exceptions.rebuild(events[-1].output), LimitExceeded)


def reason_for_children(parent: RunContext) -> str | None:
    """Why the child runs of ``parent`` are cancelled; None unless it was cancelled or expired."""
    if isinstance(parent.interrupt, RunCancelled | RunExpired):
        return f"its parent {parent.key!r} came to an end: {parent.interrupt}"
    return None


def cancel_children(database: OpenDatabase, run_id: UUID, *, by: str, reason: str) -> None:
    """Cancel the child runs of a run that have not ended."""
    for child in list_open_children(database, run_id):
        with contextlib.suppress(RunError):  # the child has ended meanwhile
            cancel(database, child, by=by, reason=reason)


def cancel(database: OpenDatabase, key: str, *, by: str, reason: str | None) -> None:
    """Cancel a run: by a letter that its owner obeys, or here if no process executes it.

    Raises RunError for a run that has ended.
    """
    run = find_run(database, key)
    if run.status in _ENDED:
        raise RunError(f"run {key!r} is {run.status} already", key=key)
    send_letter(database, key, "cancel", by=by, reason=reason, payload={})
    why = f"by {by}" + (f": {reason}" if reason else "")
    cancelled = Event(event="run_cancelled", by=by, reason=why)
    while not database.owner_of(run)[0]:
        events, _ = read_events(database, run.run_id)
        below = f"its parent {key!r} was cancelled"
        cancel_children(database, run.run_id, by=by, reason=below)
        tell_parent(database, key, events[0].input.get("parent"), "run_cancelled")
        if database.claim(run, f"cancelled {why}", then=[cancelled]) is not None:
            warn_of_responses(key, History(events))
            return
        # Another process claimed the run meanwhile, and obeys the letter; or a claim of the run was
        # handed back, and then no process obeys the letter.
        run = find_run(database, key)
        if run.status in _ENDED:
            return
