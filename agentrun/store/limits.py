"""Rate limits and holds that all workers share, as this process applies them to its model calls.

A *limit* bounds the calls of a model in all processes; the database grants a permit for each call.
A *hold* stops all calls of a model until a time, because the provider asked for that (HTTP 429) or
failed several times in a row. A hold of the second kind is a *circuit*: when its time is over, one
process tries a call, and the others wait for the result.

The process reads limits and holds when it becomes a worker, and again after each heartbeat. So a
call of a model without a limit or hold sends no statement.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from random import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from agentrun.core.errors import Parking
from agentrun.core.log import logger
from agentrun.core.pauses import Backoff
from agentrun.store.patience import PROCESS
from agentrun.store.session import Session
from agentrun.store.sql import QUERIES

if TYPE_CHECKING:
    from agentrun.store.database import OpenDatabase

__all__ = [
    "Hold",
    "LimitRow",
    "LimitedCall",
    "SharedLimits",
    "list_limits",
    "remove_limit",
    "set_limit",
]

FAILURES = 5  # failed calls in a row after which a model is held
CIRCUIT = Backoff(5.0, 60.0)  # how long a model is held, after each further failure


@dataclass(frozen=True, slots=True)
class LimitedCall:
    """An attempt at a model call that needs a permit. ``model`` is provider/name."""

    run_id: UUID
    key: str
    worker: str
    model: str
    tokens: int


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit and its use, or a model that is held without one."""

    model: str
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    under_way: int  # calls
    waiting: int  # calls
    held_until: datetime | None
    reason: str | None  # of the hold


def set_limit(
    session: Session, model: str, *, rpm: int | None, tpm: int | None, concurrency: int | None
) -> None:
    """Set or replace the limit of a model: calls and tokens a minute, and calls at a time."""
    session.query("set_limit", model=model, rpm=rpm, tpm=tpm, concurrency=concurrency)


def list_limits(session: Session) -> list[LimitRow]:
    """The limits and the models that are held, by name."""
    return session.rows(LimitRow, "limits")


def remove_limit(session: Session, model: str) -> bool:
    """Remove the limit of a model; return False if it has none."""
    (row,) = session.query("remove_limit", model=model)
    return bool(row["removed"])


@dataclass(slots=True)
class Hold:
    """All calls of a model are stopped until a time."""

    until: datetime
    circuit: bool
    reason: str | None


class SharedLimits:
    """The limits and holds that this process has read, and the permits it requests and returns."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        self._limits: list[str] = []
        self._holds: dict[str, Hold] = {}
        self._failed = Counter[str]()  # failed calls in a row, by model
        self._background = ThreadPoolExecutor(1, thread_name_prefix="agentrun-limits")

    # -- what is set ---------------------------------------------------------------------------

    def load(self) -> None:
        """Read the limits and holds."""
        self._replace(self._database.query("shared_limits"))

    def refresh(self, conn: psycopg.Connection[Any]) -> None:
        """Read the limits and holds again, after a heartbeat and on its connection."""
        self._replace(conn.execute(QUERIES["shared_limits"]).fetchall())

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        self._limits = [row["model"] for row in rows if row["until"] is None]
        self._holds = {
            row["model"]: Hold(row["until"], row["circuit"], row["reason"])
            for row in rows
            if row["until"] is not None
        }

    def applies_to(self, model: str) -> bool:
        """Whether a call of this model has to request a permit."""
        return model in self._holds or self._limit(model) is not None

    def _limit(self, model: str) -> str | None:
        fitting = [pattern for pattern in self._limits if fnmatchcase(model, pattern)]
        return max(fitting, key=lambda pattern: (pattern == model, len(pattern)), default=None)

    # -- a call --------------------------------------------------------------------------------

    def request_permit(self, call: LimitedCall) -> tuple[float, str]:
        """Return the seconds until the call may request again, and the reason; 0 permits it."""
        # Read once, since another thread may remove the hold in the meantime.
        hold = self._holds.get(call.model)
        seconds = 0.0 if hold is None else self._seconds_held(hold, call.model, call.worker)
        if hold is not None and seconds > 0:
            return seconds, str(hold.reason)
        limit = self._limit(call.model)
        if limit is None:
            return 0.0, ""
        (row,) = self._database.query(
            "permit",
            run_id=call.run_id,
            key=call.key,
            model=limit,
            worker=call.worker,
            tokens=call.tokens,
        )
        return float(row["wait"]), f"the limit of {limit} is used up"

    def _seconds_held(self, hold: Hold, model: str, worker: str) -> float:
        """The seconds for which the hold still stops this call; 0 if it does not."""
        seconds: float = (hold.until - self._database.heart.now()).total_seconds()
        if seconds > 0:
            return seconds
        if hold.circuit:  # one process tries a call, and the others wait for its result
            (row,) = self._database.query("try_alone", model=model, worker=worker)
            if row["until"] is not None:
                hold.until = row["until"]
                seconds = (row["until"] - self._database.heart.now()).total_seconds()
                return max(0.1, seconds)
        else:
            self._holds.pop(model, None)
        return 0.0

    def finish_call(self, call: LimitedCall, used: int | None) -> None:
        """Return the permit of a call that used this many tokens.

        None: the number is unknown, and the estimate counts. 0: the call was not made.
        """
        self._execute_later(
            "release",
            run_id=call.run_id,
            key=call.key,
            worker=call.worker,
            used=call.tokens if used is None else used,
        )

    # -- answers and failures of the provider ------------------------------------------------------

    def hold(
        self, model: str, worker: str, seconds: float, reason: str, *, circuit: bool = False
    ) -> None:
        """Stop all calls of this model for some seconds. ``worker`` is the one that reports it."""
        self._execute_later(
            "hold",
            model=model,
            seconds=seconds,
            circuit=circuit,
            worker=worker,
            reason=reason,
        )

    def record_failure(self, model: str, worker: str, reason: str) -> None:
        """Count a failed call of this model; after some in a row, hold the model."""
        self._failed[model] += 1
        beyond = self._failed[model] - FAILURES
        if beyond >= 0:
            seconds = CIRCUIT.pause_after(beyond, random())
            logger.warning("%s failed %d times in a row", model, self._failed[model])
            why = f"it failed again and again ({reason})"
            self.hold(model, worker, seconds, why, circuit=True)

    def record_success(self, model: str) -> None:
        """Record that the provider answered a call of this model, which ends a circuit."""
        self._failed.pop(model, None)
        hold = self._holds.get(model)
        if hold is not None and hold.circuit:
            self._holds.pop(model, None)
            self._execute_later("unhold", model=model)

    def _execute_later(self, name: str, **parameters: Any) -> None:
        """Execute a statement in the background. After `close` it is dropped, without harm."""
        with contextlib.suppress(RuntimeError):
            # An empty context, since the statement belongs to no run.
            Context().run(self._background.submit, self._execute, name, parameters)

    def _execute(self, name: str, parameters: dict[str, Any]) -> None:
        try:
            rows = self._database.query(name, **parameters)
        except (psycopg.Error, Parking) as error:
            # Without a hold one more call is refused; a permit is kept until this worker is dead.
            logger.warning("limits: %s was not sent: %s", name, str(error).strip())
            return
        if name == "hold":
            self._replace(rows)

    def close(self) -> None:
        """Execute the statements that are still queued, unless the process has to end at once."""
        self._background.shutdown(wait=not PROCESS.hurried)
