"""The execution point: the run and the place in it from which the calling code asks for steps.

The problem. Steps are numbered by position within a scope, that is within one task or thread. So
each task and thread of a run needs a scope of its own. contextvars carry the current run from one
task or thread to another, but they are copied in more ways than could be patched, and a copy names
the scope of the task or thread that it was copied from.

The rule. Inside a run, `core.recorder.current` holds an `ExecutionPoint`, which remembers the
thread and task that it belongs to. Any other thread or task that finds it creates a point of its
own, with a new scope. Without this check two tasks would number their steps in one scope, in an
order that another execution would not repeat.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agentrun.core import recorder
from agentrun.core.errors import Refusing
from agentrun.core.flow import Flow
from agentrun.core.identity import Scope
from agentrun.core.recorder import ModelRequest, ModelStep
from agentrun.steps.current_step import StepInfo, _step
from agentrun.steps.performer import Performer, performer
from agentrun.steps.run_context import RunContext


@dataclass(eq=False)
class ExecutionPoint:
    """A run, and the scope in it of the calling task or thread."""

    run: RunContext
    scope: Scope
    # The task or thread that it belongs to; None: the first one that uses it.
    performer: Performer | None = None

    def open_model_step(self, request: ModelRequest) -> Flow[ModelStep]:
        self.check_process()
        assert self.run.open_model_step is not None
        return self.run.open_model_step(self.here(), request)

    @property
    def in_step(self) -> bool:
        return self.scope.body

    def here(self) -> ExecutionPoint:
        """This point for its own task or thread, and a new child point for any other one.

        A thread that was started for a piece of work uses the child that was created for that work
        when it was submitted (see `working_at`). So its number does not depend on which thread
        happens to run first.
        """
        me = performer()
        if self.performer is None:
            self.performer = me
        if self.performer == me:
            return self
        assigned = _assigned.get(threading.get_ident())
        if assigned and me[1] is None and is_started_from(self.scope, assigned.scope):
            own = ExecutionPoint(self.run, assigned.scope, me)
        else:
            own = self.child()
            own.performer = me
        recorder.current.set(own)
        return own

    def check_process(self) -> None:
        """Raise Refusing in a forked child process.

        A fork copies the point, but not the run's threads or connections. The run is not stopped
        through `RunContext.stop`: another thread may have held the lock at the fork, and in the
        child nothing would ever release it.
        """
        if self.run.pid != os.getpid():
            raise Refusing(
                f"run {self.run.key!r} belongs to the parent of this forked process and cannot "
                "go on in the child; start processes with 'spawn', or use threads or tasks"
            )

    def child(self) -> ExecutionPoint:
        """The point of a new task or thread that is started from here."""
        with self.run.lock:
            scope = self.scope.child()
            self.run.new_scopes.append((scope, time.monotonic()))
            self.run.forget_begun()
            return ExecutionPoint(self.run, scope)


# The point that was created for the piece of work that a thread executes, by thread.
_assigned: dict[int, ExecutionPoint] = {}


def current_point() -> ExecutionPoint | None:
    """The execution point of the calling code; None outside a run and inside a model call."""
    found = recorder.current.get()
    if not isinstance(found, ExecutionPoint):
        return None
    found.check_process()
    return found.here()


def current_context() -> RunContext | None:
    """The run that the calling code belongs to, also inside a model call; None outside a run."""
    found = recorder.current.get()
    if not isinstance(found, ExecutionPoint):
        return None
    found.check_process()
    return found.run


class at_point:
    """Execute the block at ``point``, as the body of ``step``. With None it belongs to no run."""

    __slots__ = ("_point", "_step", "_tokens")

    def __init__(self, point: ExecutionPoint | None, step: StepInfo | None = None) -> None:
        self._point, self._step = point, step

    def __enter__(self) -> None:
        point = self._point
        own = None if point is None else ExecutionPoint(point.run, point.scope, performer())
        self._tokens = recorder.current.set(own), _step.set(self._step)

    def __exit__(self, *_error: object) -> None:
        point_token, step_token = self._tokens
        recorder.current.reset(point_token)
        _step.reset(step_token)


def is_started_from(above: Scope, scope: Scope) -> bool:
    """Whether ``scope`` was started from ``above``, directly or through other scopes."""
    started = scope.parent
    while started is not None and started is not above:
        started = started.parent
    return started is above


@contextmanager
def working_at(point: ExecutionPoint, step: StepInfo) -> Iterator[None]:
    """Execute the block, in a thread of its own, as the work that ``point`` was created for.

    The thread may also run a context that was copied from further above, as asyncio.to_thread
    does. Code in that context finds ``point``, too: see `ExecutionPoint.here`.
    """
    me = threading.get_ident()
    before = _assigned.get(me)
    _assigned[me] = point
    try:
        with at_point(point, step):
            yield
    finally:
        del _assigned[me]
        if before is not None:
            _assigned[me] = before
