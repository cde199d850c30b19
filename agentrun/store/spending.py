"""Sums over many runs: what their model calls cost, and how many runs there were."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from agentrun.core.events import RunStatus
from agentrun.store.session import Session

__all__ = ["DayCount", "SpendSum", "count_runs", "sum_spend"]


@dataclass(frozen=True, slots=True)
class SpendSum:
    """What the model calls of one day, model, agent or tree cost, in US dollars.

    ``possibly_billed`` counts calls that were sent and whose outcome is not known; ``paid_twice``
    those whose answer came after another was paid. ``cache_lost`` is the additional cost of input
    that was no longer in a provider's cache after a resume.
    """

    by: Literal["all", "day", "model", "agent", "tree"]
    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: Decimal
    unpriced: int
    possibly_billed: int
    running: int
    paid_twice: int
    cache_lost: Decimal


@dataclass(frozen=True, slots=True)
class DayCount:
    """How many runs that were created on a day (UTC) have a status now."""

    day: str
    status: RunStatus
    runs: int


def sum_spend(session: Session, since: datetime, until: datetime | None = None) -> list[SpendSum]:
    """What model calls cost from ``since`` to before ``until``, summed in each way.

    The sums of one kind stand together, the most expensive first.
    """
    return session.rows(SpendSum, "spend_sums", since=since, until=until)


def count_runs(
    session: Session, since: datetime, *, agent: str | None = None, roots: bool = False
) -> list[DayCount]:
    """How many runs were created since then, by day and by status, the oldest day first."""
    return session.rows(DayCount, "run_days", since=since, agent=agent, roots=roots)
