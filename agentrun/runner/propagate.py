"""Carry the run into the threads and tasks that an agent starts.

contextvars do not follow threads, and a task inherits its creator's; each must become a line of
control of its own, numbered by creation. From the first run on, `Thread.start` and
`ThreadPoolExecutor.submit` do so, as OpenTelemetry's threading instrumentation does, and each
event loop that executes a run gets a task factory. Without a run all three only pass on.
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
from agentrun.runner.context import current_line, current_step, on_line

_installed = threading.Lock()
_done = False


def install() -> None:
    """Patch the two ways in which threads get work. Once a process."""
    global _done
    with _installed:
        if not _done:
            _patch_threads()
            _patch_pools()
            _done = True


def install_on(loop: asyncio.AbstractEventLoop) -> None:
    """Have ``loop`` give each task of a run its own line of control. Once a loop."""
    before = loop.get_task_factory()
    if getattr(before, "_agentrun", False):
        return

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        line = current_line()
        if line is not None:
            given: Context | None = options.get("context")
            context = copy_context() if given is None else given.copy()
            context.run(recorder.current.set, line.child())
            options["context"] = context
        if before is not None:
            return before(loop, coro, **options)
        return asyncio.Task(coro, loop=loop, **options)

    factory._agentrun = True  # type: ignore[attr-defined]
    loop.set_task_factory(factory)


def _patch_threads() -> None:
    start = threading.Thread.start

    @functools.wraps(start)
    def started(self: threading.Thread) -> None:
        line = current_line()
        if line is not None and not _is_of_library(self):
            self.run = _on_line(line.child(), self.run)  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = started  # type: ignore[method-assign]


def _is_of_library(thread: threading.Thread) -> bool:
    """Worker threads of anyio are shared by everybody, and it carries the context itself; the
    thread that ends the executor of an event loop is there only if there was one."""
    ends_a_loop = isinstance(
        getattr(getattr(thread, "_target", None), "__self__", None), asyncio.AbstractEventLoop
    )
    return ends_a_loop or type(thread).__module__.startswith("anyio")


def _patch_pools() -> None:
    submit = ThreadPoolExecutor.submit

    def submitted(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        line = current_line()
        if line is None:
            return submit(self, fn, *args, **kwargs)
        task = fn if _carries_context(fn) else _on_line(line.child(), fn)
        # The pool may start a thread here, which is everybody's: it belongs to no run.
        with on_line(None):
            return submit(self, task, *args, **kwargs)

    functools.update_wrapper(submitted, submit)  # type: ignore[arg-type]
    ThreadPoolExecutor.submit = submitted  # type: ignore[method-assign, assignment]


def _carries_context(fn: Callable[..., Any]) -> bool:
    """Whether ``fn`` runs in a context of its own anyway, as asyncio.to_thread arranges."""
    inner = fn.func if isinstance(fn, functools.partial) else fn
    return isinstance(getattr(inner, "__self__", None), Context)


def _on_line(line: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
    step = current_step()  # in a tool's body: its threads are a part of it

    def call(*args: Any, **kwargs: Any) -> Any:
        with on_line(line, step):
            return fn(*args, **kwargs)

    return call
