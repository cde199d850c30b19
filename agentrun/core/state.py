"""The states of a run, as tables. Nothing else may decide them.

A run's row in ``runs`` is a projection of its journal: its status, owner and epoch after the
last event of the journal are exactly what these tables say, and a test rebuilds every row from
the journal and compares.

::

    created ──► queued ──claimed──► running ──run_finished───► done
                  ▲                  ▲ │ │ └──run_failed─────► failed ─────claimed, resumed──┐
                  └───handed_back──────┘ └────run_cancelled──► cancelled                     │
                                     │ └──────parked─────────► waiting | held ───claimed───┐ │
                                     └─────────────────────────────────────────────────────┴─┘
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrun.core.events import Event, RunStatus

# The status a run has after an event; events not listed leave it as it was.
STATUS_AFTER: dict[str, RunStatus] = {
    "created": "queued",
    "claimed": "running",
    "handed_back": "queued",
    "run_finished": "done",
    "run_failed": "failed",
    "run_cancelled": "cancelled",
}

# Nothing more happens in these, unless somebody resumes the run.
ENDED: frozenset[RunStatus] = frozenset({"done", "failed", "cancelled"})


# `by` of a park that no letter ends, only a person who resumes the run: to go on could do harm.
SAFEGUARD = "agentrun"


def safeguard(events: Sequence[Event]) -> Event | None:
    """The park that keeps the run until a person resumes it, if that is where its journal ends.

    Whoever claims it without being one has to park it again.
    """
    last = next((event for event in reversed(events) if event.event != "claimed"), None)
    return last if last is not None and (last.event, last.by) == ("parked", SAFEGUARD) else None


def status_after(event: Event) -> RunStatus | None:
    """The run's status after ``event``, or None where the event does not change it."""
    if event.event == "parked":
        return "waiting" if event.status == "waiting" else "held"
    return STATUS_AFTER.get(event.event)
