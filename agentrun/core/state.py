"""The states of a run, as a table. No other code decides the status of a run.

The row of a run in ``runs`` is a projection of its journal. Its status is that of the last event
that changes it, by this table. A test rebuilds every row from the journal and compares.

::

    created ──► queued ──claimed──► running ──run_finished───► done
                  ▲                  ▲ │ │ └──run_failed─────► failed ─────claimed, resumed──┐
                  └───handed_back──────┘ └────run_cancelled──► cancelled                     │
                                     │ └──────parked─────────► waiting | held ───claimed───┐ │
                                     └─────────────────────────────────────────────────────┴─┘
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import get_args

from agentrun.core.events import Event, HeldFor, Json, ParkedFor, RunStatus, first_name

# The status of a run after an event. Any other event does not change it.
STATUS_AFTER: dict[str, RunStatus] = {
    "created": "queued",
    "claimed": "running",
    "handed_back": "queued",
    "run_finished": "done",
    "run_failed": "failed",
    "run_cancelled": "cancelled",
}

# The final states. Only `resume` can make a failed run continue.
ENDED: frozenset[RunStatus] = frozenset({"done", "failed", "cancelled"})


# What a `held` run waits for: a person has to act.
HELD_FOR: frozenset[ParkedFor] = frozenset(get_args(HeldFor))


def park_event(
    parked_for: ParkedFor,
    reason: str,
    *,
    step: int | None = None,
    wake_at: datetime | None = None,
    output: Json = None,
) -> Event:
    """The event that parks a run. ``parked_for`` decides whether the run is waiting or held.

    ``step`` is the step that waits, if any; ``reason`` is the text for people.
    """
    return Event(
        event="parked",
        status="held" if parked_for in HELD_FOR else "waiting",
        parked_for=parked_for,
        step=step,
        reason=reason,
        wake_at=wake_at,
        output=output,
        has_output=output is not None,
    )


def last_park(events: Sequence[Event], parked_for: ParkedFor) -> Event | None:
    """The park at the end of the journal, if there is one and the run waits for this.

    After a park for a review, a process that claims the run for another reason than a person's
    resume must park it again.
    """
    last = next((event for event in reversed(events) if event.event != "claimed"), None)
    return last if last is not None and last.parked_for == parked_for else None


_VERSIONS = 50  # versions of the code that a park remembers; an older one may be tried again
_FORWARD = frozenset({"step_finished", "diverged", "request_changed"})


def tried_versions(events: Sequence[Event]) -> list[str]:
    """The versions of the code that have diverged at the current place of the run.

    A worker with one of these versions need not try the run again.
    """
    for event in reversed(events):
        if event.event in _FORWARD:
            break
        if event.parked_for == "divergence":
            found = event.output["divergence"].get("versions", [])
            return [version for version in found if isinstance(version, str)][-_VERSIONS:]
    return []


def divergence_decision(events: Sequence[Event]) -> tuple[str, str] | None:
    """The latest decision about divergences (``keep``, ``accept``, …) and who made it, or None.

    An ``accept`` is used up by the next divergence: it does not accept a later one.
    """
    accepted = False
    for event in reversed(events):
        accepted = accepted or event.event == "diverged"
        if event.event == "resumed" and isinstance(event.output, dict):
            way = str(event.output["on_divergence"])
            return None if way == "accept" and accepted else (way, first_name(event.by))
    return None


def status_after(event: Event) -> RunStatus | None:
    """The status of the run after ``event``. None if the event does not change it."""
    if event.event == "parked":
        return "waiting" if event.status == "waiting" else "held"
    return STATUS_AFTER.get(event.event)
