"""`runs`: which runs there are, and what lists show of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import get_args

from agentrun.core.errors import ConfigError
from agentrun.core.events import RunStatus
from agentrun.core.summary import RunList
from agentrun.store.opening import default
from agentrun.store.run_list import RunFilter, list_runs


def runs(
    *,
    status: RunStatus | Iterable[RunStatus] | None = None,
    agent: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    min_cost: Decimal | float | None = None,
    text: str | None = None,
    error: str | None = None,
    roots: bool = False,
    root: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> RunList:
    """List runs, the newest first. No journal is read.

    Args:
        status: only runs with this status, or with one of these.
        agent: only runs of the agent with this name.
        since: only runs that were created then or later. A time without zone is local time.
        until: only runs that were created before then.
        min_cost: only runs that have cost so many US dollars, without the runs below them.
        text: only runs with this text in key, agent, reason, error or last message. Upper and
            lower case are the same.
        error: only runs with an error of this type, such as ``"ValueError"``. The module before the
            name, as in ``"openai.BadRequestError"``, may be left out.
        roots: leave out child runs.
        root: only the run with this key and the runs below it.
        limit: list at most so many runs.
        after: go on behind this place: the ``cursor`` of the last run of the list before.

    Raises:
        ConfigError: a status, a limit or a cursor that there is not.

    Example:
        >>> for run in agentrun.runs(status="failed", roots=True):
        ...     print(run.key, run.failed_step, run.error_type, run.tree_cost)
    """
    if limit < 1:
        raise ConfigError(f"runs(limit={limit!r}): list at least one run")
    where = RunFilter(
        status=_statuses(status),
        agent=agent,
        since=_with_zone(since),
        until=_with_zone(until),
        min_cost=None if min_cost is None else Decimal(str(min_cost)),
        text=text,
        error=error,
        roots=roots,
        root=root,
    )
    return list_runs(default(), where, after=after, limit=limit)


def _statuses(status: RunStatus | Iterable[RunStatus] | None) -> tuple[RunStatus, ...] | None:
    if status is None:
        return None
    chosen = (status,) if isinstance(status, str) else tuple(status)
    known = get_args(RunStatus)
    for one in chosen:
        if one not in known:
            raise ConfigError(f"runs(status={one!r}): a status is one of {', '.join(known)}")
    return chosen


def _with_zone(at: datetime | None) -> datetime | None:
    return at.astimezone() if at is not None and at.tzinfo is None else at
