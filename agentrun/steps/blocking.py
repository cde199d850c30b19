"""Blocking database calls for sync and async callers alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agentrun.core.flow import Op
from agentrun.steps.current_step import outside_runs
from agentrun.steps.refusals import asking_database
from agentrun.store.patience import in_thread

T = TypeVar("T")


def blocking(call: Callable[[], T]) -> Op[T]:
    """An operation that blocks. Async callers run it in a thread, which belongs to no run.

    If the database fails, the caller's run is interrupted by StoreLost.
    """

    def here() -> T:
        with asking_database():
            return call()

    async def elsewhere() -> T:
        with asking_database(), outside_runs():
            return await in_thread(call)

    return Op(here, elsewhere)
