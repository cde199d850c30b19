"""`agentrun doctor`: report which database this is, its condition, and what needs attention."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from agentrun import __version__
from agentrun.cli.database_choice import READER
from agentrun.cli.output import emit, emit_json
from agentrun.store import embedded
from agentrun.store.audit import Health, examine, wake_delay
from agentrun.store.connection import describe
from agentrun.store.runs import StuckRun

__all__ = ["diagnose", "explain_stuck"]

_DEAD_ROWS = (
    10_000  # dead rows of a table, and 20 % of the live ones, that autovacuum should not leave
)
_LONG_TRANSACTION = 300.0  # seconds
_SLOW_COMMIT = 1.0  # seconds
_CLOCK_DIFFERENCE = 1.0  # seconds between the clocks
_LATE_WAKE = 5.0  # milliseconds; for so long CPython lets a computing thread keep its lock


def diagnose(dsn: str | None, *, as_json: bool) -> bool:
    """Print a report on the database, and return whether it has no problems.

    Raises StoreUnavailable or ConfigError if the database cannot be reached.
    """
    target = dsn or embedded.start()
    health, late = examine(target), wake_delay()
    report = _report(None if dsn else embedded.where(), target, health, late)
    if as_json:
        emit_json(report)
    else:
        for name, value in _lines(report):
            emit(f"{name:<10} {value}")
        for problem in report["problems"]:
            emit(f"! {problem}")
    return not report["problems"]


def explain_stuck(run: StuckRun) -> str:
    """Say why a run does not go on, and which command helps."""
    key, agent = run.key, run.agent
    match run.why:
        case "held":
            return f"waits for a person ({run.reason or 'held'}): `agentrun inbox`"
        case "owner dead":
            return f"its worker {run.owner} is dead: `agentrun resume {quote(key)} FILE` goes on"
        case _:
            option = "" if run.queue == "default" else f" --queue {quote(run.queue)}"
            return (
                f"no live worker serves the agent {agent!r} and the queue {run.queue!r}: "
                f"`agentrun worker FILE{option}` starts one"
            )


def _report(
    files: embedded.Files | None, dsn: str, health: Health, late: tuple[float, float]
) -> dict[str, Any]:
    database: dict[str, Any] = {"embedded": files is not None}
    if files is None:
        database["at"] = describe(dsn)
    else:
        database |= {
            "data": str(files.data),
            "log": str(files.log),
            "socket": str(files.socket),
            "stop": "agentrun doctor --stop",
        }
    census = health.census
    return {
        "agentrun": __version__,
        "database": database,
        "server": {
            "version": health.version,
            "synchronous_commit": health.synchronous_commit,
            "standby": health.standby,
            "pooler": health.pooled,
        },
        "schema": health.schema,
        "clock_ahead_s": round(health.clock_ahead, 3),
        "wake_delay_ms": {
            "median": round(late[0] * 1000, 3),
            "worst": round(late[1] * 1000, 3),
        },
        "workers": census and {"alive": census["workers_alive"], "dead": census["workers_dead"]},
        "runs": census
        and {n: census[n] for n in ("queued", "running", "waiting", "held", "abandoned")},
        "commits": census
        and {
            "pending": int(census["pending"]),
            "slowest_ms": round(census["slowest_commit"] * 1000, 3),
        },
        "vacuum": {
            "dead_rows": {table["table"]: table["dead"] for table in health.vacuum},
            "oldest": health.oldest,
        },
        "login": {
            "user": health.user,
            "superuser": health.superuser,
            "sql": _sql_login(health, embedded=files is not None),
            "verified": health.verified,
        },
        "stuck": [{**asdict(run), "way_on": explain_stuck(run)} for run in health.stuck],
        "problems": list(_problems(health)),
    }


def _sql_login(health: Health, *, embedded: bool) -> str:
    """The login and rights with which `agentrun sql` reads."""
    if embedded or os.environ.get(READER):
        return "by a login of its own, which may do nothing else"
    how = "in a transaction that is read-only"
    if health.reads_as is not None:
        return f"as {health.reads_as}, {how}; a login of its own in {READER} is safer"
    if health.superuser:
        return (
            f"by this login, a superuser, {how}, which does not keep it from files and programs "
            f"of the server: `agentrun roles create`, and name a reader's login in {READER}"
        )
    return f"by this login, {how}"


def _problems(health: Health) -> list[str]:
    found = []
    if health.standby:
        found.append("the server is a standby: it takes no writes; name the primary in the DSN")
    if health.synchronous_commit == "off":
        found.append(
            "synchronous_commit is off: a server crash loses acknowledged steps; turn it on"
        )
    if health.schema in ("missing", "older"):
        found.append(f"the schema is {health.schema}: run `agentrun migrate`")
    elif health.schema == "newer":
        found.append("the schema is newer than this code: upgrade agentrun-harness")
    elif health.schema != "current":
        found.append(health.schema)
    if not health.verified:
        found.append(
            "the server is on another machine and has not proved who it is: add "
            "sslmode=verify-full&sslrootcert=FILE (or sslrootcert=system) to the DSN"
        )
    if abs(health.clock_ahead) > _CLOCK_DIFFERENCE:
        found.append(
            f"the clocks differ by {abs(health.clock_ahead):.1f} s: leases are safe, as they go "
            "by the database's clock, but times in logs will not agree"
        )
    found += [*_vacuum_problems(health)]
    runs = health.census or {}
    if (slowest := runs.get("slowest_commit", 0)) > _SLOW_COMMIT:
        found.append(
            f"the database is slow: a commit took {slowest:.1f} s, {runs['pending']} events wait "
            "for theirs, and the steps of their runs with them: see agentrun.workers"
        )
    if runs.get("abandoned"):
        found.append(
            f"{runs['abandoned']} running runs belong to dead workers: "
            "`agentrun ls --status running` names them, `agentrun resume KEY FILE` goes on"
        )
    if runs.get("held"):
        found.append(f"{runs['held']} runs wait for a person: `agentrun inbox`")
    if idle := {run.agent for run in health.stuck if run.why == "no worker"}:
        found.append(
            f"no live worker serves {', '.join(sorted(map(repr, idle)))}, and runs wait for one: "
            "`agentrun worker FILE`"
        )
    return found


def _vacuum_problems(health: Health) -> Iterator[str]:
    """Problems of vacuum. Dead rows slow down every claim, because it must skip each of them."""
    if off := [table["table"] for table in health.vacuum if not table["autovacuum"]]:
        yield f"autovacuum is off for {', '.join(off)}: turn it on, or dead rows pile up there"
    held = health.oldest
    if held is not None and held["age"] > _LONG_TRANSACTION:
        yield (
            f"a transaction that is {_span(held['age'])} old keeps vacuum from removing what has "
            f"died since: {held['who']}; end it"
        )
    for table in health.vacuum:
        if table["dead"] > _DEAD_ROWS + 0.2 * table["live"]:
            yield (
                f"{table['table']} has {table['dead']} dead rows: "
                f"VACUUM agentrun.{table['table']}, and let autovacuum come more often"
            )


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
    return _span((datetime.now(UTC) - since).total_seconds())


def _span(seconds: float) -> str:
    seconds = int(seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{max(0, seconds)} s"
