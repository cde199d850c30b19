"""Read-only access to a database: an auditor's own SQL, and the health of the database.

Neither needs a current schema or a primary server: an audit may read a standby.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from statistics import median
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import class_row, tuple_row

from agentrun.core.errors import AgentrunError, SchemaMismatch, StoreUnavailable
from agentrun.store import migrate
from agentrun.store.connection import DeadlineConnection, connect, explain_refusal
from agentrun.store.runs import StuckRun
from agentrun.store.sql import QUERIES

__all__ = [
    "TIMEOUT",
    "Health",
    "QueryResult",
    "describe_relation",
    "examine",
    "list_names",
    "list_relations",
    "open_connection",
    "read_only_query",
    "wake_delay",
]

TIMEOUT = 30  # seconds a query may take
_STUCK = 20  # the most stuck runs that are listed
_NO_ROWS = re.compile(r"COPY|produce a result")  # how psycopg refuses what is no query
_GRACE = 5.0  # seconds after TIMEOUT until the connection is closed: the server should be first


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The result of a query. The ``rows`` are fetched from the server while they are read."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]
    is_empty: bool = False  # there is no row


@contextlib.contextmanager
def read_only_query(
    dsn: str, query: str, parameters: Sequence[Any] = (), *, timeout: float = TIMEOUT
) -> Iterator[QueryResult]:
    """Execute one statement in a read-only transaction, which is always rolled back.

    The ``parameters`` are the values of the placeholders ``%s``. Without parameters, ``%`` in the
    query is an ordinary character. ``timeout`` is in seconds.

    Raises:
        StoreUnavailable: the server cannot be reached, or the connection was lost.
        AgentrunError: the statement is wrong, would write, or took longer than ``timeout``.
    """
    with open_connection(dsn, timeout + _GRACE) as conn, _translate_errors(timeout):
        conn.autocommit, conn.read_only = False, True  # closed without a commit
        cursor = conn.cursor(row_factory=tuple_row)
        # This takes a snapshot. After that no statement can make the transaction read-write.
        cursor.execute(QUERIES["audit"], {"timeout": f"{round(timeout * 1000)}ms"})
        if cursor.execute(QUERIES["present"], {"relations": ["roles"]}).fetchone():
            cursor.execute(QUERIES["be_reader"])
        # A stream uses the extended protocol, which accepts one statement only. So the query cannot
        # end the transaction and go on. The stream is closed before its connection, since it holds
        # the connection's lock.
        with contextlib.closing(_stream(cursor, query, parameters)) as rows:
            first = list(islice(rows, 1))  # the columns are known after the first row
            columns = tuple(column.name for column in cursor.description or ())
            if not first:
                columns = _describe_last(conn)
            yield QueryResult(columns, chain(first, rows), not first)


def list_relations(dsn: str) -> QueryResult:
    """The tables and views of the schema, and what each of them holds."""
    return _catalogue(dsn, "relations", {})


def describe_relation(dsn: str, name: str) -> QueryResult | None:
    """The columns of a table or view of the schema; None if there is no such relation."""
    found = _catalogue(dsn, "relation_columns", {"name": name})
    first = next(found.rows, None)
    return None if first is None else QueryResult(found.columns, chain([first], found.rows))


def list_names(dsn: str) -> list[str]:
    """The names of the relations and of their columns, for completion."""
    return [str(row[0]) for row in _catalogue(dsn, "catalogue_names", {}).rows]


def _catalogue(dsn: str, statement: str, parameters: dict[str, Any]) -> QueryResult:
    with open_connection(dsn, TIMEOUT + _GRACE) as conn, _translate_errors():
        cursor = conn.cursor(row_factory=tuple_row)
        rows = cursor.execute(QUERIES[statement], parameters).fetchall()
        return QueryResult(tuple(column.name for column in cursor.description or ()), iter(rows))


def _stream(
    cursor: psycopg.Cursor[tuple[Any, ...]], query: str, parameters: Sequence[Any]
) -> Generator[tuple[Any, ...], None, None]:
    # With an empty sequence psycopg would still read % as a placeholder.
    yield from cursor.stream(query.encode(), parameters or None)


def _describe_last(conn: DeadlineConnection) -> tuple[str, ...]:
    """The columns of the last statement. The server keeps it as the statement without a name."""
    described = conn.pgconn.describe_prepared(b"")
    names = (described.fname(number) or b"" for number in range(described.nfields))
    return tuple(name.decode() for name in names)


@contextlib.contextmanager
def open_connection(dsn: str, deadline: float) -> Iterator[DeadlineConnection]:
    """Open a connection for the block. Raises StoreUnavailable or ConfigError if that fails."""
    try:
        conn = connect(dsn, deadline=deadline, ours=False)
    except psycopg.OperationalError as error:
        raise explain_refusal(error, dsn) from error
    with contextlib.closing(conn):
        yield conn


@contextlib.contextmanager
def _translate_errors(timeout: float = TIMEOUT) -> Iterator[None]:
    try:
        yield
    except errors.ReadOnlySqlTransaction as error:
        raise AgentrunError(f"queries here only read: {_text(error)}") from error
    except errors.QueryCanceled as error:
        raise AgentrunError(f"the query took longer than {timeout:g} s: {_text(error)}") from error
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"the database went away: {_text(error)}") from error
    except psycopg.Error as error:
        # psycopg itself refuses BEGIN, COPY and the like, and parameters that do not fit.
        if error.sqlstate is None and _NO_ROWS.search(str(error)):
            raise AgentrunError("this is no query: it returns no rows") from error
        raise AgentrunError(f"the query failed: {_text(error)}") from error


def _text(error: psycopg.Error) -> str:
    return str(error).strip()


# -- the health of the database --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """The report of `agentrun doctor`. Without a current schema, ``census`` is None and ``stuck``
    is empty."""

    version: str
    synchronous_commit: str
    standby: bool
    pooled: bool  # the connection goes through a pooler
    schema: str  # current, older, newer or missing; otherwise the error
    clock_ahead: float  # seconds by which the database's clock is ahead of ours
    census: dict[str, Any] | None
    vacuum: list[dict[str, Any]]  # by table: dead and live rows, and whether autovacuum is on
    oldest: dict[str, Any] | None  # the transaction that holds vacuum back: age and session
    stuck: list[StuckRun]  # runs that will not go on by themselves, longest first
    user: str  # the login of this connection
    superuser: bool
    reads_as: str | None  # the role that queries of `agentrun sql` run as, if there is one
    verified: bool  # the server proved its identity, or the connection uses no network


def examine(dsn: str) -> Health:
    """Examine a database and change nothing. Raises StoreUnavailable or ConfigError."""
    with open_connection(dsn, 15.0) as conn, _translate_errors():
        sent, began = time.time(), time.monotonic()
        server = conn.execute(QUERIES["server"]).fetchone()
        took = time.monotonic() - began
        assert server is not None
        try:
            schema: str = migrate.state(conn) or "missing"
        except SchemaMismatch as error:
            schema = str(error)
        census: dict[str, Any] | None = None
        stuck: list[StuckRun] = []
        if schema == "current":
            census = conn.execute(QUERIES["census"]).fetchone()
            runs = conn.cursor(row_factory=class_row(StuckRun))
            stuck = runs.execute(QUERIES["stuck"], {"key": None, "limit": _STUCK}).fetchall()
        vacuum = conn.execute(QUERIES["vacuum"]).fetchall()
        oldest = conn.execute(QUERIES["oldest"]).fetchone()
        login = conn.execute(QUERIES["login"]).fetchone()
        assert login is not None
        reader = _reader(conn)
        verified = _is_verified(conn)
    ours = datetime.fromtimestamp(sent + took / 2, UTC)
    return Health(
        version=server["version"],
        synchronous_commit=server["synchronous_commit"],
        standby=server["standby"],
        pooled=conn.pooled,
        schema=schema,
        clock_ahead=(server["now"] - ours).total_seconds(),
        census=census,
        vacuum=vacuum,
        oldest=oldest,
        stuck=stuck,
        user=login["name"],
        superuser=login["superuser"],
        reads_as=reader,
        verified=verified,
    )


def _reader(conn: DeadlineConnection) -> str | None:
    if not conn.execute(QUERIES["present"], {"relations": ["roles"]}).fetchone():
        return None
    with conn.transaction():
        role = conn.execute(QUERIES["be_reader"]).fetchone()
        return None if role is None else str(role["set_config"])


def _is_verified(conn: DeadlineConnection) -> bool:
    """Whether the connection is local, or uses TLS and verifies the server's certificate."""
    host = conn.info.host
    if not host or host.startswith("/") or host in ("localhost", "127.0.0.1", "::1"):
        return True
    modes = [option.val for option in conn.pgconn.info if option.keyword == b"sslmode"]
    return conn.pgconn.ssl_in_use and modes in ([b"verify-ca"], [b"verify-full"])


def wake_delay(naps: int = 100, nap: float = 0.002) -> tuple[float, float]:
    """Measure how late the threads of this process wake, in seconds: the median, and the worst.

    A thread that wakes waits for the processor and for the interpreter's lock. Every append waits
    as long. So one thread that computes without a pause delays the steps of all other threads.
    """
    late = []
    for _ in range(naps):
        began = time.perf_counter()
        time.sleep(nap)
        late.append(time.perf_counter() - began - nap)
    return median(late), max(late)
