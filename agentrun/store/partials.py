"""Store the received part of streamed replies, for readers that follow a run and for a resume.

One statement, every half second, writes the state of all streams of the process. No caller waits
for it: a state that was not written yet is replaced by the next one. A reply that is complete
within half a second is never written here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from agentrun.core import points
from agentrun.core.codec import Codec, Encoded, Unserialisable, decode, encode
from agentrun.core.events import Json
from agentrun.core.log import logger
from agentrun.core.secrets import Masker
from agentrun.store.arrays import INT2S, INT4S, INT8S, TEXTS, UUIDS
from agentrun.store.patience import PROCESS
from agentrun.store.session import Session
from agentrun.store.sql import QUERIES

__all__ = ["EVERY", "Partial", "Partials", "partials_of", "read_partial"]

EVERY = 0.5  # seconds between two statements, and before the first one of a stream
LARGEST = 1 << 20  # characters; a longer state is not written, and the last one stays


@dataclass(frozen=True, slots=True)
class Partial:
    """The received part of the streamed reply of one attempt."""

    step: int
    attempt: int
    body: Json


@dataclass(frozen=True, slots=True)
class _StreamState:
    run_id: UUID
    step: int
    attempt: int
    worker: str
    epoch: int
    body: Json


class Partials:
    """The streams in flight of this process."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._changed = threading.Condition()
        self._pending: dict[tuple[UUID, int], _StreamState] = {}  # by step, to be written
        self._obsolete: set[tuple[UUID, int]] = set()  # steps whose rows are to be deleted
        self._stored: set[tuple[UUID, int]] = set()  # steps that have a row
        self._thread: threading.Thread | None = None
        self._closed = False

    def publish(
        self, run_id: UUID, step: int, attempt: int, worker: str, epoch: int, body: Json
    ) -> None:
        """Have the received part of a reply written soon. Never blocks; replaces the last state."""
        with self._changed:
            self._pending[run_id, step] = _StreamState(run_id, step, attempt, worker, epoch, body)
            self._start()
            self._changed.notify()

    def mark_stored(self, run_id: UUID, step: int) -> None:
        """Record that an earlier attempt, in any process, left a row for this step."""
        with self._changed:
            self._stored.add((run_id, step))
            self._start()

    def discard(self, run_id: UUID, step: int) -> None:
        """Delete the step's row soon, because the step now has its outcome."""
        with self._changed:
            self._pending.pop((run_id, step), None)
            if (run_id, step) in self._stored:
                self._obsolete.add((run_id, step))
                self._changed.notify()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="agentrun-partials", daemon=True)
            Context().run(thread.start)  # the thread belongs to no run
            self._thread = thread

    def close(self) -> None:
        """Write no more states; delete the rows of finished steps, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            PROCESS.join(self._thread)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._obsolete or self._closed)
                states = [] if self._closed else list(self._pending.values())
                self._pending = {}
                obsolete, self._obsolete = self._obsolete, set()
                written = {(state.run_id, state.step) for state in states}
                self._stored = (self._stored - obsolete) | written
                if self._closed and not obsolete:
                    return
            try:
                self._send(states, obsolete)
            except psycopg.Error as error:  # the next state of each stream contains this one
                logger.warning("partial replies were not stored: %s", str(error).strip())
            with self._changed:
                self._changed.wait_for(lambda: self._closed, EVERY)

    def _send(self, states: list[_StreamState], obsolete: set[tuple[UUID, int]]) -> None:
        masker = self._session.mask
        encoded = [
            (state, body) for state in states if (body := _encode(state.body, masker)) is not None
        ]
        columns = {
            "run_id": UUIDS([state.run_id for state, _ in encoded]),
            "step": INT4S([state.step for state, _ in encoded]),
            "attempt": INT4S([state.attempt for state, _ in encoded]),
            "worker": TEXTS([state.worker for state, _ in encoded]),
            "epoch": INT8S([state.epoch for state, _ in encoded]),
            "codec": INT2S([int(body.as_output() & ~Codec.OUTPUT_MASKED) for _, body in encoded]),
            "body": TEXTS([body.text for _, body in encoded]),
            "over_run": UUIDS([run_id for run_id, _ in obsolete]),
            "over_step": INT4S([step for _, step in obsolete]),
        }
        with self._session.connection() as conn:
            points.reach("tell_partials", "before")
            conn.execute(QUERIES["tell_partials"], columns)
            points.reach("tell_partials", "after")


def _encode(body: Json, mask: Masker) -> Encoded | None:
    """Encode the masked value; None if it is not storable or too long.

    The exact value is not stored, because only people read partial replies. Code never does: either
    the call is made again, or its outcome holds the exact value.
    """
    try:
        encoded = encode(body, limit=LARGEST, mask=mask)
    except Unserialisable:
        return None
    return None if encoded.payload is not None else encoded


def partials_of(session: Session, run_id: UUID, step: int | None = None) -> list[Partial]:
    """The received parts of a run's replies, or of one step's, for attempts without an outcome."""
    return [read_partial(row) for row in session.query("partials", run_id=run_id, step=step)]


def read_partial(row: Mapping[str, Any]) -> Partial:
    """The received part of a reply, from its row."""
    return Partial(row["step"], row["attempt"], decode(row["body"], _escaped(row)))


def _escaped(row: Mapping[str, Any]) -> bool:
    return Codec.OUTPUT_ESCAPED in Codec(row["codec"])
