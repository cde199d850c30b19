"""Connections on which every wait has a deadline, and the classification of their errors.

A dead socket reports no error. Without a client-side deadline a call may wait for ever, and no
server setting helps: `statement_timeout` needs a server that can be reached. psycopg waits in one
method, `Connection.wait`, so the deadline is enforced there.

A pooler may serve each transaction by another session of the server. So no statement is prepared
through a pooler: the next session may not know its name, or, worse, know it for another statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors, waiting
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from agentrun.core.errors import ConfigError, Refusing, StoreUnavailable
from agentrun.store.patience import PROCESS, current
from agentrun.store.revival import revive
from agentrun.store.sql import QUERIES

T = TypeVar("T")

CALL_DEADLINE = 15.0  # seconds that a database call may take before its connection is closed
CONNECT_TIMEOUT = 5  # seconds

# Failures after which the same statement may succeed: a lost or refused connection; a server that
# starts, stops, became a standby, or ran out of space or connections; a lock timeout; a
# serialization failure; a transaction that was idle for too long. After any other failure the same
# statement would fail again.
_TRANSIENT = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)
RETRY_AT_ONCE = (errors.SerializationFailure, errors.DeadlockDetected)


def is_transient(error: BaseException) -> bool:
    """Whether the same statement can succeed later."""
    # Class 54: the statement exceeds a limit of the server, which does not pass.
    too_large = isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("54")
    return isinstance(error, _TRANSIENT) and not too_large


class DeadlineConnection(psycopg.Connection[Any]):
    """A psycopg connection on which no call waits longer than ``deadline`` seconds."""

    deadline: float = CALL_DEADLINE
    pooled: bool = False  # behind a pooler: another session answers than the one that connected

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is not None:  # the caller goes on after its own timeout, as `notifies` does
            return super().wait(gen, interval, timeout)
        patience = current.get()
        PROCESS.begin(self)
        if patience is not PROCESS:
            patience.begin(self)
        try:
            return waiting.wait(gen, self.pgconn.socket, interval, self.deadline)
        except errors._WaitTimeout as error:
            raise _close_silent(self, self.deadline) from error
        except KeyboardInterrupt:
            _cancel(self, gen)
            raise
        finally:
            PROCESS.end(self)
            patience.end(self)


def _cancel(conn: psycopg.Connection[Any], gen: Any) -> None:
    """After Ctrl-C, cancel the statement in the server within two seconds, or else disconnect."""
    if conn.info.transaction_status != TransactionStatus.ACTIVE:
        return
    try:
        conn.cancel_safe(timeout=1.0)
        waiting.wait(gen, conn.pgconn.socket, timeout=1.0)
    except errors.QueryCanceled:
        pass
    except BaseException:
        conn.pgconn.finish()  # the state of the connection is unknown


def _close_silent(conn: psycopg.BaseConnection[Any], deadline: float) -> psycopg.OperationalError:
    """Close a connection whose deadline has passed, and return the error to raise."""
    # The server may still execute the statement, so the connection cannot be used again.
    conn.pgconn.finish()
    return psycopg.OperationalError(f"no answer from the database within {deadline:g} s")


def connect(dsn: str, *, deadline: float = CALL_DEADLINE, ours: bool = True) -> DeadlineConnection:
    """Open an autocommit connection that returns rows as dicts.

    ``ours`` says that it only executes statements of `queries.sql`. Settings of the role or the
    database that change the meaning or the results of statements are reset on the connection.

    Raises:
        psycopg.OperationalError: the server cannot be reached or refuses.
    """
    conn = _open_reviving(
        dsn,
        lambda: DeadlineConnection.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="agentrun",
            client_encoding="UTF8",
        ),
    )
    conn.deadline = deadline
    # A transaction that waited for a lock must see what was committed meanwhile, whatever the
    # database's default isolation level is.
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    try:
        backend = conn.execute(QUERIES["backend"], prepare=False).fetchone()
        assert backend is not None
        conn.pooled = backend["pid"] != conn.info.backend_pid
        if conn.pooled:
            conn.prepare_threshold = None
        elif ours:
            conn.execute(QUERIES["plan_once"], prepare=False)
    except BaseException:
        conn.close()
        raise
    return conn


def _open_reviving(dsn: str, open_: Callable[[], T]) -> T:
    """Open a connection. If it leads to our embedded server, and that is dead, start the server
    and try once more."""
    try:
        return open_()
    except psycopg.OperationalError as error:
        if not revive(dsn, error):
            raise
    return open_()


def is_lost(conn: psycopg.BaseConnection[Any], error: BaseException) -> bool:
    """Whether the error ended the connection, and so the transaction on it."""
    ended = isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("57P")
    return ended or conn.broken


def is_short(error: BaseException) -> bool:
    """Whether the server is out of disk space or connections, which passes.

    Not if it is out of memory or locks, or at the limit for temporary files: the same statement
    would exceed them again.
    """
    return isinstance(error, errors.DiskFull | errors.TooManyConnections)


def explain_refusal(error: psycopg.OperationalError, dsn: str) -> Exception:
    """The error to raise when the first connection fails. It does not contain the password."""
    target = describe(dsn)
    text = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
    refused = (
        "authentication failed",
        "no password supplied",
        "does not exist",
        "no such user",
        "no such database",
    )
    if any(part in text for part in refused):
        return ConfigError(
            f"Postgres at {target} refused the login: {text}. "
            "Correct the DSN given to agentrun.connect() or AGENTRUN_DATABASE_URL."
        )
    return StoreUnavailable(
        f"Postgres at {target} cannot be reached: {text}. Start it, or correct the DSN given to "
        "agentrun.connect() or AGENTRUN_DATABASE_URL."
    )


def describe(dsn: str) -> str:
    """Host, port and database of a DSN, without user name or password."""
    try:
        info = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            "the database DSN cannot be read; expected something like "
            "postgresql://USER@HOST:5432/DATABASE, with :PASSWORD after USER if it needs one"
        ) from error
    host = info.get("host") or "the default host"
    port = f":{info['port']}" if "port" in info else ""
    return f"{host}{port}, database {info.get('dbname') or '(default)'}"


# -- the connection for the body of a `transaction` tool -------------------------------------------


class _Lent:
    """While the connection is lent to a tool, commit and rollback are refused, and SQL has no
    deadline."""

    lent: bool = False
    deadline: float = CALL_DEADLINE  # seconds, for agentrun's own calls on the connection

    def _refuse(self) -> None:
        if self.lent:
            raise Refusing(
                "a `transaction` tool must not commit or roll back current_step().connection: it "
                "commits together with the step's checkpoint; raise an exception to roll back"
            )


class ToolConnection(_Lent, DeadlineConnection):
    """A connection for the body of a sync `transaction` tool."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if self.lent:
            return psycopg.Connection.wait(self, gen, interval, timeout)
        return super().wait(gen, interval, timeout)

    def commit(self) -> None:
        self._refuse()
        super().commit()

    def rollback(self) -> None:
        self._refuse()
        super().rollback()


