"""Reserve money and tokens of a budget: one reservation at a time in a tree of runs.

Parent and child runs share a budget, and several processes may execute them. So a reservation is a
transaction that holds a lock of the tree. It first settles earlier reservations whose calls have an
outcome in the journal, then decides by `core.budget.grant`, and stores the reservation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar
from uuid import UUID

import psycopg

from agentrun.core import points
from agentrun.core.budget import LIMITS, Budget, BudgetRefusal, Grant, Quote, Spent, admit, grant
from agentrun.store.database import OpenDatabase
from agentrun.store.sql import QUERIES

__all__ = ["BudgetHolder", "ReservedAttempt", "count_calls", "raise_budget", "reserve"]

T = TypeVar("T")

_STOPPED = 5.0  # seconds without a statement after which the server ends the transaction


@dataclass(frozen=True, slots=True)
class ReservedAttempt:
    """The attempt at a model call that needs a reservation."""

    run_id: UUID
    step: int
    attempt: int
    turn: int | None
    epoch: int


@dataclass(frozen=True, slots=True)
class BudgetHolder:
    """A run with a budget, and what its tree has used of the budget."""

    run_id: UUID
    key: str
    budget: Budget
    spent: Spent


def reserve(
    database: OpenDatabase, attempt: ReservedAttempt, quote: Quote
) -> tuple[list[BudgetHolder], Grant | BudgetRefusal]:
    """Reserve the most that the call may cost, or return which budget refuses it.

    The first value is the budgets of the run and its ancestors, the outermost first, as they were
    before.
    """
    place = {field.name: getattr(attempt, field.name) for field in fields(attempt)}
    return _transact(database, lambda conn: _decide(conn, place, quote))


def count_calls(
    database: OpenDatabase, run_id: UUID, epoch: int, keys: Sequence[str]
) -> tuple[list[BudgetHolder], list[str], BudgetRefusal | None]:
    """Count these tool calls against the budgets; only the first ones if not all of them fit.

    Args:
        database: the database of the run.
        run_id: the run that makes the calls.
        epoch: the epoch of its claim.
        keys: the calls' idempotency keys. A key that was counted before costs nothing.

    Returns the budgets of the run and its ancestors, the outermost first, as they were before; the
    keys that are counted now; and the budget that refuses the other keys.
    """
    place = {"run_id": run_id, "epoch": epoch, "step": 0, "attempt": 0, "turn": None}
    return _transact(database, lambda conn: _count(conn, place, keys))


def _transact(database: OpenDatabase, decide: Callable[[psycopg.Connection[Any]], T]) -> T:
    """Call ``decide`` in a transaction of its own, and wait while the database is away."""

    def transact() -> T:
        with database.reserving, database.connection() as conn:
            points.reach("reserve", "before")
            with conn.transaction():
                decided = decide(conn)
            points.reach("reserve", "after")
        return decided

    return database.patiently(transact)


def _decide(
    conn: psycopg.Connection[Any], place: dict[str, Any], quote: Quote
) -> tuple[list[BudgetHolder], Grant | BudgetRefusal]:
    holders = _lock_budgets(conn, place)
    decided = grant([(holder.budget, holder.spent) for holder in holders], quote)
    if isinstance(decided, Grant):
        used = decided.input_tokens + decided.output_tokens
        conn.execute(QUERIES["reserve"], {**place, "usd": decided.cost, "used": used})
    return holders, decided


def _count(
    conn: psycopg.Connection[Any], place: dict[str, Any], keys: Sequence[str]
) -> tuple[list[BudgetHolder], list[str], BudgetRefusal | None]:
    holders = _lock_budgets(conn, place)
    counted = {row["key"] for row in conn.execute(QUERIES["counted"], {**place, "keys": [*keys]})}
    wanted = [key for key in keys if key not in counted]
    budgets = [(holder.budget, holder.spent) for holder in holders]
    allowed, refusal = admit(budgets, len(wanted))
    conn.execute(QUERIES["count_calls"], {**place, "keys": wanted[:allowed]})
    return holders, [*counted, *wanted[:allowed]], refusal


def _lock_budgets(conn: psycopg.Connection[Any], place: dict[str, Any]) -> list[BudgetHolder]:
    """Lock the tree until the transaction ends, settle it, and return the budgets of the run and
    its ancestors."""
    conn.execute(QUERIES["lock_tree"], {**place, "milliseconds": str(int(_STOPPED * 1000))})
    conn.execute(QUERIES["settle_tree"], place)
    return [_holder(row) for row in conn.execute(QUERIES["budgets"], place)]


def _holder(row: Mapping[str, Any]) -> BudgetHolder:
    budget = Budget(**{name: row[name] for name in (*LIMITS, "on_exhausted")})
    used = {name: row[f"used_{name}"] for name in LIMITS}
    spent = Spent(**used, open_usd=row["open_usd"], in_flight=row["in_flight"])
    return BudgetHolder(row["run_id"], row["key"], budget, spent)


def raise_budget(
    database: OpenDatabase, holder: UUID, to: Budget, *, run_id: UUID, by: str, reason: str
) -> bool:
    """Raise a budget to these limits, and wake the other runs of its tree that wait for that.

    Returns False if the holder has no budget.
    """
    (row,) = database.query(
        "raise_budget",
        holder=holder,
        budget=json.dumps(to.to_json()),
        run_id=run_id,
        by=by,
        reason=reason,
    )
    return bool(row["raised"])
