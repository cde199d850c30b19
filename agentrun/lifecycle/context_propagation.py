"""Carry the run into the threads and tasks that an agent starts.

The problem: steps are identified by their order within a line of control. Each thread and each task
of an agent must be a line of its own, numbered in the order of creation. But contextvars are not
copied to a new thread, and a new task shares its creator's values.

The solution, as in OpenTelemetry's threading instrumentation: from the first run on,
`Thread.start` and `ThreadPoolExecutor.submit` are patched, and each event loop that executes a run
gets a task factory. Outside a run, all three behave as before.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

from agentrun.core import recorder
from agentrun.steps.current_step import current_step
from agentrun.steps.execution_point import (
    ExecutionPoint,
    at_point,
    current_context,
    current_point,
    is_started_from,
    working_at,
)

_installing = threading.Lock()
_is_installed = False


def install() -> None:
    """Patch threads, thread pools and event loops, once in a process."""
    global _is_installed
    with _installing:
        if not _is_installed:
            _patch_threads()
            _patch_pools()
            _patch_loops()
            _is_installed = True


def install_on(loop: asyncio.AbstractEventLoop) -> None:
    """Make ``loop`` give each task of a run a line of control of its own; once for each loop."""
    before = loop.get_task_factory()
    if getattr(before, "_agentrun", False):
        return

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        line = current_point()
        own: ExecutionPoint | None = None
        if line is not None:
            given: Context | None = options.get("context")
            context = copy_context() if given is None else given.copy()
            own = line.child()
            context.run(recorder.current.set, own)
            options["context"] = context
        make: Any = _task if before is None else before
        task: asyncio.Task[Any] = make(loop, coro, **options)
        if own is not None and own.performer is None:
            own.performer = (threading.current_thread(), task)
        return task

    factory._agentrun = True  # type: ignore[attr-defined]
    loop.set_task_factory(factory)


def _task(loop: Any, coro: Any, **options: Any) -> Any:
    return asyncio.Task(coro, loop=loop, **options)


def _patch_loops() -> None:
    """Install the task factory also on loops that an agent runs itself, as by `asyncio.run`."""
    run_forever = asyncio.BaseEventLoop.run_forever

    @functools.wraps(run_forever)
    def ran(self: asyncio.BaseEventLoop) -> None:
        if current_context() is not None:
            install_on(self)
        run_forever(self)

    asyncio.BaseEventLoop.run_forever = ran  # type: ignore[method-assign]


def _patch_threads() -> None:
    start = threading.Thread.start

    @functools.wraps(start)
    def started(self: threading.Thread) -> None:
        if current_context() is not None and not _is_of_library(self):
            self.run = _carry_line(self.run)  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = started  # type: ignore[method-assign]


def _is_of_library(thread: threading.Thread) -> bool:
    """Whether a thread belongs to a library and gets no line of control.

    Worker threads of anyio serve all tasks, and anyio carries the context itself. The thread that
    shuts down an event loop's executor exists only if the loop had an executor, so counting it
    would make the numbering differ between executions.
    """
    ends_a_loop = isinstance(
        getattr(getattr(thread, "_target", None), "__self__", None), asyncio.AbstractEventLoop
    )
    return ends_a_loop or type(thread).__module__.startswith("anyio")


def _patch_pools() -> None:
    submit = ThreadPoolExecutor.submit

    def submitted(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if current_context() is None:
            return submit(self, fn, *args, **kwargs)
        task = _carry_line(fn)
        # The pool may start a worker thread here. It serves all callers, so it belongs to no run.
        with at_point(None):
            return submit(self, task, *args, **kwargs)

    functools.update_wrapper(submitted, submit)  # type: ignore[arg-type]
    ThreadPoolExecutor.submit = submitted  # type: ignore[method-assign, assignment]


def _carry_line(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``fn`` so that another thread executes it as work of the run, on a new line of control.

    The line is made here, so that lines are numbered in the order of creation. ``fn`` may carry a
    context of its own, as with asyncio.to_thread and LangChain's pools.
    """
    here = current_point()
    context = _context_of(fn)
    found = recorder.current.get() if context is None else context.get(recorder.current)
    if here is None or not isinstance(found, ExecutionPoint):
        return fn  # the context that fn carries belongs to no run
    foreign = found.performer != here.performer
    giver = here if foreign and is_started_from(found.scope, here.scope) else found
    line = giver.child()
    step = current_step()  # threads that a tool's body starts are part of its step

    def call(*args: Any, **kwargs: Any) -> Any:
        with working_at(line, step):
            return fn(*args, **kwargs)

    return call


def _context_of(fn: Callable[..., Any]) -> Context | None:
    """The context that ``fn`` carries, as the bound method `Context.run` does; or None."""
    inner = fn.func if isinstance(fn, functools.partial) else fn
    found = getattr(inner, "__self__", None)
    return found if isinstance(found, Context) else None
