"""The upstream calls of gateways and their answers: one row a call, by idempotency key.

Two gateways on one database share keys. The unique key of the row decides which of them makes a
call. The heartbeat of that gateway tells the other one whether the call may still be in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID, uuid4

from agentrun.core.codec import attach, detach, dumps, plain
from agentrun.core.log import logger
from agentrun.store.database import OpenDatabase
from agentrun.store.liveness import find_dead

__all__ = ["AnswerState", "Answers", "CallEnd", "OpenedCall", "StoredAnswer"]

Status = Literal["open", "answered", "refused", "broken", "lost"]
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class AnswerState:
    """The state of one call under a key."""

    call: int
    fingerprint: str
    status: Status
    gateway: str


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """A call that this process may send now, and whose end it has to record."""

    key: str
    call: int
    nonce: UUID


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A complete answer, which can be served again."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The outcome of a call, with the ``answer`` if that is complete."""

    status: Status
    reason: str | None = None
    http_status: int | None = None
    answer: StoredAnswer | None = None


class Answers:
    """The table `gateway_calls` as this process uses it. Waits while the database is away."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        self._own_workers: set[str] = set()  # this process's worker names: their calls are not lost

    def secret(self) -> bytes:
        """The secret that callers' keys are hashed with; all gateways of a database share it."""
        (row,) = self._database.query("gateway_secret")
        return bytes(row["key"])

    def calls_for_key(self, key: str) -> list[AnswerState]:
        """The calls under a key, oldest first."""
        return [AnswerState(**row) for row in self._database.query("gateway_calls", key=key)]

    def begin(
        self, key: str, call: int, *, fingerprint: str, upstream: str, path: str
    ) -> OpenedCall | None:
        """Record that a call will be sent; return None if another process was faster."""
        worker = self._database.heart.worker
        self._own_workers.add(worker)
        opened = OpenedCall(key, call, uuid4())
        mine = self._database.query(
            "gateway_begin",
            key=key,
            call=call,
            fingerprint=fingerprint,
            upstream=upstream,
            path=plain(path),
            gateway=worker,
            nonce=opened.nonce,
        )
        return opened if mine else None

    def end(self, opened: OpenedCall, ending: CallEnd) -> None:
        """Record the outcome of a call."""
        answer = ending.answer
        body = None if answer is None else attach(answer.body)
        self._database.query(
            "gateway_end",
            key=opened.key,
            call=opened.call,
            nonce=opened.nonce,
            status=ending.status,
            reason=ending.reason and plain(ending.reason),
            http_status=ending.http_status,
            headers=answer and dumps([list(pair) for pair in answer.headers])[0],
            digest=body and body.digest,
            size=body and body.size,
            zstd=body and body.zstd,
        )

    def answer(self, key: str, call: int) -> StoredAnswer | None:
        """The stored answer of a call; None if it was removed in the meantime."""
        for row in self._database.query("gateway_answer", key=key, call=call):
            headers = [(name, value) for name, value in row["headers"]]
            body = detach(bytes(row["zstd"]), row["digest"])
            return StoredAnswer(row["http_status"], headers, body)
        return None

    def close_calls_of_dead(self, gateway: str) -> bool:
        """Mark the open calls of a dead gateway as lost; return False if it is alive."""
        if gateway in self._own_workers:
            return False
        if self._database.on_connection(lambda conn: find_dead(conn, gateway)) is None:
            return False
        for lost in self._database.query("gateway_lost", gateway=gateway):
            logger.warning(
                "gateway %s died in the middle of %s%s: possibly billed",
                gateway,
                *(lost[name] for name in ("upstream", "path")),
            )
        return True

    def remove_old_calls(self, keep: timedelta) -> None:
        """Mark and log the calls of dead gateways; remove calls that ended before ``keep`` ago."""
        for row in self._database.query("gateway_holders"):
            self.close_calls_of_dead(row["gateway"])
        while self._database.query("gateway_forget", keep=keep):
            pass
