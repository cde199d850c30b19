"""The health of a database: what `agentrun doctor` and the web pages report, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from agentrun.core.shell import quote_word, write_command
from agentrun.store import embedded
from agentrun.store.audit import Health, examine, wake_delay
from agentrun.store.connection import describe
from agentrun.store.opening import READER
from agentrun.store.runs import StuckRun

__all__ = ["explain_stuck", "report_health", "span"]

# Dead rows of a table, and 20 % of the live ones, that autovacuum should not leave.
_DEAD_ROWS = 10_000
_LONG_TRANSACTION = 300.0  # seconds
_SLOW_COMMIT = 1.0  # seconds
_CLOCK_DIFFERENCE = 1.0  # seconds between the clocks


def report_health(dsn: str | None, *, version: str) -> dict[str, Any]:
    """Examine a database, None for the embedded one, and report what needs attention.

    Changes nothing. Raises StoreUnavailable or ConfigError if the database cannot be reached.
    """
    target = dsn or embedded.start()
    health, late = examine(target), wake_delay()
    return _report(None if dsn else embedded.where(), target, health, late, version)


def explain_stuck(run: StuckRun) -> str:
    """Say why a run does not go on, and which command helps."""
    key, agent = run.key, run.agent
    match run.why:
        case "held":
            return f"waits for a person ({run.reason or 'held'}): `agentrun inbox`"
        case "owner dead":
            resume = write_command("resume", key, "FILE")
            return f"its worker {run.owner} is dead: `{resume}` goes on"
        case _:
            option = "" if run.queue == "default" else f" --queue {quote_word(run.queue)}"
            return (
                f"no live worker serves the agent {agent!r} and the queue {run.queue!r}: "
                f"`agentrun worker FILE{option}` starts one"
            )


def _report(
    files: embedded.Files | None,
    dsn: str,
    health: Health,
    late: tuple[float, float],
    version: str,
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
        "agentrun": version,
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
    found: list[str] = []
    if health.standby:
        found.append("the server is a standby: it takes no writes; name the primary in the DSN")
    if health.synchronous_commit == "off":
        found.append(
            "synchronous_commit is off: a server crash loses acknowledged steps; turn it on"
        )
    if health.schema == "missing":
        found.append("the schema is missing: the first use makes it, or `agentrun migrate` now")
    elif health.schema == "older":
        found.append("the schema is older: run `agentrun migrate`")
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
            f"a transaction that is {span(held['age'])} old keeps vacuum from removing what has "
            f"died since: {held['who']}; end it"
        )
    for table in health.vacuum:
        if table["dead"] > _DEAD_ROWS + 0.2 * table["live"]:
            yield (
                f"{table['table']} has {table['dead']} dead rows: "
                f"VACUUM agentrun.{table['table']}, and let autovacuum come more often"
            )


def span(seconds: float) -> str:
    """``3 min``, ``2 h``: a duration in its largest unit."""
    seconds = int(seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{max(0, seconds)} s"
