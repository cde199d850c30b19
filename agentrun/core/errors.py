"""All exceptions that agentrun raises.

::

    AgentrunError
    ├─ ConfigError                  wrong set-up; never retried
    ├─ NoRun                        a strict client was called outside a run
    ├─ StoreError                   the database
    │   ├─ StoreUnavailable         could not connect; nothing was sent
    │   ├─ OutcomeUnknown           connection lost after a commit was sent
    │   └─ SchemaMismatch           the schema is older or newer than this code
    ├─ RunError                     raised to the caller of .run(), never inside the run
    │   ├─ RunNotFound              no run has the key
    │   │   └─ RunPruned            the run was removed after its end, and is not executed again
    │   ├─ RunConflict · RunFailed · RunHeld · Diverged · LimitExceeded
    │   └─ AlreadyDecided           another decision came first
    └─ ToolError
        ├─ ToolFailed               its message is sent to the model
        │   └─ ApprovalExpired      the call was not approved in time
        └─ ToolTimeout

    Interrupt(BaseException)        inside a run; `except Exception` must not catch these
    ├─ LeaseLost                    another worker owns the run
    │   └─ JournalLost              the database lost events that it had acknowledged
    └─ RunCancelled · RunExpired · Diverging · Refusing · StoreLost · Parking

    UserWarning
    ├─ NoModelWarning               a model asks for a tool, and its calls are not recorded
    └─ NoWorkerWarning              a run waits for a worker, and no live one knows its agent
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from agentrun.core.events import ParkedFor

__all__ = [
    "AgentrunError",
    "AlreadyDecided",
    "ApprovalExpired",
    "ConfigError",
    "Diverged",
    "Diverging",
    "Interrupt",
    "JournalLost",
    "LeaseLost",
    "LimitExceeded",
    "NoModelWarning",
    "NoRun",
    "NoWorkerWarning",
    "OutcomeUnknown",
    "Parking",
    "Refusing",
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
    "StoreLost",
    "StoreUnavailable",
    "ToolError",
    "ToolFailed",
    "ToolTimeout",
]


class AgentrunError(Exception):
    """The base class of all ordinary errors of agentrun."""


class ConfigError(AgentrunError):
    """The set-up is wrong. The message names the setting and how to correct it."""


class NoRun(AgentrunError):
    """A client wrapped with ``strict=True`` was called outside a run."""


class StoreError(AgentrunError):
    """The database refused or failed."""


class StoreUnavailable(StoreError):
    """The database could not be reached; nothing was sent."""


class OutcomeUnknown(StoreError):
    """The connection was lost after a commit was sent, and its outcome could not be found out."""


class SchemaMismatch(StoreError):
    """The schema in the database is older or newer than this version of agentrun."""


class RunError(AgentrunError):
    """An error about one run. ``key`` is the key of the run."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class RunNotFound(RunError):
    """No run has this key.

    Example::

        try:
            agentrun.get("ticket-42")
        except agentrun.RunNotFound:
            print("no such run")
    """


class RunPruned(RunNotFound):
    """The run with this key had ended and was pruned at ``pruned_at``. It is not executed again."""

    def __init__(self, message: str, *, key: str, pruned_at: datetime) -> None:
        super().__init__(message, key=key)
        self.pruned_at = pruned_at


class RunConflict(RunError):
    """The key belongs to a run with another input or agent, or another process executes the run.

    Example::

        try:
            support.with_options(key="ticket-42", on_busy="raise").run("refund order 7")
        except agentrun.RunConflict as conflict:
            print(conflict)
    """


class RunFailed(RunError):
    """The agent raised an exception. It is the ``__cause__``, if it can be rebuilt.

    Example::

        try:
            support.with_options(key="ticket-42").run("refund order 7")
        except agentrun.RunFailed as failed:
            print(failed.key, repr(failed.__cause__))
    """


