"""Batches of rows, and a connection that sends them until it is known what became of each."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg import errors
from psycopg.rows import scalar_row

from agentrun.core import points
from agentrun.core.errors import LeaseLost
from agentrun.core.log import logger, now_and_then
from agentrun.core.state import status_after
from agentrun.store.arrays import UUIDS
from agentrun.store.connection import (
    RETRY_AT_ONCE,
    DeadlineConnection,
    connect,
    is_transient,
)
from agentrun.store.outcome import refusals, settled
from agentrun.store.rows import Row, as_text, columns, payload_columns
from agentrun.store.sql import QUERIES, numbered

__all__ = ["Batch", "Sender", "append", "append_async", "append_plain", "patiently", "wait_for"]

T = TypeVar("T")


@dataclass(eq=False)
class Batch:
    """Rows of several runs, in order, under one nonce; never changed once sent."""

    rows: list[Row]
    nonce: UUID = field(default_factory=uuid4)

    @cached_property
    def runs(self) -> set[UUID]:
        """The runs that have rows in the batch."""
        return {row.run_id for row in self.rows}

    def heads(self) -> dict[UUID, int]:
        """The first seq of each run in the batch."""
        heads: dict[UUID, int] = {}
        for row in self.rows:
            heads.setdefault(row.run_id, row.seq)
        return heads

    def is_plain(self) -> bool:
        """Whether `append_plain` can send it."""
        if not 0 < len(self.rows) <= 2:
            return False
        first = self.rows[0]
        for seq, row in enumerate(self.rows, first.seq):
            same = row.run_id is first.run_id and row.epoch == first.epoch and row.seq == seq
            if not same or row.payloads or status_after(row.event) is not None:
                return False
        return True

    def parameters(self) -> dict[str, object]:
        payloads = [(row.run_id, payload) for row in self.rows for payload in row.payloads]
        return {
            **columns(self.rows),
            **payload_columns([payload for _, payload in payloads]),
            "payload_run": UUIDS([run_id for run_id, _ in payloads]),
            "batch": self.nonce,
        }

    def in_order(self) -> list[object]:
        """The append statement's parameters, as `sql.numbered` counts them."""
        parameters = self.parameters()
        return [parameters[name] for name in _APPENDED]

    def plainly(self) -> list[str | None]:
        """The parameters of `append_plain`, of a plain batch."""
        first, rows = self.rows[0], [as_text(row) for row in self.rows]
        given = [str(first.run_id), str(first.seq), str(first.epoch), first.worker, str(self.nonce)]
        return [*given, *rows[0], *rows[-1], str(len(rows))]


_APPEND, _APPENDED = numbered(QUERIES["append"])
_APPEND_PLAIN, _ = numbered(QUERIES["append_plain"])


def append_plain(conn: psycopg.Connection[Any], batch: Batch) -> set[UUID]:
    """`append` for a plain batch, on a connection in autocommit: a refusal is an error there."""
    try:
        inserted = psycopg.RawCursor(conn).execute(_APPEND_PLAIN, batch.plainly()).rowcount
    except errors.UniqueViolation:
        return set()
    return batch.runs if inserted else set()


def append(conn: psycopg.Connection[Any], batch: Batch) -> set[UUID]:
    """Send a batch once; return the runs whose rows are in. The others' were refused whole."""
    cursor = psycopg.RawCursor(conn, row_factory=scalar_row)
    return set(cursor.execute(_APPEND, batch.in_order()))


async def append_async(conn: psycopg.AsyncConnection[Any], batch: Batch) -> set[UUID]:
    """`append` on an async connection, for async `transaction` tools."""
    cursor = psycopg.AsyncRawCursor(conn, row_factory=scalar_row)
    return set(await (await cursor.execute(_APPEND, batch.in_order())).fetchall())


class Sender:
    """A connection that sends batches until their outcome is known, however often it breaks."""

    def __init__(
        self,
        dsn: str,
        what: str = "append",  # the name of its commits in `core.points`
        *,
        connection: Callable[[str], DeadlineConnection] = connect,
    ) -> None:
        self._dsn = dsn
        self._what = what
        self._connect = connection
        self._conn: DeadlineConnection | None = None

    def send(self, batch: Batch) -> set[UUID]:
        """Return the runs whose rows are in.

        Waits as long as the database is away, and says so; raises what is wrong with the rows
        when they can never be sent (struct.error) or the database refuses them (psycopg.Error).
        """
        plain = batch.is_plain()
        return self._until_answered(lambda conn: self._send(conn, batch, plain))

    def _send(self, conn: DeadlineConnection, batch: Batch, plain: bool) -> set[UUID]:
        points.reach(self._what, "before")
        accepted = (append_plain if plain else append)(conn, batch)
        points.reach(self._what, "after")
        # A run may be refused because an earlier sending of this very batch is in: one whose
        # answer was lost, or that Ctrl-C interrupted in another waiter's hands.
        return accepted if accepted == batch.runs else accepted | settled(conn, batch)

    def refusals(self, batch: Batch, runs: set[UUID]) -> dict[UUID, LeaseLost]:
        """Why these runs of a batch that was sent are not in. Waits as `send` does."""
        return self._until_answered(lambda conn: refusals(conn, batch, runs)) if runs else {}

    def _until_answered(self, ask: Callable[[DeadlineConnection], T]) -> T:
        for attempt in patiently():
            try:
                return ask(self.connection())
            except RETRY_AT_ONCE:
                continue  # the whole statement was rolled back; it decides anew
            except Exception as error:
                if not is_transient(error):
                    raise
                self._gone(error, attempt)
        raise AssertionError("unreachable: patience has no end")

    def settled(self, batch: Batch) -> set[UUID]:
        """The runs of which this very batch is in the journal."""
        return settled(self.connection(), batch)

    def connection(self) -> DeadlineConnection:
        """The open connection, or a new one."""
        if self._conn is None or self._conn.closed:
            self._conn = self._connect(self._dsn)
        return self._conn

    def _gone(self, error: Exception, attempt: int) -> None:
        wait_for("database", error, attempt)
        self.close()

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(Exception):
                conn.close()


def wait_for(what: str, error: Exception, attempt: int) -> None:
    """Say now and then what is waited for."""
    if now_and_then(attempt):
        logger.warning("waiting for the %s: %s", what, str(error).strip() or type(error))


def patiently() -> Iterable[int]:
    """Count attempts, sleeping longer between them, with jitter, up to about a second."""
    for attempt in count():
        yield attempt
        time.sleep(min(1.0, 0.01 * 2 ** min(attempt, 7)) * random.uniform(0.5, 1.0))
