"""`current_run()`: what the code of a run may know about its own run."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from agentrun.core.errors import RunCancelled
from agentrun.steps.execution_point import current_context
from agentrun.steps.run_context import RunContext


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RunInfo:
    """What code inside a run may know about the run. `current_run` returns it; it is read-only.

    All but the last two are fixed when the run is created, so that a resume sees the same.

    Attributes:
        key: names the run for `get`, `transcript`, `cancel` and the command line.
        run_id: the id of the run in the SQL views. It derives from the key.
        agent: the name of the agent, as it was when the run was created.
        parent: the key of the parent run; None if no other run called this one.
        deadline: when the run fails with LimitExceeded, an aware time; None without the option
            ``deadline=``. A resume by a person grants the same number of seconds again.
        cancelled: True once the run is cancelled. Code that was stopped by that sees it in its
            ``except`` or ``finally``, and may stop work elsewhere.

    Example:
        >>> run = agentrun.current_run()
        >>> logging.info("run %s of %s", run.key, run.agent)
    """

    key: str
    run_id: UUID
    agent: str
    parent: str | None = None
    deadline: datetime | None = None
    cancelled: bool = False


def current_run() -> RunInfo | None:
    """Return the key, the id and the agent of the run that the calling code belongs to.

    None outside a run. Inside the body of a tool or step, and in threads and tasks that the
    run's code starts, it is that same run.

    A forked child process cannot go on with the run of its parent. There the call stops the code
    with an `Interrupt`.

    Example:
        >>> run = agentrun.current_run()
        >>> label = run.key if run is not None else "no run"
    """
    run = current_context()
    if run is None:
        return None
    created = run.created
    parent: str | None = created.input.get("parent", {}).get("key")
    cancelled = isinstance(run.interrupt, RunCancelled)
    agent = created.name or run.agent
    info = RunInfo(run.key, run.run_id, agent, parent, run.expires_at, cancelled)
    _contexts[id(info)] = run
    weakref.finalize(info, _contexts.pop, id(info), None)
    return info


# The run of each `RunInfo` that code holds. It is kept here, so that they hold values only.
_contexts: weakref.WeakValueDictionary[int, RunContext] = weakref.WeakValueDictionary()


def context_of(info: RunInfo) -> RunContext | None:
    """The run that ``info`` tells of, while it executes in this process."""
    return _contexts.get(id(info))
