"""Tables that change all the time: what a claim reads of them, and what a change costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import scalar_row

from agentrun.store.sql import QUERIES

# 2,000 of each: finished, asleep, waiting for mail alone, to begin later, ready for others.
CROWD = """
INSERT INTO agentrun.runs (run_id, key, agent, status, wake_at)
SELECT gen_random_uuid(), name || n, agent, status, clock_timestamp() + later * n
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
