"""Everything agentrun raises.

::

    AgentrunError
    ├─ ConfigError                  wrong set-up; never retried
    ├─ NoRun                        a strict client was called outside a run
    ├─ StoreError                   the database
    │   ├─ StoreUnavailable         could not connect; nothing was sent
    │   ├─ OutcomeUnknown           lost after a commit was sent, and could not be settled
    │   └─ SchemaMismatch           older or newer than this code
    ├─ RunError                     seen by the caller of .run(), never inside it
    │   ├─ RunNotFound              no run has the key
    │   │   └─ RunPruned            it was removed for its age, and is not executed again
    │   ├─ RunConflict · RunFailed · RunHeld · Diverged · LimitExceeded
    └─ ToolError
        ├─ ToolFailed               told to the model
        └─ ToolTimeout

    Interrupt(BaseException)        inside a run; `except Exception` must not swallow these
    ├─ LeaseLost                    another worker owns the run
    │   └─ JournalLost              the database lost what it had acknowledged
    └─ RunCancelled · RunExpired · Diverging · Parking
"""

from __future__ import annotations

from datetime import datetime

__all__ = [
    "AgentrunError",
    "ConfigError",
    "Diverged",
    "Diverging",
    "Interrupt",
    "JournalLost",
    "LeaseLost",
    "LimitExceeded",
    "NoRun",
    "OutcomeUnknown",
    "Parking",
    "RunCancelled",
    "RunConflict",
    "RunError",
    "RunExpired",
    "RunFailed",
    "RunHeld",
    "RunNotFound",
    "RunPruned",
    "SchemaMismatch",
    "StoreError",
    "StoreUnavailable",
    "ToolError",
    "ToolFailed",
    "ToolTimeout",
]


class AgentrunError(Exception):
    """Base of every ordinary error that agentrun raises."""


class ConfigError(AgentrunError):
    """The set-up is wrong; the message names the setting and the way out."""


class NoRun(AgentrunError):
    """A client wrapped with ``strict=True`` was called where no run is active."""


class StoreError(AgentrunError):
    """The database refused or failed."""


class StoreUnavailable(StoreError):
    """The database could not be reached; nothing was sent."""


class OutcomeUnknown(StoreError):
    """The connection was lost after a commit was sent, and its outcome could not be settled."""


class SchemaMismatch(StoreError):
    """The schema in the database is older or newer than this version of agentrun."""


class RunError(AgentrunError):
    """Something about one run; ``key`` names it."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class RunNotFound(RunError):
    """No run has this key."""


class RunPruned(RunNotFound):
    """The run with this key has ended and was pruned at ``pruned_at``; it is not executed again."""

    def __init__(self, message: str, *, key: str, pruned_at: datetime) -> None:
        super().__init__(message, key=key)
        self.pruned_at = pruned_at


class RunConflict(RunError):
    """The key belongs to a run with another input or agent, or the run is busy elsewhere."""


class RunFailed(RunError):
    """The agent raised; ``__cause__`` is that exception where it can be rebuilt."""


class RunHeld(RunError):
    """The run waits for a person; ``step`` is what it waits for."""

    def __init__(self, message: str, *, key: str | None = None, step: int | None = None) -> None:
        super().__init__(message, key=key)
        self.step = step


class Diverged(RunError):
    """On resume the code asked for something other than what is recorded; ``diff`` shows it."""

    def __init__(self, message: str, *, key: str | None = None, diff: str = "") -> None:
        super().__init__(message, key=key)
        self.diff = diff


class LimitExceeded(RunError):
    """A limit of the run (turns, malformed replies in a row, deadline, budget) was reached."""


class ToolError(AgentrunError):
    """A tool did not give a result."""


class ToolFailed(ToolError):
    """The message is told to the model, which may try something else."""


class ToolTimeout(ToolError):
    """The tool took longer than its ``timeout=``.

    A `once` tool may raise it itself, to say that it cannot know whether it took effect: the step
    is then in doubt. ``settled`` tells one that a step has recorded as its outcome already.
    """

    settled: bool = False


class Interrupt(BaseException):
    """Ends the run in this process, not the run itself.

    A BaseException, so that ``except Exception`` in an agent cannot swallow it.
    """


class LeaseLost(Interrupt):
    """Another worker owns the run now; nothing more may be written or sent from here."""


class JournalLost(LeaseLost):
    """The database lacks events of the run that it had acknowledged.

    A failover to a server that lagged behind does that. ``acknowledged`` is the last seq that was.
    """

    def __init__(self, acknowledged: int) -> None:
        super().__init__("the database lost events of the run that it had acknowledged")
        self.acknowledged = acknowledged


class RunCancelled(Interrupt):
    """The run was cancelled."""


class RunExpired(Interrupt):
    """The run's deadline or budget is used up; outside it is a RunFailed, of a LimitExceeded."""


class Diverging(Interrupt):
    """The code asks for something other than what is recorded; carries the readable diff."""

    def __init__(self, message: str, *, diff: str = "") -> None:
        super().__init__(message)
        self.diff = diff


class Parking(Interrupt):
    """The run lets go of its process, to wait (``held``) or to be handed back (``queued``)."""

    def __init__(
        self,
        reason: str,
        *,
        status: str = "held",
        step: int | None = None,
        wake_at: datetime | None = None,
        by: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.by = by
        self.step = step
        self.wake_at = wake_at
