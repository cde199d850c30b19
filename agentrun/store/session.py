"""The lowest layer of the store: connections, named statements, and patience.

Every function of the store that reads or writes takes a `Session`. Its statements wait while the
database is away, so no caller has to retry.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import psycopg
from psycopg.rows import RowFactory, class_row, dict_row

from agentrun.core import points
from agentrun.core.errors import ConfigError
from agentrun.core.secrets import Masker, mask
from agentrun.store.blobs import Blobs
from agentrun.store.connection import RETRY_AT_ONCE, DeadlineConnection, is_transient
from agentrun.store.connection import connect as open_connection
from agentrun.store.patience import log_waiting, retry_attempts
from agentrun.store.sql import QUERIES

__all__ = ["Session"]

T = TypeVar("T")
R = TypeVar("R")

_IDLE = 4  # connections kept open for reads


class Session:
    """One process's access to one database; a forked child has to open its own."""

    def __init__(self, dsn: str, blobs: Blobs | None = None) -> None:
        self.dsn = dsn
        self.blobs = blobs  # where large values are stored; None: in the database
        self._pid = os.getpid()
        self._idle: list[DeadlineConnection] = []
        self._guard = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether this session was closed in this process."""
        return self._closed

    @cached_property
    def mask_key(self) -> bytes:
        """The key for this database's masks and fingerprints. Raises ConfigError if denied."""
        (row,) = self.query("mask_key")
        return bytes(row["key"])

    @cached_property
    def mask(self) -> Masker:
        """The masker for values of this database that people see."""
        return mask.under(self.mask_key)

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
        """Execute a named statement of `queries.sql` and return its rows as dicts.

        While the database is away this waits, and logs that it waits.
        """
        return self._execute(name, parameters, dict_row)

    def rows(self, kind: type[R], name: str, **parameters: Any) -> list[R]:
        """Like `query`, with each row as an object of this class, whose fields are the columns."""
        return self._execute(name, parameters, class_row(kind))

    def now(self) -> datetime:
        """The time by the database's clock, on which all processes agree."""
        (row,) = self.query("now")
        now: datetime = row["now"]
        return now

    def _execute(self, name: str, parameters: dict[str, Any], factory: RowFactory[R]) -> list[R]:
        def execute(conn: DeadlineConnection) -> list[R]:
            writes = name in points.COMMITS
            if writes:
                points.reach(name, "before")
            cursor = conn.execute(QUERIES[name], parameters)
            cursor.row_factory = factory
            # Not `cursor.description`, which psycopg builds on every access.
            result = cursor.pgresult
            rows = cursor.fetchall() if result is not None and result.nfields else []
            if writes:
                points.reach(name, "after")
            return rows

        return self.on_connection(execute)

    def on_connection(self, action: Callable[[DeadlineConnection], T]) -> T:
        """Call ``action`` with a connection, and again after each failure that passes."""

        def act() -> T:
            with self.connection() as conn:
                return action(conn)

        return self.patiently(act)

    def patiently(self, action: Callable[[], T]) -> T:
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

    def close(self) -> None:
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
