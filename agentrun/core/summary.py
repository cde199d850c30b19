"""What lists of runs show of a run, and which events change it.

The sums are made by the database, in the statement `append` of `store/queries.sql`. It cannot read
the replies of every provider, so the last message is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from agentrun.core.events import Event, Json, RunStatus
from agentrun.core.messages import reply_messages
from agentrun.core.viewable import Viewable

__all__ = [
    "MESSAGE_LENGTH",
    "ChildRun",
    "Relatives",
    "RunList",
    "RunSummary",
    "is_summed",
    "last_message",
]

MESSAGE_LENGTH = 200  # characters of a message or an error in a summary


@dataclass(frozen=True, slots=True)
class RunSummary(Viewable):
    """A run as a list shows it. No journal is read for it. It prints as a card of its facts.

    The sums include steps that a divergence has set aside, because they were paid.

    Example:
        >>> for run in agentrun.runs(status="failed"):
        ...     print(run.key, run.failed_step, run.error_type, run.cost)
    """

    form = "run"

    key: str
    run_id: UUID
    agent: str
    status: RunStatus
    reason: str | None  # why it waits, failed or was cancelled
    parent_key: str | None  # the run whose child it is
    root_key: str  # the run at the top of its tree; its own key if it has no parent
    children: int  # runs below it, at any depth
    created_at: datetime
    started_at: datetime | None  # when a process took it first
    finished_at: datetime | None
    changed_at: datetime  # when its status changed last
    turns: int
    model_calls: int  # model calls that have an outcome
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: Decimal  # US dollars, without the runs below it and without unpriced calls
    unpriced: int  # answered calls whose price is not known
    tree_cost: Decimal  # US dollars, with the runs below it
    working_seconds: float  # while a process had it
    waiting_seconds: float  # while no process had it, from its creation on
    # The step of the error that ended the run last, or else the first step with an error. It stays
    # when the run is resumed.
    failed_step: int | None
    error_type: str | None
    error: str | None  # 200 characters at most
    last_message: str | None  # what the model said last, 200 characters at most
    owner: str | None  # the worker that executes it
    owner_dead: bool | None  # None: no process owns the run
    decided_at: datetime | None  # when its last question was decided, if no worker has read that

    @property
    def cursor(self) -> str:
        """Where a list goes on after this run: give it to `runs(after=)`."""
        return f"{self.created_at.isoformat()}/{self.run_id}"

    @property
    def note(self) -> str:
        """What to know of the run, in one line: its error, what it waits for, or what it said last.

        A text of more lines ends with an ellipsis.
        """
        if self.decided_at is not None:
            return "decided, not taken up yet"
        if self.owner_dead and self.status == "running":
            return "owner dead"
        if self.status == "failed":
            step = "" if self.failed_step is None else f"step {self.failed_step}: "
            kind = f"{self.error_type}: " if self.error_type else ""
            return f"{step}{kind}{_first_line(self.error or self.reason)}"
        if self.status in ("held", "waiting", "cancelled"):
            return _first_line(self.reason)
        return _first_line(self.last_message)


class RunList(Viewable, list[RunSummary]):
    """The runs that `runs` found, the newest first. It is a table in a notebook.

    Example:
        >>> first = agentrun.runs(limit=20)
        >>> more = agentrun.runs(limit=20, after=first[-1].cursor) if first else []
    """

    form = "runs"

    def __repr__(self) -> str:
        return f"<RunList of {len(self)} runs>"


def _first_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return "" if not lines else lines[0] if len(lines) == 1 else f"{lines[0]} …"


@dataclass(frozen=True, slots=True)
class ChildRun:
    """A child run, as its parent's page shows it. ``cost`` is without the runs below it."""

    key: str
    status: RunStatus
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Relatives:
    """The runs around a run. A journal does not name them all, so they come from the database."""

    parent: str | None = None  # its key
    children: tuple[ChildRun, ...] = ()  # the oldest first
    tree_cost: Decimal | None = None  # US dollars of the run and of all runs below it


def is_summed(event: Event) -> bool:
    """Whether this event changes the summary of the run. A change of the status does so too."""
    outcome = event.event in ("step_finished", "attempt_failed")
    return outcome and (event.kind == "model" or event.status == "error")


def last_message(event: Event, output: Json) -> str | None:
    """What the model said in this event, or the text that the run returned; None if neither.

    ``output`` is the event's output as people see it.
    """
    if event.event == "run_finished" and isinstance(output, str):
        text = output
    elif event.event == "step_finished" and event.kind == "model" and isinstance(output, dict):
        text = "\n".join(m.text for m in reply_messages(output.get("body")) if m.text)
    else:
        return None
    return text.strip()[:MESSAGE_LENGTH] or None
