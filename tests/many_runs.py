"""A database of many runs: a few are real, and SQL copies their rows.

`fill` needs minutes for a million steps, where as many real steps would need an hour. `Plans` tells
which plans the server made for whatever is called, by its module auto_explain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from openai import OpenAI
from psycopg import sql

import agentrun
from agentrun.testing import Call, Provider, Reply, Rule

__all__ = ["BIG", "Plans", "fill"]

BIG = ("runs", "summaries", "journal")
_DAYS = 365  # over which the runs are spread
_TABLES = ("runs", "summaries", "journal")
_TIMES = ("created_at", "changed_at", "started_at", "since", "at", "wake_at")

_COPIES = """
CREATE TEMP TABLE copies AS
SELECT t.run_id AS template, n, gen_random_uuid() AS run_id, d.shift
FROM (SELECT run_id, row_number() OVER (ORDER BY created_at) AS place, count(*) OVER () AS kinds
      FROM agentrun.runs WHERE parent IS NULL) t
CROSS JOIN LATERAL (SELECT generate_series(1, %(each)s) n) g
CROSS JOIN LATERAL (
    SELECT (n * t.kinds + t.place) * interval '1 day' * %(days)s / (%(each)s * t.kinds) AS shift
) d
"""
# A child is copied with its parent.
_CHILDREN = """
INSERT INTO copies
SELECT r.run_id, c.n, gen_random_uuid(), c.shift
FROM agentrun.runs r JOIN copies c ON c.template = r.parent
"""


def record(provider: Provider, steps: int) -> None:
    """Record a run of each kind: done ones of two agents and of a tree, one failed, one held, one
    that waits for a signal. The long ones have so many steps."""
    client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
    asked = Reply("I look it up.", [Call("look", {"what": "the order"})])
    rules = [Rule({"turn": turn}, asked) for turn in range(steps // 2)]
    provider.say(rules=[*rules, Rule({"turn": steps // 2}, "All is well.")])

    @agentrun.tool(effect="read")
    def look(what: str) -> str:
        return f"{what} is in the warehouse"

    @agentrun.tool(approve=True)
    def pay(cents: int) -> None: ...

    def converse(question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            reply = client.chat.completions.create(model="gpt-5-mini", messages=messages)
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return str(message.content)
            messages += agentrun.call_tools(reply, [look])

    @agentrun.agent(name="desk")
    def desk(question: str) -> str:
        return converse(question)

    @agentrun.agent(name="tree")
    def tree(question: str) -> str:
        return desk.run(question)

    @agentrun.agent(name="failing")
    def failing(question: str) -> None:
        raise LookupError(converse(question))

    @agentrun.agent(name="paying")
    def paying(question: str) -> None:
        converse(question)
        pay(5)

    @agentrun.agent(name="awaiting")
    def awaiting(question: str) -> None:
        converse(question)
        agentrun.receive("go")

    for number in range(8):
        desk.with_options(key=f"desk-{number}").run("Where is it?")
    tree.with_options(key="tree").run("Where is it?")
    with pytest.raises(agentrun.RunFailed):
        failing.with_options(key="failing").run("Where is it?")
    with pytest.raises(agentrun.RunHeld):
        paying.with_options(key="paying").run("Where is it?")
    handle = awaiting.with_options(key="awaiting").submit("Where is it?")
    with agentrun.Worker([awaiting]):
        while handle.status() != "waiting":
            pass


def fill(dsn: str, provider: Provider, *, runs: int, steps: int) -> tuple[int, int]:
    """Fill the database, and return how many runs and steps it has.

    One run of a kind waits, however many there are: what is open is few in any real database.
    """
    with agentrun.connect(dsn):
        record(provider, 11 * steps // (10 * runs) + 2)  # one run of eleven is short
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(_COPIES, {"each": runs // 11 + 1, "days": _DAYS})  # eleven kinds of many
        conn.execute("DELETE FROM copies WHERE n > 20 AND template IN (SELECT run_id"
                     " FROM agentrun.runs WHERE status IN ('held', 'waiting'))")  # fmt: skip
        conn.execute(_CHILDREN)
        for table in _TABLES:
            conn.execute(_copy(conn, table))
        conn.execute("VACUUM ANALYZE")
        found = conn.execute(
            "SELECT (SELECT count(*) FROM agentrun.runs),"
            " (SELECT count(*) FROM agentrun.journal WHERE event = 'step_finished')"
        ).fetchone()
    assert found is not None
    return found[0], found[1]


def _copy(conn: psycopg.Connection[Any], table: str) -> sql.Composed:
    """The statement that copies the rows of all templates."""
    query = sql.SQL("SELECT * FROM agentrun.{} LIMIT 0").format(sql.Identifier(table))
    columns = [column.name for column in conn.execute(query).description or ()]
    made = {"run_id": sql.SQL("c.run_id")}
    made |= {time: sql.SQL("t.{} - c.shift").format(sql.Identifier(time)) for time in _TIMES}
    if table == "runs":
        made["key"] = sql.SQL("t.key || '-' || c.n")
        made["parent"] = sql.SQL(
            "(SELECT p.run_id FROM copies p WHERE p.template = t.parent AND p.n = c.n)"
        )
    values = [made.get(name, sql.SQL("t.{}").format(sql.Identifier(name))) for name in columns]
    return sql.SQL("INSERT INTO agentrun.{} ({}) SELECT {} FROM copies c JOIN agentrun.{} t"
                   " ON t.run_id = c.template").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(values), sql.Identifier(table),
    )  # fmt: skip


class Plans:
    """The plans of the statements that this process has executed in a database, with their times.

    The statements inside the functions of the schema are among them.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._told: list[dict[str, Any]] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the plans of connections that are opened within."""
        name = psycopg.conninfo.conninfo_to_dict(self._dsn)["dbname"]
        settings = {
            "session_preload_libraries": "auto_explain", "client_min_messages": "log",
            "auto_explain.log_min_duration": "0", "auto_explain.log_analyze": "on",
            "auto_explain.log_format": "json", "auto_explain.log_nested_statements": "on",
        }  # fmt: skip
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            conn.execute("LOAD 'auto_explain'")  # which makes its settings known
            for setting, value in settings.items():
                alter = sql.SQL("ALTER DATABASE {} SET {} = {}")
                known = sql.Identifier(*setting.split("."))
                conn.execute(alter.format(sql.Identifier(str(name)), known, sql.Literal(value)))
        opened = psycopg.Connection.__init__

        def open_awaiting(conn: Any, *args: Any, **given: Any) -> None:
            opened(conn, *args, **given)
            conn.add_notice_handler(self._take)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psycopg.Connection, "__init__", open_awaiting)
            yield

    def _take(self, notice: Any) -> None:
        spent, found, plan = (notice.message_primary or "").partition("ms  plan:\n")
        if found:
            milliseconds = float(spent.removeprefix("duration:"))
            self._told.append({**json.loads(plan), "milliseconds": milliseconds})

    def take(self) -> list[dict[str, Any]]:
        """The plans since the last call."""
        told, self._told = self._told, []
        return told


def server_time(plans: list[dict[str, Any]]) -> float:
    """The milliseconds of the statements. Those within functions count in their callers."""
    return sum(one["milliseconds"] for one in plans if not one["Query Text"][:1].isspace())


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The scans of a plan that were executed: kind and table."""
    if "Relation Name" in plan and plan.get("Actual Loops", 1):
        yield plan["Node Type"], plan["Relation Name"]
    for below in plan.get("Plans", ()):
        yield from scans(below)
