"""The event loop on which sync code executes async agents.

All threads of the process share one loop, which runs in a thread of its own. The reason: an async
client keeps its connections open, and they belong to the loop that opened them. If each call had a
loop of its own, as with `asyncio.run`, the second run of an agent would find its client's
connections closed. So would each thread of a web server.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Coroutine
from concurrent import futures
from contextvars import ContextVar
from selectors import DefaultSelector
from typing import Any, TypeVar
from weakref import WeakSet

from agentrun.lifecycle.sigterm import terminable
from agentrun.steps.execution_point import at_point, current_point

T = TypeVar("T")
_Tasks = WeakSet["asyncio.Task[Any]"]

# The tasks that one call of `run_in_loop` has started, directly or through other tasks.
_begun: ContextVar[_Tasks | None] = ContextVar("agentrun_begun", default=None)

_CLOSING = 5.0  # seconds that the loop gets to close at the end of the process

_making = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def run_in_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Execute a coroutine as `asyncio.run` does, but on the shared loop; return its result.

    The coroutine belongs to the caller's run. Tasks and threads that the loop needs for itself
    do not. If the waiting caller is interrupted, as by Ctrl-C, the coroutine is cancelled.
    """
    line, answer = current_point(), futures.Future[T]()
    tasks: _Tasks = WeakSet()
    loop = _shared_loop()

    async def on_this_line() -> None:
        me = asyncio.current_task()
        try:
            with at_point(line):
                value = await coroutine
        except BaseException as error:  # also a SystemExit: the caller must get it, not the loop
            await _leave_nothing_behind(tasks, me)
            answer.set_exception(error)
        else:
            await _leave_nothing_behind(tasks, me)
            answer.set_result(value)

    def begin() -> None:
        _begun.set(tasks)
        main.append(loop.create_task(on_this_line()))
        main[0].add_done_callback(ended)

    def ended(_task: Any) -> None:
        if not answer.done():  # the task was cancelled before it began
            coroutine.close()
            answer.set_exception(asyncio.CancelledError())

    def cancel() -> None:
        for task in main:
            task.cancel()

    main: list[asyncio.Task[None]] = []
    with at_point(None), terminable():
        try:
            loop.call_soon_threadsafe(begin)
            futures.wait([answer])
        except BaseException:
            loop.call_soon_threadsafe(cancel)
            futures.wait([answer])
            raise
    return answer.result()


async def _leave_nothing_behind(tasks: _Tasks, me: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks that the agent started and did not await, as `asyncio.run` does."""
    others = [task for task in tasks if task is not me and not task.done()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


# -- the loop ----------------------------------------------------------------------------------


def _shared_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _making:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _loop.set_task_factory(_task)
            _thread = threading.Thread(
                target=_serve, args=(_loop,), name="agentrun-loop", daemon=True
            )
            with at_point(None):
                _thread.start()
        return _loop


def _task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **options)
    if (tasks := _begun.get()) is not None:
        tasks.add(task)
    return task


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is closed.

    A SystemExit in a task ends `run_forever`; the loop is then started again.
    """
    asyncio.set_event_loop(loop)
    while loop is _loop:
        with contextlib.suppress(BaseException):
            loop.run_forever()
    with contextlib.suppress(BaseException):
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@atexit.register
def close() -> None:
    """Close the loop and end its thread. The next `run_in_loop` makes another loop."""
    global _loop
    with _making:
        loop, _loop = _loop, None
    if loop is not None and _thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        _thread.join(timeout=_CLOSING)


def _after_fork() -> None:
    global _loop, _making
    if isinstance(_loop, asyncio.SelectorEventLoop):
        # The selector is shared with the parent process. If this copy of the loop closed it, the
        # parent's loop would get no more events.
        _loop._selector = DefaultSelector()  # type: ignore[attr-defined]
    _loop, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
