"""Reservations: one at a time in a tree of runs, whichever processes execute it.

A transaction holds the lock of the tree, takes in what the journal knows by now, compares, and
reserves. What it decides by is `core.budget.grant`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

import psycopg

from agentrun.core import points
from agentrun.core.budget import LIMITS, Budget, Grant, Quote, Refusal, Spent, grant
from agentrun.store.database import Database
from agentrun.store.sql import QUERIES

__all__ = ["Attempt", "Holder", "raise_budget", "reserve"]

_STOPPED = 5.0  # seconds between two statements of a reservation, which belong together


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt at a model call that asks for a reservation."""

    run_id: UUID
    step: int
    attempt: int
    turn: int | None
    epoch: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A run with a budget, and what is used of that."""

    run_id: UUID
    key: str
    budget: Budget
    spent: Spent


def reserve(
    database: Database, attempt: Attempt, quote: Quote
) -> tuple[list[Holder], Grant | Refusal]:
    """Reserve what the call may cost at most, or say which budget does not allow it.

    Returns the budgets that hold the run, the outermost first, as they were before.
    """
    asking = {field.name: getattr(attempt, field.name) for field in fields(attempt)}

    def transact() -> tuple[list[Holder], Grant | Refusal]:
        with database.reserving, database.connection() as conn:
            points.reach("reserve", "before")
            with conn.transaction():
                decided = _decide(conn, asking, quote)
            points.reach("reserve", "after")
        return decided

    return database._patiently(transact)


def _decide(
    conn: psycopg.Connection[Any], asking: dict[str, Any], quote: Quote
) -> tuple[list[Holder], Grant | Refusal]:
    conn.execute(QUERIES["lock_tree"], {**asking, "milliseconds": str(int(_STOPPED * 1000))})
    conn.execute(QUERIES["settle_tree"], asking)
    holders = [_holder(row) for row in conn.execute(QUERIES["budgets"], asking)]
    decided = grant([(holder.budget, holder.spent) for holder in holders], quote)
    if isinstance(decided, Grant):
        used = decided.input_tokens + decided.output_tokens
        conn.execute(QUERIES["reserve"], {**asking, "usd": decided.cost, "used": used})
    return holders, decided


def _holder(row: Mapping[str, Any]) -> Holder:
    budget = Budget(**{name: row[name] for name in (*LIMITS, "on_exhausted")})
    used = {name: row[f"used_{name}"] for name in LIMITS}
    spent = Spent(**used, open_usd=row["open_usd"], in_flight=row["in_flight"])
    return Holder(row["run_id"], row["key"], budget, spent)


def raise_budget(
    database: Database, holder: UUID, to: Budget, *, run_id: UUID, by: str, reason: str
) -> bool:
    """Raise a budget to these limits; other runs of its tree that wait for that look again.

    False: the holder has none.
    """
    (done,) = database.query(
        "raise_budget",
        holder=holder,
        budget=json.dumps(to.to_json()),
        run_id=run_id,
        by=by,
        reason=reason,
    )
    return bool(done["raised"])
