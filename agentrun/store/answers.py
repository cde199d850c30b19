"""Upstream calls of gateways and the answers to them: one row a call, by idempotency key.

Two gateways on one database share keys. Which of them makes a call is decided by the row's unique
key, and whether the other one still has it under way by the heartbeat of its process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID, uuid4

from agentrun.core.codec import attach, detach, dumps, plain
from agentrun.core.log import logger
from agentrun.core.secrets import redact
from agentrun.store.database import Database
from agentrun.store.liveness import find_dead

__all__ = ["Answer", "Answers", "Ending", "Known", "Opened"]

Status = Literal["open", "answered", "refused", "broken", "lost"]
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Known:
    """What the database says of one call under a key."""

    call: int
    fingerprint: str
    status: Status
    gateway: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A call that this process may now send, and has to end."""

    key: str
    call: int
    nonce: UUID


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, ready to be served again."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a call; ``answer`` where it is whole."""

    status: Status
    reason: str | None = None
    http_status: int | None = None
    answer: Answer | None = None


class Answers:
    """The table `gateway_calls` as this process uses it. Waits while the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._been: set[str] = set()  # the workers that this process was; its calls are not lost

    def known(self, key: str) -> list[Known]:
        """The calls under a key, oldest first."""
        return [Known(**row) for row in self._database.query("gateway_calls", key=key)]

    def begin(
        self, key: str, call: int, *, fingerprint: str, upstream: str, path: str
    ) -> Opened | None:
        """Write down that a call will be sent; None if somebody else was faster."""
        worker = self._database.heart.worker
        self._been.add(worker)
        opened = Opened(key, call, uuid4())
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

    def end(self, opened: Opened, ending: Ending) -> None:
        """Write down what became of a call."""
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
            headers=answer and dumps(redact([list(pair) for pair in answer.headers])[0])[0],
            digest=body and body.digest,
            size=body and body.size,
            zstd=body and body.zstd,
        )

    def answer(self, key: str, call: int) -> Answer | None:
        """The stored answer of a call; None if it went in the meantime."""
        for row in self._database.query("gateway_answer", key=key, call=call):
            headers = [(name, value) for name, value in row["headers"]]
            body = detach(bytes(row["zstd"]), row["digest"])
            return Answer(row["http_status"], headers, body)
        return None

    def bury(self, gateway: str) -> bool:
        """If that gateway is dead, its open calls are lost; False: it may still have them."""
        if gateway in self._been:
            return False

        def look() -> bool:
            with self._database.connection() as conn:
                return find_dead(conn, gateway) is not None

        if not self._database._patiently(look):
            return False
        for lost in self._database.query("gateway_lost", gateway=gateway):
            logger.warning(
                "gateway %s died in the middle of %s%s (Idempotency-Key %s): possibly billed",
                gateway,
                *(lost[name] for name in ("upstream", "path", "key")),
            )
        return True

    def tidy(self, keep: timedelta) -> None:
        """Tell what dead gateways lost, and forget calls that ended longer ago than ``keep``."""
        for row in self._database.query("gateway_holders"):
            self.bury(row["gateway"])
        while self._database.query("gateway_forget", keep=keep):
            pass
