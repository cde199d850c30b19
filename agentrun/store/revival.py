"""Restart the embedded server when it died, from any process that uses it.

No administrator or supervisor watches the embedded server. So a process that cannot connect to it
checks whether it is gone, and starts it again, under the server's lock: any number of processes
start it once. If the start fails, the next one is tried after a pause, which grows. During the
pause every call fails with the reason.

A server that was stopped by `agentrun doctor --stop` is not restarted by processes that already
use it. The next agentrun process that begins starts it.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from agentrun.core.errors import AgentrunError
from agentrun.core.log import logger
from agentrun.store import embedded

__all__ = ["is_embedded", "revive", "use"]

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two starts that fail
STARTUP_TIMEOUT = 60.0  # seconds; if crash recovery takes longer, the next start waits for it


@dataclass
class _Used:
    """An embedded server that this process uses."""

    root: Path
    pause: float = FIRST_PAUSE
    not_before: float = 0.0  # on the monotonic clock
    reason: str = ""  # of the last start that failed


_used: dict[str, _Used] = {}
_guard = threading.Lock()


def use(root: Path | None = None) -> str:
    """Start the embedded server, or attach to it, and return its DSN.

    From now on this process restarts the server when it dies. Raises like `embedded.start`.
    """
    dsn = embedded.start(root)
    _used[dsn] = _Used(embedded.where(root).root)
    return dsn


def is_embedded(dsn: str) -> bool:
    """Whether this is the DSN of an embedded server that this process uses."""
    return dsn in _used


def revive(dsn: str, error: psycopg.OperationalError) -> bool:
    """Restart the server of this DSN if it is dead; ``error`` is how a connection to it failed.

    Returns True if the server runs again. Returns False if it is not an embedded server that this
    process uses, or if it is alive. Raises psycopg.OperationalError, with the reason, if it is dead
    and cannot be started now.
    """
    used = _used.get(dsn)
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return False  # a server exists and does not answer
    if used is None or not embedded.is_gone(used.root):
        return False
    with _guard:
        if not embedded.is_gone(used.root):
            return True  # another thread was faster
        if embedded.was_stopped(used.root):
            raise psycopg.OperationalError(
                f"the embedded Postgres in {used.root} was stopped by `agentrun doctor --stop`; "
                "`agentrun doctor` starts it"
            ) from error
        if time.monotonic() < used.not_before:
            raise psycopg.OperationalError(used.reason) from error
        logger.warning("the embedded Postgres in %s is gone; starting it again", used.root)
        try:
            embedded.start(used.root, startup_timeout=STARTUP_TIMEOUT)
        except AgentrunError as failure:
            used.reason = f"the embedded Postgres died and cannot be started again: {failure}"
            used.not_before = time.monotonic() + used.pause
            used.pause = min(LONGEST_PAUSE, 2 * used.pause)
            raise psycopg.OperationalError(used.reason) from failure
        used.pause = FIRST_PAUSE
        return True


def _after_fork() -> None:
    global _guard
    _guard = threading.Lock()  # a thread of the parent may have held the old one


os.register_at_fork(after_in_child=_after_fork)
