"""The event loop on which sync code executes async agents.

One for all of them: an async client keeps its connections, and they are bound to the loop that
opened them. With a loop a call, as `asyncio.run` makes, the second run of an agent would find them
closed. Only in the main thread; elsewhere nobody could tell when the loop is to be closed.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from contextvars import copy_context
from selectors import DefaultSelector
from typing import Any, TypeVar

from agentrun.runner.context import current_line, on_line

T = TypeVar("T")

_runner: asyncio.Runner | None = None


def run_in_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """What `asyncio.run` does, on the one loop of the main thread, as part of the run that calls.

    The tasks and threads with which the loop itself begins and ends are no part of that run.
    """
    line = current_line()

    async def on_this_line() -> T:
        with on_line(line):
            return await coroutine

    with on_line(None):
        if threading.current_thread() is not threading.main_thread():
            return asyncio.run(on_this_line())
        try:
            return _loop().run(on_this_line(), context=copy_context())
        finally:
            _loop().run(_leave_nothing_behind())


def _loop() -> asyncio.Runner:
    global _runner
    _runner = _runner or asyncio.Runner()
    return _runner


async def _leave_nothing_behind() -> None:
    """End the tasks that the agent began and did not wait for, as `asyncio.run` does."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@atexit.register
def _close() -> None:
    if _runner is not None:
        _runner.close()


def _after_fork() -> None:
    global _runner
    loop = None if _runner is None else _runner.get_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        # Shared with the parent, whose loop would hear nothing more once this copy is closed.
        loop._selector = DefaultSelector()  # type: ignore[attr-defined]
    _runner = None


os.register_at_fork(after_in_child=_after_fork)
