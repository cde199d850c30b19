"""Limits that all workers share: what this process knows of them, and what it asks for its calls.

Where no limit is set and no model is held back, a call asks nothing of the database: what is set
is learned when a process becomes a worker, and again after each heartbeat.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from agentrun.core.log import logger
from agentrun.store.sql import QUERIES

if TYPE_CHECKING:
    from agentrun.store.database import Database

__all__ = ["Call", "Limits"]

FAILURES = 5  # in a row, after which a model is left alone for a while
LEFT_ALONE = (5.0, 60.0)  # seconds: the first time, and at most, doubled from one to the other


@dataclass(frozen=True, slots=True)
class Call:
    """An attempt at a model call that asks whether it may be made. ``model``: provider/name."""

    run_id: UUID
    key: str
    worker: str
    model: str
    tokens: int


class Limits:
    """The limits and holds that this process knows of, and its part in them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limits: list[str] = []
        self._holds: dict[str, dict[str, Any]] = {}
        self._failed = Counter[str]()  # in a row, by model
        self._later = ThreadPoolExecutor(1, thread_name_prefix="agentrun-limits")

    # -- what is set ---------------------------------------------------------------------------

    def load(self) -> None:
        """Learn what is set."""
        self._take(self._database.query("shared_limits"))

    def refresh(self, conn: psycopg.Connection[Any]) -> None:
        """Learn it anew, after a heartbeat."""
        self._take(conn.execute(QUERIES["shared_limits"]).fetchall())

    def _take(self, rows: list[dict[str, Any]]) -> None:
        self._limits = [row["model"] for row in rows if row["until"] is None]
        self._holds = {row["model"]: row for row in rows if row["until"] is not None}

    def concern(self, model: str) -> bool:
        """Whether a call of this model has to ask at all."""
        return model in self._holds or self._limit(model) is not None

    def _limit(self, model: str) -> str | None:
        fitting = [pattern for pattern in self._limits if fnmatchcase(model, pattern)]
        return max(fitting, key=lambda pattern: (pattern == model, len(pattern)), default=None)

    # -- a call --------------------------------------------------------------------------------

    def ask(self, call: Call) -> tuple[float, str]:
        """Seconds until the call may ask again, and why; 0: it may be made."""
        held = self._held(call.model, call.worker)
        if held > 0:
            return held, str(self._holds[call.model]["reason"])
        limit = self._limit(call.model)
        if limit is None:
            return 0.0, ""
        (told,) = self._database.query(
            "permit",
            run_id=call.run_id,
            key=call.key,
            model=limit,
            worker=call.worker,
            tokens=call.tokens,
        )
        return float(told["wait"]), f"the limit of {limit} is used up"

    def _held(self, model: str, worker: str) -> float:
        hold = self._holds.get(model)
        if hold is None:
            return 0.0
        left: float = (hold["until"] - self._database.heart.now()).total_seconds()
        if left > 0:
            return left
        if hold["circuit"]:  # one tries, and the others wait for what comes of it
            (told,) = self._database.query("try_alone", model=model, worker=worker)
            if told["until"] is not None:
                hold["until"] = told["until"]
                left = (told["until"] - self._database.heart.now()).total_seconds()
                return max(0.1, left)
        else:
            self._holds.pop(model, None)
        return 0.0

    def over(self, call: Call, used: int | None) -> None:
        """The call was made and used so many tokens (None: nobody knows), or will not be made."""
        self._soon(
            "release",
            run_id=call.run_id,
            key=call.key,
            worker=call.worker,
            used=call.tokens if used is None else used,
        )

    # -- what the provider says ------------------------------------------------------------------

    def hold(
        self, model: str, worker: str, seconds: float, reason: str, *, circuit: bool = False
    ) -> None:
        """Nobody is to ask this model for so long; ``worker`` found out."""
        self._soon(
            "hold",
            model=model,
            seconds=seconds,
            circuit=circuit,
            worker=worker,
            reason=reason,
        )

    def failed(self, model: str, worker: str, reason: str) -> None:
        """The provider failed at a call; after some in a row, everybody leaves it alone a while."""
        self._failed[model] += 1
        beyond = self._failed[model] - FAILURES
        if beyond >= 0:
            seconds = min(LEFT_ALONE[1], LEFT_ALONE[0] * 2.0 ** min(beyond, 10))
            logger.warning("%s failed %d times in a row", model, self._failed[model])
            why = f"it failed again and again ({reason})"
            self.hold(model, worker, seconds, why, circuit=True)

    def answered(self, model: str) -> None:
        """The provider works."""
        self._failed.pop(model, None)
        if model in self._holds and self._holds[model]["circuit"]:
            del self._holds[model]
            self._soon("unhold", model=model)

    def _soon(self, name: str, **parameters: Any) -> None:
        """Say something that nobody waits for, and that is lost without harm once we are closed."""
        with contextlib.suppress(RuntimeError):
            Context().run(self._later.submit, self._said, name, parameters)  # it is of no run

    def _said(self, name: str, parameters: dict[str, Any]) -> None:
        try:
            rows = self._database.query(name, **parameters)
        except psycopg.Error as error:  # it costs a refused call, or a permit until we are gone
            logger.warning("limits: %s was not told: %s", name, str(error).strip())
            return
        if name == "hold":
            self._take(rows)

    def close(self) -> None:
        """Say what is still to be said."""
        self._later.shutdown()
