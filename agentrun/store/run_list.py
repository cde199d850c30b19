"""Lists of runs, from the tables `runs` and `summaries`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from agentrun.core.errors import ConfigError
from agentrun.core.events import RunStatus
from agentrun.core.summary import RunList, RunSummary
from agentrun.store.session import Session
from agentrun.store.sql import QUERIES

__all__ = ["RunFilter", "find_summary", "list_runs"]

_FIELDS = frozenset(RunSummary.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list has: those for which each field that is set holds."""

    status: tuple[RunStatus, ...] | None = None  # one of these
    agent: str | None = None
    since: datetime | None = None  # created then or later
    until: datetime | None = None  # created before
    min_cost: Decimal | None = None  # US dollars, without the runs below it
    text: str | None = None  # in key, agent, reason, error or last message, in any case
    error: str | None = None  # the type of its error
    roots: bool = False  # without child runs
    root: str | None = None  # the run with this key and the runs below it


def list_runs(
    session: Session, where: RunFilter | None = None, *, after: str | None = None, limit: int
) -> RunList:
    """The newest runs first; ``after`` is the cursor of the last run of the list before.

    Raises ConfigError for a cursor that no run gave.
    """
    at, run_id = (None, None) if after is None else _read_cursor(after)
    parameters = _parameters(where or RunFilter())
    place = {"key": None, "after_at": at, "after_id": run_id, "limit": limit}
    rows = session.on_connection(lambda conn: _read(conn, parameters | place))
    return RunList(RunSummary(**_fields(row)) for row in rows)


def find_summary(session: Session, key: str) -> RunSummary | None:
    """The run with this key; None if there is none.

    It reads once. A database that is away raises psycopg.Error at once and is not waited for,
    because a notebook calls this only to show a value.
    """
    alone = {"key": key, "after_at": None, "after_id": None, "limit": 1}
    with session.connection() as conn:
        rows = _read(conn, _parameters(RunFilter()) | alone)
    return RunSummary(**_fields(rows[0])) if rows else None


def _read(conn: psycopg.Connection[Any], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Execute the statement `runs` with its values as constants.

    Our connections plan a statement with parameters once. Such a plan could use no index, because
    each filter may be left out. With constants the filters that are left out vanish.
    """
    cursor = psycopg.ClientCursor(conn, row_factory=dict_row)
    return cursor.execute(QUERIES["runs"], parameters).fetchall()


def _parameters(wanted: RunFilter) -> dict[str, Any]:
    return {
        "status": None if wanted.status is None else list(wanted.status),
        "agent": wanted.agent,
        "since": wanted.since,
        "until": wanted.until,
        "min_cost": wanted.min_cost,
        "text": wanted.text,
        "error": wanted.error,
        "roots": wanted.roots,
        "root": wanted.root,
    }


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in _FIELDS}


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    at, _, run_id = cursor.rpartition("/")
    try:
        return datetime.fromisoformat(at), UUID(run_id)
    except ValueError:
        raise ConfigError(
            f"after={cursor!r} is no place in a list of runs: use the cursor of a run, such as "
            "runs[-1].cursor"
        ) from None
