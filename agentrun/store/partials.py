"""Streamed replies while they come: kept for whoever reads along, and for after a crash.

One statement a moment for all streams of a process, and nobody waits for it: what is not written in
time is superseded by what comes next. A reply that is there within a moment is never written here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from agentrun.core import points
from agentrun.core.codec import Codec, Encoded, Unserialisable, decode, encode
from agentrun.core.events import Json
from agentrun.core.log import logger
from agentrun.store.arrays import INT2S, INT4S, INT8S, TEXTS, UUIDS
from agentrun.store.sql import QUERIES

if TYPE_CHECKING:
    from agentrun.store.database import Database

__all__ = ["EVERY", "Partial", "Partials", "partials_of"]

EVERY = 0.5  # seconds between two statements, and until a stream is worth one
LARGEST = 1 << 20  # characters; what is longer is kept as it was


@dataclass(frozen=True, slots=True)
class Partial:
    """What has come of the streamed reply of one attempt."""

    step: int
    attempt: int
    body: Json


@dataclass(frozen=True, slots=True)
class _Told:
    run_id: UUID
    step: int
    attempt: int
    worker: str
    epoch: int
    body: Json


class Partials:
    """The streams of this process that are under way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._news = threading.Condition()
        self._told: dict[tuple[UUID, int], _Told] = {}  # by step, what is to be written
        self._over: set[tuple[UUID, int]] = set()  # steps that have their outcome
        self._written: set[tuple[UUID, int]] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def tell(
        self, run_id: UUID, step: int, attempt: int, worker: str, epoch: int, body: Json
    ) -> None:
        """This is what has come so far. Never blocks; of two, the later one is written."""
        with self._news:
            self._told[run_id, step] = _Told(run_id, step, attempt, worker, epoch, body)
            self._start()
            self._news.notify()

    def found(self, run_id: UUID, step: int) -> None:
        """There is something of an earlier attempt, by whichever process."""
        with self._news:
            self._written.add((run_id, step))
            self._start()

    def over(self, run_id: UUID, step: int) -> None:
        """The step has its outcome: what was kept of it is of no more use."""
        with self._news:
            self._told.pop((run_id, step), None)
            if (run_id, step) in self._written:
                self._over.add((run_id, step))
                self._news.notify()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="agentrun-partials", daemon=True)
            Context().run(thread.start)  # it belongs to no run
            self._thread = thread

    def close(self) -> None:
        """Write no more."""
        with self._news:
            self._closed = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._told or self._over or self._closed)
                told, self._told = [] if self._closed else list(self._told.values()), {}
                over, self._over = self._over, set()
                self._written = (self._written - over) | {(one.run_id, one.step) for one in told}
                if self._closed and not over:
                    return
            try:
                self._send(told, over)
            except psycopg.Error as error:  # the next statement holds all of it, and more
                logger.warning("partial replies were not kept: %s", str(error).strip())
            with self._news:
                self._news.wait_for(lambda: self._closed, EVERY)

    def _send(self, told: list[_Told], over: set[tuple[UUID, int]]) -> None:
        encoded = [(one, kept) for one in told if (kept := _kept(one.body)) is not None]
        columns = {
            "run_id": UUIDS([one.run_id for one, _ in encoded]),
            "step": INT4S([one.step for one, _ in encoded]),
            "attempt": INT4S([one.attempt for one, _ in encoded]),
            "worker": TEXTS([one.worker for one, _ in encoded]),
            "epoch": INT8S([one.epoch for one, _ in encoded]),
            "codec": INT2S([int(kept.as_output()) for _, kept in encoded]),
            "body": TEXTS([kept.text for _, kept in encoded]),
            "over_run": UUIDS([run_id for run_id, _ in over]),
            "over_step": INT4S([step for _, step in over]),
        }
        with self._database.connection() as conn:
            points.reach("tell_partials", "before")
            conn.execute(QUERIES["tell_partials"], columns)
            points.reach("tell_partials", "after")


def _kept(body: Json) -> Encoded | None:
    """The value as it is stored, without secrets; None for one that cannot be, or is too long."""
    try:
        kept = encode(body, limit=LARGEST)
    except Unserialisable:
        return None
    return None if kept.payload is not None else kept


def partials_of(database: Database, run_id: UUID, step: int | None = None) -> list[Partial]:
    """What is kept of the replies of a run, or of one step; of attempts without an outcome."""
    rows = database.query("partials", run_id=run_id, step=step)
    return [
        Partial(row["step"], row["attempt"], decode(row["body"], _escaped(row))) for row in rows
    ]


def _escaped(row: Mapping[str, Any]) -> bool:
    return Codec.OUTPUT_ESCAPED in Codec(row["codec"])
