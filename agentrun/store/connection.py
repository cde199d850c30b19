"""Connections whose every wait has a deadline, and which errors mean what.

A dead socket gives no error: without a client-side deadline a call may wait for ever, and no
server setting helps (`statement_timeout` needs a server that is reached). psycopg waits in one
place, `Connection.wait`, so the deadline is put there.

A pooler may serve each transaction by another session of the server. So nothing is prepared through
one: names that this session has not, or, worse, has for another statement, are no names.
"""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.rows import dict_row

from agentrun.core.errors import ConfigError, StoreUnavailable
from agentrun.store.sql import QUERIES

RV = TypeVar("RV")

CALL_DEADLINE = 15.0  # seconds any one database call may take before its connection is given up
CONNECT_TIMEOUT = 5  # seconds

# Failures after which the same statement may succeed: a lost or refused connection, a server
# that starts, stops, became a standby or ran out of space or connections, a lock not had in
# time, a serialization failure, a transaction that was idle for too long. Whatever else fails would
# fail again.
_TRANSIENT = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)
RETRY_AT_ONCE = (errors.SerializationFailure, errors.DeadlockDetected)


def is_transient(error: BaseException) -> bool:
    """Whether sending the same again can succeed once the world has changed."""
    too_large = isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("54")
    return isinstance(error, _TRANSIENT) and not too_large  # a limit of the server's for good


class DeadlineConnection(psycopg.Connection[Any]):
    """A psycopg connection on which no call waits longer than ``deadline`` seconds."""

    deadline: float = CALL_DEADLINE
    pooled: bool = False  # the session that answers is not the one we were told of at the start

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is not None:  # of a caller who goes on after it, such as `notifies`
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.deadline)
        except errors._WaitTimeout as error:
            raise _given_up(self, self.deadline) from error


def _given_up(conn: psycopg.BaseConnection[Any], deadline: float) -> psycopg.OperationalError:
    # The server may still be at it: nothing on this connection can be trusted again.
    conn.pgconn.finish()
    return psycopg.OperationalError(f"no answer from the database within {deadline:g} s")


def connect(dsn: str, *, deadline: float = CALL_DEADLINE, ours: bool = True) -> DeadlineConnection:
    """Open an autocommit connection that returns rows as dicts; ``ours``: for our statements only.

    Raises:
        psycopg.OperationalError: the server cannot be reached or refuses.
    """
    conn = DeadlineConnection.connect(
        dsn,
        autocommit=True,
        row_factory=dict_row,
        connect_timeout=CONNECT_TIMEOUT,
        application_name="agentrun",
    )
    conn.deadline = deadline
    # Its transactions look at what a lock has let them wait for, whatever the database's default.
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


def is_lost(conn: psycopg.BaseConnection[Any], error: BaseException) -> bool:
    """Whether ``error`` means the end of ``conn``, and so of the transaction on it."""
    ended = isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("57P")
    return ended or conn.broken


def is_short(error: BaseException) -> bool:
    """Whether the server is out of space or connections: for a while, and not by this statement.

    Out of memory, of locks or beyond a limit on temporary files, the same would be so again.
    """
    return isinstance(error, errors.DiskFull | errors.TooManyConnections)


def explain_refusal(error: psycopg.OperationalError, dsn: str) -> Exception:
    """The error to raise when the very first connection fails; never shows the password."""
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
        info = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            "the database DSN cannot be read; expected something like "
            "postgresql://user:password@host:5432/database"
        ) from error
    host = info.get("host") or "the default host"
    port = f":{info['port']}" if "port" in info else ""
    return f"{host}{port}, database {info.get('dbname') or '(default)'}"


# -- the connection a `transaction` tool works on -------------------------------------------------


class _Lent:
    """While a tool has it, the transaction is not the tool's to end, and its SQL may take long."""

    lent: bool = False
    deadline: float = CALL_DEADLINE  # seconds, for our own calls on it

    def _refuse(self) -> None:
        if self.lent:
            raise ConfigError(
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
            raise _given_up(self, self.deadline) from error

    async def commit(self) -> None:
        self._refuse()
        await super().commit()

    async def rollback(self) -> None:
        self._refuse()
        await super().rollback()


# A tool's SQL has no deadline, so that a dead peer is noticed by the network: within 30 seconds. On
# a connection for one body nothing is prepared: whether it may be would take a round trip.
_FOR_TOOLS: dict[str, Any] = {
    "prepare_threshold": None,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}


def open_transaction(dsn: str) -> ToolConnection:
    """Open a connection on which the first statement begins a transaction."""
    return ToolConnection.connect(dsn, connect_timeout=CONNECT_TIMEOUT, **_FOR_TOOLS)


async def open_transaction_async(dsn: str) -> AsyncToolConnection:
    """The async twin of `open_transaction`."""
    return await AsyncToolConnection.connect(dsn, connect_timeout=CONNECT_TIMEOUT, **_FOR_TOOLS)
