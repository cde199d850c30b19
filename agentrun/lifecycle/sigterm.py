"""SIGTERM drains the process: steps in flight finish, runs are handed back, the process exits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentrun.store.patience import PROCESS

if TYPE_CHECKING:
    from agentrun.steps.run_context import RunContext

executing: set[RunContext] = set()  # the runs that this process executes


@contextmanager
def terminable() -> Iterator[None]:
    """While the block executes a run, make SIGTERM drain all runs of the process and then exit.

    If the database is away, the drain waits a few seconds for it, not longer. The handler is
    installed only in the main thread, and only if the program has no handler of its own.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        received.append(number)
        PROCESS.hurry()
        for run in list(executing):
            run.drain()

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if received:
            raise SystemExit(128 + received[0])
