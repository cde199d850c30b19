"""The thread, and the task in it if there is one, that executes a piece of code."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

Performer = tuple[threading.Thread, "asyncio.Task[Any] | None"]


def performer() -> Performer:
    """The calling thread and task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.current_thread(), task


def cancellations() -> int:
    """How often the calling task was cancelled so far; 0 in a thread without a task.

    A cancellation that its task has not seen yet is not counted: it comes at the next `await`.
    """
    task = performer()[1]
    return 0 if task is None else task.cancelling() - bool(getattr(task, "_must_cancel", False))


def is_executing(performer: Performer) -> bool:
    """Whether that thread or task is alive, so that it may still finish its step."""
    thread, task = performer
    return thread.is_alive() if task is None else not task.done()
