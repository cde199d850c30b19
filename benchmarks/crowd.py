"""A database with a past: a few runs are executed, and SQL copies their rows a million times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

import agentrun
from benchmarks import agents, sizes

# A copy has an id and a key of its own, and is a millisecond older than the last.
COPIED: dict[LiteralString, LiteralString] = {
    "run_id": "c.run_id",
    "created_at": "t.created_at - c.age",
    "changed_at": "t.changed_at - c.age",
    "sent_at": "t.sent_at - c.age",
    "at": "t.at - c.age",
    "wake_at": "t.wake_at - c.age",
}
# In the order of the new ids, or each row would have to look for another page of the index.
COPY = """
INSERT INTO agentrun.{table} SELECT {columns}
FROM (SELECT n, md5(%(key)s || n)::uuid AS run_id, n * interval '1 ms' AS age
      FROM generate_series(1, %(times)s) n) c,
     agentrun.{table} t
WHERE t.run_id = (SELECT r.run_id FROM agentrun.runs r WHERE r.key = %(key)s)
ORDER BY c.run_id, {order}
"""
TABLES: Mapping[LiteralString, tuple[LiteralString, dict[LiteralString, LiteralString]]] = {
    "journal": ("t.seq", {}),
    "mail": ("t.id", {}),  # a letter's id stays: the journal names it as read
    "runs": ("t.key", {"key": "t.key || '-' || c.n"}),
}


def gather(dsn: str) -> None:
    """Fill an empty database with finished, sleeping and waiting runs, as autovacuum leaves it."""
    times = {
        agents.started.name: sizes.FINISHED,
        agents.sleeping.name: sizes.SLEEPING,
        agents.waiting.name: sizes.WAITING,
    }
    _execute()
    with psycopg.connect(dsn, autocommit=True) as conn:
        for key, number in times.items():
            for table in TABLES:
                _copy(conn, table, key, number)
        conn.execute("VACUUM ANALYZE")


def _execute() -> None:
    """One run of each kind, up to where it ends or parks."""
    kinds = [agents.started, agents.sleeping, agents.waiting]
    handles = [kind.with_options(key=kind.name).submit() for kind in kinds]
    agentrun.send(agents.waiting.name, "first", None)
    with agentrun.Worker(kinds):
        while [handle.status() for handle in handles] != ["done", "waiting", "waiting"]:
            time.sleep(0.02)


def _copy(conn: psycopg.Connection[Any], table: LiteralString, key: str, times: int) -> None:
    order, own = TABLES[table]
    names = [name for (name,) in conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = ('agentrun.' || %s)::regclass"
        " AND attnum > 0 AND NOT attisdropped ORDER BY attnum", [table])]  # fmt: skip
    changed = COPIED | own
    columns = [
        sql.SQL(changed[name]) if name in changed else sql.Identifier("t", name) for name in names
    ]
    copy = sql.SQL(COPY).format(
        table=sql.Identifier(table), columns=sql.SQL(", ").join(columns), order=sql.SQL(order)
    )
    conn.execute(copy, {"key": key, "times": times})