class RunHeld(RunError):
    """The run waits for a person to decide. ``step`` is the number of the step concerned.

    Example::

        try:
            support.with_options(key="ticket-42").run("refund order 7")
        except agentrun.RunHeld as held:
            print(held.key, held.step)   # `agentrun inbox` shows the request
    """

    def __init__(self, message: str, *, key: str | None = None, step: int | None = None) -> None:
        super().__init__(message, key=key)
        self.step = step


class Diverged(RunError):
    """On a resume, the code asked for a step that differs from the recorded one; see ``diff``.

    Example::

        try:
            agentrun.resume("ticket-42")
        except agentrun.Diverged as diverged:
            print(diverged.diff)
    """

    def __init__(self, message: str, *, key: str | None = None, diff: str = "") -> None:
        super().__init__(message, key=key)
        self.diff = diff


class AlreadyDecided(RunError):
    """A decision about the step exists already. The message says whose, which and when."""


class LimitExceeded(RunError):
    """A limit of the run (turns, malformed replies in a row, deadline, budget) was reached."""


class ToolError(AgentrunError):
    """A tool has no result."""


class ToolFailed(ToolError):
    """The tool failed. The message is sent to the model, which may try something else.

    Example::

        @agentrun.tool
        def refund(order_id: str) -> dict:
            raise agentrun.ToolFailed(f"order {order_id} was never paid")
    """


class ApprovalExpired(ToolFailed):
    """The call was not made, because it was not approved in time or the approval expired."""


class ToolTimeout(ToolError):
    """The tool took longer than its ``timeout=``.

    A `once` tool may raise it itself if it cannot know whether its effect took place. The step is
    then in doubt. ``is_recorded`` is True if the exception is the recorded outcome of a step: then
    nothing is in doubt.
    """

    is_recorded: bool = False


class Interrupt(BaseException):
    """Stops the execution of the run in this process. It does not end the run.

    It is a BaseException, so that ``except Exception`` in an agent does not catch it.
    """


class LeaseLost(Interrupt):
    """Another worker owns the run now. This process may not write or send anything more for it."""


class JournalLost(LeaseLost):
    """The database lacks events of the run that it had acknowledged.

    This happens when a failover goes to a server that lagged behind. ``acknowledged`` is the seq of
    the last acknowledged event.
    """

    def __init__(self, acknowledged: int) -> None:
        super().__init__("the database lost events of the run that it had acknowledged")
        self.acknowledged = acknowledged


class RunCancelled(Interrupt):
    """The run was cancelled."""


class RunExpired(Interrupt):
    """The deadline or the budget of the run is used up.

    The caller of the run gets a RunFailed whose cause is a LimitExceeded.
    """


class Diverging(Interrupt):
    """The code asks for a step that differs from the recorded one. ``diff`` is a readable diff.

    ``detail`` is what the inbox shows: the step and its place.
    """

    def __init__(
        self, message: str, *, diff: str = "", detail: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.diff = diff
        self.detail = detail or {}


class Refusing(Interrupt):
    """The code asks for something that agentrun refuses inside a run.

    The run fails, and the caller gets a ConfigError. After the code is corrected, `resume`
    continues from the last recorded step. If a step was performed and its result is refused,
    ``step`` is its number.
    """

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class StoreLost(Interrupt):
    """The database failed while the run used it. ``error`` is the StoreError that the caller gets.

    Nothing more is sent in this process. A later execution continues from the recorded steps.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Parking(Interrupt):
    """The run leaves this process: to wait without an owner, or to be handed back.

    ``parked_for`` is what the run waits for. None hands it back, so that a worker may continue.
    """

    def __init__(
        self,
        reason: str,
        *,
        parked_for: ParkedFor | None = None,
        step: int | None = None,
        wake_at: datetime | None = None,
    ) -> None:
        super().__init__(reason)
        self.parked_for: ParkedFor | None = parked_for
        self.step = step
        self.wake_at = wake_at


class NoModelWarning(UserWarning):
    """A model asked for a tool call, but the run has recorded no model call."""


class NoWorkerWarning(UserWarning):
    """A run waits for a worker, but no live worker knows its agent and takes runs of its queue."""
