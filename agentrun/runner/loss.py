"""A run whose database lost what it had acknowledged: told apart from a takeover, and held.

A failover to a server that lagged behind cuts the journals of runs short. A run that executes
notices at its next append, which is refused although nobody has taken the run: the row that it
should follow is gone. Going on from what is left would repeat steps silently. Instead this process
writes again what it still knows, and holds the run for a person, with the names of the steps. What
a `transaction` tool did was lost together with its checkpoint: that alone is done again on resume.

What nobody who lives knows of cannot be noticed: the end of a run that died with its worker, or
that had ended or parked when its database failed over.
"""

from __future__ import annotations

from functools import partial
from shlex import quote

from agentrun.core.errors import JournalLost, LeaseLost, StoreError
from agentrun.core.events import Event
from agentrun.core.flow import Flow
from agentrun.core.log import logger
from agentrun.core.sharing import Shared
from agentrun.core.state import ENDED
from agentrun.runner.context import RunContext, blocking
from agentrun.runner.handle import run_held
from agentrun.runner.waiting import pause

# What says who had the run, rather than what it did: not to be written again.
_OF_THE_CLAIM = frozenset(
    {"created", "claimed", "parked", "handed_back", "run_finished", "run_failed", "run_cancelled"}
)


def settle(run: RunContext, lost: JournalLost) -> Flow[BaseException]:
    """Write again what was lost and hold the run; returns what its caller is to be told.

    That is ``lost`` itself, as of any lost lease, where no step was lost.
    """
    while True:
        try:
            told: BaseException | None = yield blocking(partial(_settle, run, lost))
        except LeaseLost:
            told = None
        if told is not None:
            logger.error("%s", told)
            return told
        yield pause(0.1)  # somebody was faster: look again at what there is


def _settle(run: RunContext, lost: JournalLost) -> BaseException | None:
    """One try; None when somebody was faster."""
    database = run.database
    rows = database.query("run", key=run.key)
    events, shared = database.events(run.run_id) if rows else ([], Shared())
    known = {_identity(event) for event in run.journaled(after=0)}
    kept = sum(_identity(event) in known for event in events)
    missing = run.journaled(after=kept)
    if not any(event.step and event.seq <= lost.acknowledged for event in missing):
        return lost
    if not rows:
        return StoreError(_told(missing, lost, "The run itself is not there any more."))
    gone_on = len(events) > kept
    if gone_on and rows[0]["status"] in ENDED:
        return StoreError(_told(missing, lost, f"The run is {rows[0]['status']} without them."))
    if gone_on:
        again: list[Event] = []
        advice = f"{events[-1].worker} has gone on without them, and may have repeated them."
    else:
        again = [event for event in missing if _happened(event, lost)]
        advice = "They are recorded again, but for what `transaction` tools did: that is undone."
    reason = _told(missing, lost, f"{advice} Then: agentrun resume {quote(run.key)} FILE")
    if not database.hold(rows[0], reason, again=again, seen=(len(events), shared)):
        return None
    return run_held(run.key, reason, None)


def _happened(event: Event, lost: JournalLost) -> bool:
    """Whether an event that is missing is to be written again."""
    begun = event.event != "attempt_started" or event.seq <= lost.acknowledged
    return begun and event.event not in _OF_THE_CLAIM and event.effect != "transaction"


def _identity(event: Event) -> tuple[int, int, str | None]:
    """Tells a row of a journal from any other that ever was at its place."""
    return event.seq, event.epoch, event.worker


def _told(missing: list[Event], lost: JournalLost, advice: str) -> str:
    names = {e.step: e.name for e in missing if e.step and e.seq <= lost.acknowledged}
    steps = ", ".join(f"{step} ({name})" for step, name in sorted(names.items()))
    return (
        f"the database lost what it had acknowledged of steps {steps}, as in a failover to a "
        f"server that lagged behind. See what else was lost. {advice}"
    )
