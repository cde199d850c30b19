"""Resume a run without executing it here: a worker goes on with it."""

from __future__ import annotations

from agentrun.api.acting_user import acting_user
from agentrun.core.errors import RunConflict, RunError
from agentrun.core.events import Event
from agentrun.core.history import History
from agentrun.lifecycle.execute import ResumeRequest, reopening_events
from agentrun.steps.divergence_policy import resumed_event
from agentrun.store.mail import send_letter
from agentrun.store.opening import default
from agentrun.store.runs import FoundRun, find_run
from agentrun.store.values import read_events

__all__ = ["queue_resume"]


def queue_resume(key: str, *, by: str | None = None, reason: str | None = None) -> None:
    """Queue a run that failed, diverged or is held for a review, so that a worker resumes it.

    Of a failed run, the error that ended it is set aside, as `resume` does.

    Raises:
        RunNotFound: no run has this key.
        RunError: the run has ended for good, goes on by itself, or waits for a decision.
        RunConflict: a process took the run meanwhile.
    """
    database, by = default(), by or acting_user()
    run = find_run(database, key)
    if run.parked_for == "divergence":
        send_letter(database, key, "resume", by=by, reason=reason, payload={})
        return
    if (refusal := _refusal_of(run)) is not None:
        raise RunError(f"run {key!r} {refusal}", key=key)
    person = ResumeRequest(by, reason, None)
    if run.status == "failed":
        events = reopening_events(History(read_events(database, run.run_id)[0]), person)
    else:
        events = [resumed_event(by, reason, None)]
    # In one commit: otherwise a crash in between would leave a run that nobody goes on with.
    back = Event(event="handed_back", reason=f"resumed by {by}")
    if database.claim(run, f"resumed by {by}", then=[*events, back]) is None:
        raise RunConflict(f"run {key!r} was taken by a process meanwhile", key=key)


def _refusal_of(run: FoundRun) -> str | None:
    """Why a run cannot be queued; None if it can."""
    if run.status in ("done", "cancelled"):
        return f"is {run.status}, for good"
    if run.status == "failed" or run.parked_for == "review":
        return None
    if run.status == "held":
        return "waits for a decision: `agentrun inbox` shows it"
    return f"is {run.status}, and goes on by itself as soon as a worker can take it"
