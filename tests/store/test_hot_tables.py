"""Tables that change all the time: what a claim reads of them, and what a change costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import scalar_row, tuple_row

from agentrun.store.connection import connect
from agentrun.store.database import OpenDatabase
from agentrun.store.sql import QUERIES, numbered

# 2,000 of each: finished, asleep, waiting for mail alone, to begin later, ready for others.
CROWD = """
INSERT INTO agentrun.runs (run_id, key, agent, status, parked_for, wake_at)
SELECT gen_random_uuid(), name || n, agent, status, CASE status WHEN 'waiting' THEN 'time' END,
       clock_timestamp() + later * n
FROM generate_series(1, 2000) n, (VALUES
    ('finished', 'mine', 'done', NULL::interval), ('asleep', 'mine', 'waiting', '1 h'),
    ('waits', 'mine', 'waiting', NULL), ('later', 'mine', 'queued', '1 h'),
    ('other', 'other', 'queued', NULL), ('due', 'other', 'waiting', '-1 ms')
) AS kinds (name, agent, status, later)
"""
QUEUED = """
INSERT INTO agentrun.runs (run_id, key, agent, status)
SELECT gen_random_uuid(), 'queued' || n, 'mine', 'queued' FROM generate_series(1, 2000) n
"""


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True, row_factory=scalar_row) as opened:
        yield opened


@pytest.mark.direct("a pooler's sessions are not ours to set up")
@pytest.mark.parametrize("name", ["append", "append_plain", "claim_ready", "events", "create"])
def test_a_plan_of_empty_tables_serves_when_they_are_full(dsn: str, name: str) -> None:
    with connect(dsn) as ours:
        ours.execute("VACUUM ANALYZE agentrun.runs, agentrun.journal")  # known to be empty
        statement = "EXPLAIN (GENERIC_PLAN, FORMAT JSON) " + numbered(QUERIES[name])[0]
        ((told,),) = psycopg.RawCursor(ours, row_factory=tuple_row).execute(statement)
    assert "Seq Scan" not in str(told)


@pytest.mark.direct("a pooler's sessions are not ours to set up")
def test_a_webhook_finds_its_run_without_a_look_at_others(dsn: str) -> None:
    with connect(dsn) as ours:
        statement = "EXPLAIN (GENERIC_PLAN) " + numbered(QUERIES["response_ended"])[0]
        told = str(psycopg.RawCursor(ours, row_factory=tuple_row).execute(statement).fetchall())
    assert "using journal_accepted" in told
    assert "using runs_pkey" in told


def test_what_is_set_for_our_statements_is_not_set_for_those_of_others(dsn: str) -> None:
    with connect(dsn, ours=False) as theirs:
        told = theirs.execute("SELECT current_setting('enable_seqscan') AS on").fetchone()
    assert told == {"on": "on"}


def read_of_runs(conn: psycopg.Connection[Any], limit: int) -> tuple[float, float]:
    """Rows of `runs` that a claim finds and passes over, by its plan."""
    conn.execute("VACUUM ANALYZE agentrun.runs")
    asked = {"agents": ["mine"], "queues": ["default"], "limit": limit, "worker": "w"}
    explain = "EXPLAIN (ANALYZE, FORMAT JSON) "
    with conn.transaction(force_rollback=True):
        (plan,) = conn.execute(explain + QUERIES["claim_ready"], {**asked, "batch": uuid4()})
    found = passed = 0.0
    plans = [plan[0]["Plan"]]
    while plans:
        node = plans.pop()
        plans += node.get("Plans", [])
        if node.get("Relation Name") == "runs" and "Scan" in node["Node Type"]:
            found += node["Actual Rows"] * node["Actual Loops"]
            passed += node.get("Rows Removed by Filter", 0) * node["Actual Loops"]
    return found, passed


@pytest.mark.tampers
def test_a_claim_reads_no_run_that_is_not_ready_for_it(conn: psycopg.Connection[Any]) -> None:
    conn.execute(CROWD)
    assert read_of_runs(conn, 10) == (0, 0)


@pytest.mark.tampers
def test_a_claim_reads_no_more_of_a_long_queue_than_it_takes(
    conn: psycopg.Connection[Any],
) -> None:
    conn.execute(CROWD)
    conn.execute(QUEUED)
    assert read_of_runs(conn, 10) == (10, 0)


@pytest.mark.parametrize("reader", [False, True])
def test_heartbeats_touch_no_index_whoever_reads(
    dsn: str, conn: psycopg.Connection[Any], reader: bool
) -> None:
    """What a beat leaves is removed in passing; beside a reader, once a page is full, it moves.

    An autovacuum worker that analyzes a table is a reader, too, and so is a query of ours that a
    busy machine has stopped half-way. They may last through some rounds of beats, and not through
    all. Without a reader a round is short, so that a page is full once in it at the most.
    """
    beats, rounds = (600, 5) if reader else (100, 30)
    with psycopg.connect(dsn) as old, OpenDatabase(dsn) as database:
        if reader:
            old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            old.execute("SELECT count(*) FROM agentrun.workers")
        seen = []
        for _ in range(rounds):
            before = of_workers(database, conn)
            for _ in range(beats):
                database.heart._beat()
            every, hot, grown = (
                now - then for now, then in zip(of_workers(database, conn), before, strict=True)
            )
            seen.append((every, hot, grown))
            assert every >= beats
            if hot >= 0.95 * every and grown <= (beats * 400 if reader else 0):
                return
    raise AssertionError(seen)


def of_workers(database: OpenDatabase, conn: psycopg.Connection[Any]) -> tuple[int, int, int]:
    """Updates of `workers` so far, those of them that touched no index, and its bytes."""
    database.heart._beat()
    heart = database.heart._connection()
    heart.execute("SELECT pg_stat_force_next_flush()")
    heart.execute("SELECT 1")
    counted = "SELECT n_tup_{}upd FROM pg_stat_user_tables WHERE relname = 'workers'"
    (every,) = conn.execute(counted.format(""))
    (hot,) = conn.execute(counted.format("hot_"))
    (size,) = conn.execute("SELECT pg_relation_size('agentrun.workers')")
    return every, hot, size


def test_tables_that_change_are_stored_as_the_migrations_say(
    conn: psycopg.Connection[Any],
) -> None:
    stored = "SELECT reloptions FROM pg_class WHERE oid = ('agentrun.' || %s)::regclass"
    assert {
        name: next(conn.execute(stored, [name])) for name in ("runs", "workers", "journal")
    } == {
        "runs": [
            "fillfactor=70",
            "autovacuum_vacuum_scale_factor=0.02",
            "autovacuum_analyze_scale_factor=0.02",
        ],
        "workers": [
            "fillfactor=50",
            "autovacuum_vacuum_scale_factor=0",
            "autovacuum_vacuum_threshold=500",
        ],
        "journal": None,
    }
