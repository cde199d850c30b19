"""Looks at a database that change nothing: an auditor's own SQL, and how the database is.

Neither needs the schema to be current, nor a primary: an audit may read a standby.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from statistics import median
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from agentrun.core.errors import AgentrunError, SchemaMismatch, StoreUnavailable
from agentrun.store import migrate
from agentrun.store.connection import DeadlineConnection, connect, explain_refusal
from agentrun.store.sql import QUERIES

__all__ = ["TIMEOUT", "Answer", "Health", "asking", "examine", "wake_delay"]

TIMEOUT = 30  # seconds a query may take
_STUCK = 20  # runs that are named
_GRACE = 5.0  # seconds more until its connection is given up: the server should end it first


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave; ``rows`` come from the server as they are read.

    Without rows the columns are not known.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


@contextlib.contextmanager
def asking(dsn: str, query: str) -> Iterator[Answer]:
    """One statement in a read-only transaction, which is rolled back whatever it did.

    Raises:
        StoreUnavailable: the server cannot be reached, or the connection was lost.
        AgentrunError: the statement is wrong, would write, or took longer than `TIMEOUT`.
    """
    with _opened(dsn, TIMEOUT + _GRACE) as conn, _translated():
        conn.autocommit, conn.read_only = False, True  # closed without a commit
        cursor = conn.cursor(row_factory=tuple_row)
        # With a snapshot taken, no statement can make the transaction read-write again.
        cursor.execute(QUERIES["audit"], {"timeout": f"{TIMEOUT}s"})
        # By the extended protocol, which takes a single statement: none can end the
        # transaction and go on. Closed first, as a stream holds its connection's lock.
        with contextlib.closing(_stream(cursor, query)) as rows:
            first = list(islice(rows, 1))  # only then are the columns known
            columns = tuple(column.name for column in cursor.description or ())
            yield Answer(columns, chain(first, rows))


def _stream(
    cursor: psycopg.Cursor[tuple[Any, ...]], query: str
) -> Generator[tuple[Any, ...], None, None]:
    yield from cursor.stream(query.encode())


@contextlib.contextmanager
def _opened(dsn: str, deadline: float) -> Iterator[DeadlineConnection]:
    try:
        conn = connect(dsn, deadline=deadline, ours=False)
    except psycopg.OperationalError as error:
        raise explain_refusal(error, dsn) from error
    with contextlib.closing(conn):
        yield conn


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except errors.ReadOnlySqlTransaction as error:
        raise AgentrunError(f"queries here only read: {_text(error)}") from error
    except errors.QueryCanceled as error:
        raise AgentrunError(f"the query took longer than {TIMEOUT} s: {_text(error)}") from error
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"the database went away: {_text(error)}") from error
    except psycopg.Error as error:
        if error.sqlstate is None:  # psycopg's own, about BEGIN, COPY and the like
            raise AgentrunError("this is no query: it gives no rows") from error
        raise AgentrunError(f"the query failed: {_text(error)}") from error


def _text(error: psycopg.Error) -> str:
    return str(error).strip()


# -- how the database is ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """What `agentrun doctor` reports. ``census`` is None, and ``stuck`` empty, without a current
    schema."""

    version: str
    synchronous_commit: str
    standby: bool
    pooled: bool  # it is reached through a pooler
    schema: str  # current, older, newer, missing; else what is wrong with it
    clock_ahead: float  # seconds by which the database's clock is ahead of ours
    census: dict[str, Any] | None
    vacuum: list[dict[str, Any]]  # of each table: dead and live rows, and whether autovacuum is on
    oldest: dict[str, Any] | None  # the transaction that holds vacuum back most: seconds, and whose
    stuck: list[dict[str, Any]]  # runs that will not go on by themselves, longest first


def examine(dsn: str) -> Health:
    """Look at a database, change nothing. Raises StoreUnavailable or ConfigError."""
    with _opened(dsn, 15.0) as conn, _translated():
        sent, began = time.time(), time.monotonic()
        server = conn.execute(QUERIES["server"]).fetchone()
        took = time.monotonic() - began
        assert server is not None
        try:
            schema: str = migrate.state(conn) or "missing"
        except SchemaMismatch as error:
            schema = str(error)
        census, stuck = None, []
        if schema == "current":
            census = conn.execute(QUERIES["census"]).fetchone()
            stuck = conn.execute(QUERIES["stuck"], {"key": None, "limit": _STUCK}).fetchall()
        vacuum = conn.execute(QUERIES["vacuum"]).fetchall()
        oldest = conn.execute(QUERIES["oldest"]).fetchone()
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
    )


def wake_delay(naps: int = 100, nap: float = 0.002) -> tuple[float, float]:
    """How late this process's threads wake, in seconds: the median of some naps, and the worst.

    What a thread waits for is the processor and the interpreter's lock. Every append waits as
    long: a thread that computes without a pause makes the steps of all others late.
    """
    late = []
    for _ in range(naps):
        began = time.perf_counter()
        time.sleep(nap)
        late.append(time.perf_counter() - began - nap)
    return median(late), max(late)
