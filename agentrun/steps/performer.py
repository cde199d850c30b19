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


def is_executing(performer: Performer) -> bool:
    """Whether that thread or task is alive, so that it may still finish its step."""
    thread, task = performer
    return thread.is_alive() if task is None else not task.done()
