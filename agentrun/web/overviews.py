"""Pages over many runs: the list, what they cost, and the health of the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from importlib import import_module
from typing import Any, get_args

from starlette.requests import Request

from agentrun.api.health import report_health
from agentrun.api.run_list import runs
from agentrun.core.events import RunStatus
from agentrun.core.summary import RunSummary
from agentrun.store import embedded
from agentrun.store.database import OpenDatabase
from agentrun.store.opening import default
from agentrun.store.spending import DayCount, SpendSum, count_runs, sum_spend
from agentrun.web.page import Page, Refused
from agentrun.web.site import PageRoute, Site
from agentrun.web.times import days_since, draw_days, time_in

__all__ = ["PAGES", "HealthData", "RunsData", "SpendData"]

_ROWS = 50
_DAYS = 30
_TREES = 50
_STATUSES: tuple[str, ...] = get_args(RunStatus)


@dataclass(frozen=True)
class RunsData:
    """Runs, the newest first. ``next`` is the ``after`` of the next page, if there is one."""

    runs: tuple[RunSummary, ...]
    next: str | None
    counts: tuple[DayCount, ...]


async def _runs(site: Site, request: Request) -> Page:
    now = (await site.open()).now
    wanted = _filter_in(request, await site.read(now))
    data = await site.share(("runs", str(request.query_params)), lambda: _list(wanted))
    filters = {name: request.query_params.get(name, "") for name in _FILTERS}
    days = days_since(wanted["counted"], wanted["now"])
    sums: dict[str, float] = {}
    failed: dict[str, float] = {}
    statuses: dict[str, int] = {}
    for one in data.counts:
        sums[one.day] = sums.get(one.day, 0) + one.runs
        statuses[one.status] = statuses.get(one.status, 0) + one.runs
        if one.status == "failed":
            failed[one.day] = failed.get(one.day, 0) + one.runs
    shown = {
        "filters": filters,
        "statuses": _STATUSES,
        "sums": {name: statuses[name] for name in _STATUSES if name in statuses},
        "spark": draw_days(days, sums, failed, f"Runs a day, of {len(days)} days"),
        "since": wanted["counted"],
        "live": not request.query_params.get("after"),
        "here": {name: value for name, value in filters.items() if value},
    }
    return Page("runs.html", data, shown)


_FILTERS = {
    "status": f"one of {', '.join(_STATUSES)}",
    "agent": "the name of the agent",
    "since": "created since: an age such as 7d, or a time",
    "until": "created before: an age, or a time",
    "min_cost": "that cost at least so many US dollars",
    "text": "with this text in key, agent, reason, error or last message",
    "error": "the type of the error",
    "roots": "yes: without child runs",
    "root": "the run with this key, and the runs below it",
}


def _filter_in(request: Request, now: datetime) -> dict[str, Any]:
    given = request.query_params
    for name in (*_FILTERS, "after"):
        if "\0" in given.get(name, ""):
            raise Refused(400, name, f"{name} has a character U+0000, which no text here has")
    status = given.get("status") or None
    if status is not None and status not in _STATUSES:
        raise Refused(400, "status", f"a status is one of {', '.join(_STATUSES)}")
    try:
        cost = Decimal(given["min_cost"]) if given.get("min_cost") else None
        # The database refuses exponents that Decimal takes.
        if cost is not None and not (cost.is_finite() and abs(cost.adjusted()) < 20):
            raise InvalidOperation
    except InvalidOperation:
        raise Refused(400, "min_cost", "min_cost is an amount of US dollars, as 0.05") from None
    since = time_in(given, "since", now)
    return {
        "now": now,
        "counted": since or now - timedelta(days=_DAYS),
        "status": status,
        "agent": given.get("agent") or None,
        "since": since,
        "until": time_in(given, "until", now),
        "min_cost": cost,
        "text": given.get("text") or None,
        "error": given.get("error") or None,
        "roots": given.get("roots") == "yes",
        "root": given.get("root") or None,
        "after": given.get("after") or None,
    }


def _list(wanted: dict[str, Any]) -> RunsData:
    apart = {name: value for name, value in wanted.items() if name not in ("now", "counted")}
    found = runs(**apart, limit=_ROWS + 1)
    shown = tuple(found[:_ROWS])
    counts = count_runs(default(), wanted["counted"], agent=wanted["agent"], roots=wanted["roots"])
    return RunsData(shown, shown[-1].cursor if len(found) > _ROWS else None, tuple(counts))


@dataclass(frozen=True)
class SpendData:
    """What model calls cost since a time. ``trees`` are the most expensive ones."""

    since: datetime
    all: SpendSum | None
    days: tuple[SpendSum, ...]
    models: tuple[SpendSum, ...]
    agents: tuple[SpendSum, ...]
    trees: tuple[SpendSum, ...]
    more_trees: int


async def _spend(site: Site, request: Request) -> Page:
    now = await site.read((await site.open()).now)
    since = time_in(request.query_params, "since", now) or now - timedelta(days=_DAYS)
    data = await site.share(("spend", request.query_params.get("since", "")), lambda: _sum(since))
    days = days_since(since, now)
    costs = {one.name: float(one.cost) for one in data.days}
    spark = draw_days(days, costs, {}, f"US dollars a day, of {len(days)} days")
    given = request.query_params.get("since", "")
    return Page("spend.html", data, {"spark": spark, "given": given})


def _sum(since: datetime) -> SpendData:
    sums = sum_spend(default(), since)
    kinds = {
        kind: tuple(one for one in sums if one.by == kind)
        for kind in ("all", "day", "model", "agent", "tree")
    }
    whole = next((one for one in kinds["all"] if one.calls), None)
    return SpendData(
        since=since,
        all=whole,
        days=tuple(sorted(kinds["day"], key=lambda one: one.name, reverse=True)),
        models=kinds["model"],
        agents=kinds["agent"],
        trees=kinds["tree"][:_TREES],
        more_trees=max(0, len(kinds["tree"]) - _TREES),
    )


@dataclass(frozen=True)
class HealthData:
    """The report of `agentrun doctor`. ``problems`` say what to do."""

    report: dict[str, Any]
    problems: tuple[str, ...]


async def _health(site: Site, request: Request) -> Page:
    database = await site.open()
    data = await site.share(("health",), lambda: _examine(database))
    return Page("health.html", data, {})


def _examine(database: OpenDatabase) -> HealthData:
    files = embedded.where()
    own = files.dsn() == database.dsn
    report = report_health(None if own else database.dsn, version=_version())
    return HealthData(report, tuple(report.pop("problems")))


def _version() -> str:
    """The version of this package, whose face imports this room."""
    version: str = import_module("agentrun").__version__
    return version


PAGES = (
    PageRoute(
        "", _runs, "The runs, the newest first", RunsData,
        {**_FILTERS, "after": "the cursor of the last run of the page before"}, name="Runs",
    ),
    PageRoute(
        "spend", _spend, "What model calls cost, by day, model, agent and tree", SpendData,
        {"since": "an age such as 7d, or a time; default: 30 days"}, name="Spend",
    ),
    PageRoute(
        "health", _health, "The health of the database and of the workers", HealthData,
        name="Health",
    ),
)  # fmt: skip
