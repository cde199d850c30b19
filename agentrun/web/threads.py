"""Threads in which the pages read. An outage of the database fills them, and no others.

`asyncio.to_thread` would take threads of the application that the pages are mounted in. Reads that
wait for a database that is away would soon hold all of them.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agentrun.core.errors import Parking, StoreUnavailable
from agentrun.store.patience import PROCESS, Patience, use_patience

__all__ = ["PATIENCE", "ReadingThreads"]

T = TypeVar("T")

PATIENCE = 5.0  # seconds that a page waits for the database, before its statements are cut off
_MOST = 8  # threads


class ReadingThreads:
    """A few threads of their own, which end once nothing refers to this object."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_MOST, "agentrun-web")

    async def call(self, function: Callable[[], T], seconds: float | None = None) -> T:
        """Call in one of the threads. It waits for the database at most about ``seconds``.

        None waits until the database is back. If the awaiting task is cancelled, the thread's waits
        give up soon. Raises StoreUnavailable if the wait gave up.
        """
        own = Patience(PROCESS)

        def act() -> T:
            try:
                with use_patience(own):
                    return function()
            except Parking as error:
                raise StoreUnavailable(
                    "the database does not answer: try it again later"
                ) from error
            finally:
                own.close()

        loop = asyncio.get_running_loop()
        timer = None if seconds is None else loop.call_later(seconds, own.hurry)
        try:
            return await loop.run_in_executor(self._pool, contextvars.copy_context().run, act)
        except asyncio.CancelledError:
            own.hurry()
            raise
        finally:
            if timer is not None:
                timer.cancel()
