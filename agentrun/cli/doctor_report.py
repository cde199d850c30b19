"""`agentrun doctor`: report which database this is, its condition, and what needs attention."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agentrun import __version__
from agentrun.api.health import report_health, span
from agentrun.cli.output import emit, emit_json

__all__ = ["diagnose"]

_LATE_WAKE = 5.0  # milliseconds; for so long CPython lets a computing thread keep its lock


def diagnose(dsn: str | None, *, as_json: bool) -> bool:
    """Print a report on the database, and return whether it has no problems.

    Raises StoreUnavailable or ConfigError if the database cannot be reached.
    """
    report = report_health(dsn, version=__version__)
    if as_json:
        emit_json(report)
    else:
        for name, value in _lines(report):
            emit(f"{name:<10} {value}")
        for problem in report["problems"]:
            emit(f"! {problem}")
    return not report["problems"]


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    database, server = report["database"], report["server"]
    lines = [("agentrun", report["agentrun"])]
    if database["embedded"]:
        lines.append(("database", "embedded; runs until `agentrun doctor --stop`"))
        lines += [(f"  {name}", database[name]) for name in ("data", "log", "socket")]
    else:
        lines.append(("database", database["at"]))
    role = "standby" if server["standby"] else "primary"
    commit = f"synchronous_commit {server['synchronous_commit']}"
    lines.append(("server", f"Postgres {server['version']}, {role}, {commit}"))
    if server["pooler"]:
        effect = "steps work; a lost worker is noticed after its lease, not within a second"
        lines.append(("connection", f"through a pooler: {effect}"))
    else:
        lines.append(("connection", "direct"))
    lines.append(("schema", report["schema"]))
    login = report["login"]
    lines.append(("login", f"{login['user']}{', a superuser' if login['superuser'] else ''}"))
    lines.append(("sql", f"`agentrun sql` reads {login['sql']}"))
    lines.append(("clock", f"the database's is {report['clock_ahead_s']:+.3f} s from ours"))
    late = report["wake_delay_ms"]
    lines.append(("threads", f"wake {late['median']} ms late here, {late['worst']} ms at worst"))
    if late["median"] > _LATE_WAKE:
        lines.append(("", "so will every append: more computes here than there are processors"))
    for name in ("workers", "runs"):
        if counts := report[name]:
            lines.append((name, ", ".join(f"{count} {what}" for what, count in counts.items())))
    if commits := report["commits"]:
        lines.append(
            ("commits", f"{commits['pending']} events pending, {commits['slowest_ms']} ms at worst")
        )
    for run in report["stuck"]:
        lines.append(("stuck", f"{run['key']}, for {_age(run['since'])}: {run['way_on']}"))
    return lines


def _age(since: datetime) -> str:
    return span((datetime.now(UTC) - since).total_seconds())
