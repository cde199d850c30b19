"""A pool of connections, and named statements that wait while the database is away."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg

from agentrun.core import points
from agentrun.core.errors import ConfigError
from agentrun.store.connection import RETRY_AT_ONCE, DeadlineConnection, is_transient
from agentrun.store.connection import connect as open_connection
from agentrun.store.sending import log_waiting, retry_attempts
from agentrun.store.sql import QUERIES

__all__ = ["Pool"]

T = TypeVar("T")

_IDLE = 4  # connections kept open for reads


class Pool:
    """Connections of one process to one database; a forked child has to open its own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._pid = os.getpid()
        self._idle: list[DeadlineConnection] = []
        self._guard = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def connection(self) -> Iterator[DeadlineConnection]:
        """Borrow an autocommit connection. A broken connection is closed afterwards."""
        if os.getpid() != self._pid:
            raise ConfigError(
                "this Database belongs to the parent of a forked process; "
                "call agentrun.connect() again in the child"
            )
        with self._guard:
            conn = self._idle.pop() if self._idle else None
        if conn is None or conn.closed:
            conn = open_connection(self.dsn)
        try:
            yield conn
        finally:
            usable = not conn.closed and conn.info.transaction_status == 0
            with self._guard:
                keep = usable and len(self._idle) < _IDLE and not self._closed
                if keep:
                    self._idle.append(conn)
            if not keep:
                conn.close()

    def query(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Execute a named statement of `queries.sql` and return its rows.

        While the database is away this waits, and logs that it waits.
        """

        def run() -> list[dict[str, Any]]:
            with self.connection() as conn:
                if name not in points.COMMITS:
                    return _rows(conn.execute(QUERIES[name], parameters))
                points.reach(name, "before")
                rows = _rows(conn.execute(QUERIES[name], parameters))
                points.reach(name, "after")
                return rows

        return self._patiently(run)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Repeat the action until it returns, or fails for a reason that does not pass."""
        for attempt in retry_attempts():
            try:
                return action()
            except psycopg.errors.InsufficientPrivilege as error:
                raise ConfigError(
                    f"the database refuses this login: {str(error).strip()}. `agentrun roles` shows"
                    " which role each login has, `agentrun roles grant ROLE LOGIN` gives one"
                ) from error
            except psycopg.Error as error:
                if not is_transient(error) or self._closed:
                    raise
                if not isinstance(error, RETRY_AT_ONCE):
                    log_waiting("database", error, attempt)
        raise AssertionError("unreachable: retry_attempts never ends")

    def _close_idle(self) -> None:
        """Close the idle connections; those that are lent now are closed when they come back."""
        with self._guard:
            idle, self._idle, self._closed = self._idle, [], True
        for conn in idle:
            conn.close()

    def __del__(self) -> None:
        # A forked child has a copy of this pool. To close it would end the parent's sessions.
        if os.getpid() == getattr(self, "_pid", None):
            for conn in self._idle:
                conn.close()


def _rows(cursor: psycopg.Cursor[Any]) -> list[dict[str, Any]]:
    result = cursor.pgresult  # not `cursor.description`, which psycopg builds on every access
    return cursor.fetchall() if result is not None and result.nfields else []
