"""The parent and the children of a run that ends: the parent is woken, the children are cancelled.

Both happen before the run's own last event is written. If the process is killed in between, the run
has not ended, and its next owner does both again. A parent that was woken too early finds that the
child has not ended, and waits for it or executes it.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any
from uuid import UUID

from agentrun.core.errors import RunError, RunNotFound
from agentrun.core.events import Event
from agentrun.core.history import History
from agentrun.steps.model_step import warn_of_responses
from agentrun.store.database import Database
from agentrun.store.mail import send_letter

__all__ = ["cancel", "cancel_children", "tell_parent"]


def tell_parent(database: Database, key: str, parent: dict[str, Any] | None, ends: str) -> None:
    """Wake the parent of the run ``key``, which is about to end by this event."""
    if parent is not None:
        tell = partial(send_letter, kind="child", step=parent["step"], by=key, reason=ends)
        with contextlib.suppress(RunNotFound):
            tell(database, parent["key"], payload={})


def cancel_children(database: Database, run_id: UUID, *, by: str, reason: str) -> None:
    """Cancel the child runs of a run that have not ended."""
    for child in database.query("open_children", run_id=run_id):
        with contextlib.suppress(RunError):  # the child has ended meanwhile
            cancel(database, child["key"], by=by, reason=reason)


def cancel(database: Database, key: str, *, by: str, reason: str | None) -> None:
    """Cancel a run: by a letter that its owner obeys, or here if no process executes it.

    Raises RunError for a run that has ended.
    """
    run = database.find(key)
    if run["status"] in ("done", "failed", "cancelled"):
        raise RunError(f"run {key!r} is {run['status']} already", key=key)
    send_letter(database, key, "cancel", by=by, reason=reason, payload={})
    if database.owner_of(run)[0]:
        return
    events, _ = database.events(run["run_id"])
    why = f"by {by}" + (f": {reason}" if reason else "")
    cancel_children(database, run["run_id"], by=by, reason=f"its parent {key!r} was cancelled")
    tell_parent(database, key, events[0].input.get("parent"), "run_cancelled")
    cancelled = Event(event="run_cancelled", by=by, reason=why)
    # If another process has claimed the run meanwhile, that process obeys the letter.
    if database.claim(run, f"cancelled {why}", then=[cancelled]) is not None:
        warn_of_responses(key, History(events))
