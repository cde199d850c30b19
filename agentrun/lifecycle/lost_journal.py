"""A run whose database lost events that it had acknowledged: restore them, and hold the run.

The problem: a failover to a server that lagged behind cuts the journals of runs short. An executing
run notices this at its next append. The append is refused because the row before it is gone, and
not because another worker has claimed the run. To go on from the shorter journal would repeat
the lost steps silently.

The rule: this process writes the events again that it still knows, and holds the run for a person,
with the names of the lost steps. The effect of a `transaction` tool was lost together with its
checkpoint, so it is not restored: only that is done again on a resume.

The limit: the loss is noticed only while a process still knows the events. It is not noticed for
a run whose worker died as well, or that had ended or was parked before the failover.
"""

from __future__ import annotations

from functools import partial

from agentrun.core.errors import JournalLost, LeaseLost, StoreError
from agentrun.core.events import Event
from agentrun.core.flow import Flow, pause
from agentrun.core.log import logger
from agentrun.core.pauses import PollSchedule
from agentrun.core.sharing import Shared
from agentrun.core.shell import write_command
from agentrun.core.state import ENDED
from agentrun.lifecycle.run_ends import held_error
from agentrun.steps.blocking import blocking
from agentrun.steps.run_context import RunContext
from agentrun.store.runs import look_up_run
from agentrun.store.values import read_events

# Events about who owned the run, not about what the run did. They are not written again.
_OF_THE_CLAIM = frozenset(
    {"created", "claimed", "parked", "handed_back", "run_finished", "run_failed", "run_cancelled"}
)


def restore_and_hold(run: RunContext, lost: JournalLost) -> Flow[BaseException]:
    """Write the lost events again and hold the run; return the exception for the caller.

    If no step was lost, that is ``lost`` itself, which is handled as a lost lease.
    """
    schedule = PollSchedule()
    while True:
        try:
            error: BaseException | None = yield blocking(partial(_try_to_restore, run, lost))
        except LeaseLost:
            error = None
        if error is not None:
            logger.error("%s", error)
            return error
        yield pause(schedule.next_pause())  # another process wrote first: read the journal again


def _try_to_restore(run: RunContext, lost: JournalLost) -> BaseException | None:
    """Try it once; None if another process wrote to the journal meanwhile."""
    database = run.database
    found = look_up_run(database, run.key)
    events, shared = read_events(database, run.run_id, exact=True) if found else ([], Shared())
    known = {_identity(event) for event in run.journaled_events(after=0)}
    kept = sum(_identity(event) in known for event in events)
    missing = run.journaled_events(after=kept)
    if not any(event.step and event.seq <= lost.acknowledged for event in missing):
        return lost
    if found is None:
        return StoreError(_loss_text(missing, lost, "The run itself is not there any more."))
    gone_on = len(events) > kept
    if gone_on and found.status in ENDED:
        return StoreError(_loss_text(missing, lost, f"The run is {found.status} without them."))
    if gone_on:
        again: list[Event] = []
        advice = f"{events[-1].worker} has gone on without them, and may have repeated them."
    else:
        again = [event for event in missing if _is_restorable(event, lost)]
        advice = "They are recorded again, but for what `transaction` tools did: that is undone."
    reason = _loss_text(missing, lost, f"{advice} Then: {write_command('resume', run.key, 'FILE')}")
    if not database.hold(found, reason, again=again, seen=(len(events), shared)):
        return None
    return held_error(run.key, reason, None)


def _is_restorable(event: Event, lost: JournalLost) -> bool:
    """Whether a missing event is written again.

    An intent that was never acknowledged is not: its effect has not begun.
    """
    begun = event.event != "attempt_started" or event.seq <= lost.acknowledged
    return begun and event.event not in _OF_THE_CLAIM and event.effect != "transaction"


def _identity(event: Event) -> tuple[int, int, str | None]:
    """Identifies a row of a journal: no other row with the same seq has the same identity."""
    return event.seq, event.epoch, event.worker


def _loss_text(missing: list[Event], lost: JournalLost, advice: str) -> str:
    names = {e.step: e.name for e in missing if e.step and e.seq <= lost.acknowledged}
    steps = ", ".join(f"{step} ({name})" for step, name in sorted(names.items()))
    return (
        f"the database lost what it had acknowledged of steps {steps}, as in a failover to a "
        f"server that lagged behind. See what else was lost. {advice}"
    )
