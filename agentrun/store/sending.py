"""Batches of journal rows, and a connection that sends a batch until its outcome is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg import errors
from psycopg.rows import scalar_row

from agentrun.core import points
from agentrun.core.errors import LeaseLost
from agentrun.core.state import status_after
from agentrun.core.summary import is_summed
from agentrun.store.arrays import UUIDS
from agentrun.store.batch_outcomes import explain_refusals, stored_runs
from agentrun.store.connection import RETRY_AT_ONCE, DeadlineConnection, connect, is_transient
from agentrun.store.exact_values import exact_columns
from agentrun.store.patience import log_waiting, retry_attempts
from agentrun.store.rows import Row, as_text, columns, payload_columns
from agentrun.store.sql import QUERIES, numbered

__all__ = [
    "Batch",
    "Sender",
    "append",
    "append_async",
    "append_plain",
    "limit_commit",
]

T = TypeVar("T")


@dataclass(eq=False)
class Batch:
    """Rows of several runs, in order, under one nonce. A batch never changes once it was sent."""

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
        """Whether `append_plain` can send the batch: one or two simple rows of one run."""
        if not 0 < len(self.rows) <= 2:
            return False
        first = self.rows[0]
        for seq, row in enumerate(self.rows, first.seq):
            follows = row.run_id is first.run_id and row.epoch == first.epoch and row.seq == seq
            extra = row.payloads or row.exact or row.masked
            if not follows or extra or is_summed(row.event) or status_after(row.event) is not None:
                return False
        return True

    def parameters(self) -> dict[str, object]:
        payloads = [(row.run_id, payload) for row in self.rows for payload in row.payloads]
        exact = [(row.run_id, value) for row in self.rows for value in row.exact]
        return {
            **columns(self.rows),
            **payload_columns([payload for _, payload in payloads]),
            "payload_run": UUIDS([run_id for run_id, _ in payloads]),
            **exact_columns([value for _, value in exact], [run_id for run_id, _ in exact]),
            "batch": self.nonce,
        }

    def positional_parameters(self) -> list[object]:
        """The parameters of the statement `append`, in the order of `sql.numbered`."""
        parameters = self.parameters()
        return [parameters[name] for name in _APPEND_NAMES]

    def plain_parameters(self) -> list[str | None]:
        """The parameters of the statement `append_plain`; the batch `is_plain`."""
        first, rows = self.rows[0], [as_text(row) for row in self.rows]
        place = [str(first.run_id), str(first.seq), str(first.epoch), first.worker, str(self.nonce)]
        return [*place, *rows[0], *rows[-1], str(len(rows))]


_APPEND, _APPEND_NAMES = numbered(QUERIES["append"])
_APPEND_PLAIN, _ = numbered(QUERIES["append_plain"])


def append_plain(conn: psycopg.Connection[Any], batch: Batch) -> set[UUID]:
    """Send a plain batch once; return its run if the rows are stored.

    The connection must be in autocommit, because a taken seq raises an error in the server, which
    would end an open transaction.
    """
    try:
        inserted = psycopg.RawCursor(conn).execute(_APPEND_PLAIN, batch.plain_parameters()).rowcount
    except errors.UniqueViolation:
        return set()
    return batch.runs if inserted else set()


def append(conn: psycopg.Connection[Any], batch: Batch) -> set[UUID]:
    """Send a batch once; return the runs whose rows are stored. Of the other runs, no row is."""
    cursor = psycopg.RawCursor(conn, row_factory=scalar_row)
    return set(cursor.execute(_APPEND, batch.positional_parameters()))


async def append_async(conn: psycopg.AsyncConnection[Any], batch: Batch) -> set[UUID]:
    """`append` on an async connection, for async `transaction` tools."""
    cursor = psycopg.AsyncRawCursor(conn, row_factory=scalar_row)
    return set(await (await cursor.execute(_APPEND, batch.positional_parameters())).fetchall())


def limit_commit(conn: Any) -> Any:
    """Have the server end the transaction if the COMMIT that follows never arrives.

    ``conn`` is the connection of a `transaction` tool. If it is async, the result is awaited.
    """
    soon = {"milliseconds": str(int(conn.deadline * 1000))}
    return conn.execute(QUERIES["settle_soon"], soon)


class Sender:
    """Sends batches until their outcome is known; opens a new connection whenever one breaks."""

    def __init__(
        self,
        dsn: str,
        what: str = "append",  # the name of this sender's commits in `core.points`
        *,
        connection: Callable[[str], DeadlineConnection] = connect,
    ) -> None:
        self._dsn = dsn
        self._what = what
        self._connect = connection
        self._conn: DeadlineConnection | None = None

    def send(self, batch: Batch) -> set[UUID]:
        """Send the batch and return the runs whose rows are stored.

        While the database is away this waits, and logs that it waits.

        Raises:
            struct.error: a value does not fit its column.
            psycopg.Error: the database rejects a row.
            Parking: the wait has to give up (see `patience`).
        """
        plain = batch.is_plain()
        return self._retry(lambda conn: self._send(conn, batch, plain))

    def _send(self, conn: DeadlineConnection, batch: Batch, plain: bool) -> set[UUID]:
        points.reach(self._what, "before")
        accepted = (append_plain if plain else append)(conn, batch)
        points.reach(self._what, "after")
        # A run is also refused if an earlier sending of this batch was committed: one whose answer
        # was lost, or one that Ctrl-C interrupted in another thread.
        return accepted if accepted == batch.runs else accepted | stored_runs(conn, batch)

    def explain_refusals(self, batch: Batch, runs: set[UUID]) -> dict[UUID, LeaseLost]:
        """Why the rows of these runs were refused, for a batch that was sent. Waits as `send`."""
        return self._retry(lambda conn: explain_refusals(conn, batch, runs)) if runs else {}

    def _retry(self, call: Callable[[DeadlineConnection], T]) -> T:
        """Repeat the call until it returns, or fails for a reason that does not pass."""
        for attempt in retry_attempts():
            try:
                return call(self.connection())
            except RETRY_AT_ONCE:
                continue  # the statement was rolled back as a whole
            except Exception as error:
                if not is_transient(error):
                    raise
                log_waiting("database", error, attempt)
                self.close()
        raise AssertionError("unreachable: retry_attempts never ends")

    def stored_runs(self, batch: Batch) -> set[UUID]:
        """The runs whose rows of this batch are in the journal. Does not wait for the database."""
        return stored_runs(self.connection(), batch)

    def connection(self) -> DeadlineConnection:
        """Return the open connection, or open a new one."""
        if self._conn is None or self._conn.closed:
            self._conn = self._connect(self._dsn)
        return self._conn

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(Exception):
                conn.close()
