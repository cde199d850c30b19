"""Parking: a run leaves its process when all of its steps under way wait.

A step that waits registers in `RunContext.waits` what it waits for and until when. `.run()` waits
in place for times and signals, and parks only for a person. A worker parks for all of them, since
a parked run holds no thread, no connection and no slot.

A run parks only if each of its steps under way waits. An attempt whose intent is durable finishes
first: parking never puts an attempt in doubt. A step inside the body of a tool does not park
either, because the tool itself is under way.

Two races need care. Another task of the run may be between two steps, where it is registered
neither as performing nor as waiting: `wait` pauses `_QUIET` seconds before it looks at the others.
And the awaited letter may arrive while the run parks: `complete_wait` marks the step as under way
under the same lock that decides to park, so either the step takes the letter or the park stands
and the unread letter wakes the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from agentrun.core.errors import Parking
from agentrun.core.events import ParkedFor
from agentrun.core.flow import Flow, pause
from agentrun.core.log import logger
from agentrun.core.shell import write_command
from agentrun.core.state import HELD_FOR

if TYPE_CHECKING:
    from agentrun.steps.run_context import RunContext
    from agentrun.steps.step import ActiveStep
    from agentrun.store.mail import Letter

_QUIET = 0.05  # seconds for which all tasks and threads of a run must wait before it parks
_LISTED = 5  # waits that are listed in the reason of a park
# What `.run()` waits for in place. It parks for a person, and for a child run, as a person has to
# act on that.
_IN_PLACE: frozenset[ParkedFor] = frozenset({"time", "signal", "response"})


@dataclass(frozen=True)
class Wait:
    """What a step waits for."""

    number: int | None  # the step's number; None if the journal does not know the step yet
    parked_for: ParkedFor
    reason: str
    until: datetime | None = None

    @property
    def asks(self) -> bool:
        """Whether a person has to act, who finds the request in the inbox."""
        return self.parked_for in HELD_FOR


def wait(
    step: ActiveStep,
    seconds: float,
    until: datetime | None,
    parked_for: ParkedFor,
    reason: str,
) -> Flow[None]:
    """Wait for a moment, or park the run if all of its steps under way wait. Raises Parking.

    The step counts as waiting until `end_wait`, also between two calls of this function, while it
    checks for what it waits for.
    """
    run = step.run
    run.check(step.scope)
    number = step.number if step.ident in run.history.steps else None
    waits = Wait(number, parked_for, reason, until)
    with run.lock:
        begins = step.ident not in run.waits
        run.waits[step.ident] = waits
    if begins and waits.asks and step.scope.body:
        # A tool's body is not parked, so no `RunHeld` tells the caller.
        logger.warning("run %r: %s: %s", run.key, reason, write_command("inbox", run.key))
    if run.in_place and parked_for in _IN_PLACE:
        yield pause(seconds)
        return
    # Another task of the run may be between two steps. It shows itself during the pause.
    yield pause(min(seconds, _QUIET))
    run.check(step.scope)
    with run.lock:
        if _all_wait(run):
            raise run.stop(_parking(run))
    yield pause(max(0.0, seconds - _QUIET))


def complete_wait(step: ActiveStep, letter: Letter | None = None) -> None:
    """Mark the step as under way again: what it waited for has come.

    Raises Interrupt if the run was parked meanwhile. The letter then stays unread and wakes
    the run.
    """
    run = step.run
    with run.lock:
        end_wait(step)
        if letter is not None:
            run.seen_letters[step.ident].discard(letter.mail_id)
        run.check(step.scope)
        run.seen_letters.pop(step.ident, None)


def end_wait(step: ActiveStep) -> None:
    """Mark the step as no longer waiting, for any reason."""
    with step.run.lock:
        step.run.waits.pop(step.ident, None)


def _all_wait(run: RunContext) -> bool:
    """Whether each step under way waits, and no task or thread is about to begin its first."""
    if run.upcoming or any(ident not in run.waits for ident in run.in_flight()):
        return False
    run.forget_begun()
    return all(scope.has_begun for scope, _ in run.new_scopes)


def _parking(run: RunContext) -> Parking:
    """The interrupt that parks the run: for a person if a step waits for one."""
    here = [run.waits[ident] for ident in run.in_flight()]
    waits = sorted(here, key=lambda wait: (not wait.asks, wait.number or 0))
    people = [wait for wait in waits if wait.asks]
    times = [wait.until for wait in waits if wait.until is not None]
    reasons = [wait.reason for wait in people or waits[:1]]
    if len(reasons) > _LISTED:
        more = f"and {len(reasons) - _LISTED} more: {write_command('inbox', run.key)}"
        reasons = [*reasons[:_LISTED], more]
    return Parking(
        "; ".join(reasons),
        parked_for=waits[0].parked_for,
        step=waits[0].number,
        wake_at=min(times, default=None),
    )