class AsyncToolConnection(_Lent, psycopg.AsyncConnection[Any]):
    """A connection for the body of an async `transaction` tool."""

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        limit = timeout if self.lent or timeout is not None else self.deadline
        try:
            return await super().wait(gen, interval, limit)
        except errors._WaitTimeout as error:
            raise _close_silent(self, self.deadline) from error

    async def commit(self) -> None:
        self._refuse()
        await super().commit()

    async def rollback(self) -> None:
        self._refuse()
        await super().rollback()


# A tool's SQL has no deadline, so TCP keepalives detect a dead peer, within 30 seconds. Statements
# are not prepared, since to find out whether there is a pooler would take a round trip a body.
_FOR_TOOLS: dict[str, Any] = {
    "application_name": "agentrun tool",  # the database accepts no decisions from such a session
    "prepare_threshold": None,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}


def open_transaction(dsn: str) -> ToolConnection:
    """Open a connection on which the first statement begins a transaction."""
    return _open_reviving(
        dsn, lambda: ToolConnection.connect(dsn, connect_timeout=CONNECT_TIMEOUT, **_FOR_TOOLS)
    )


async def open_transaction_async(dsn: str) -> AsyncToolConnection:
    """The async twin of `open_transaction`."""
    try:
        return await AsyncToolConnection.connect(dsn, connect_timeout=CONNECT_TIMEOUT, **_FOR_TOOLS)
    except psycopg.OperationalError as error:
        if not await asyncio.to_thread(revive, dsn, error):
            raise
    return await AsyncToolConnection.connect(dsn, connect_timeout=CONNECT_TIMEOUT, **_FOR_TOOLS)
