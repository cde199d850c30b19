"""Tables that change, under load, while a reader keeps vacuum from removing what is dead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import psycopg
from psycopg.rows import class_row

import agentrun
from agentrun.store.database import OpenDatabase
from benchmarks import agents, ours, sizes

CHANGED = """
SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot, n_dead_tup AS dead,
       pg_total_relation_size(relid) AS bytes
FROM pg_stat_user_tables WHERE relid = %s::regclass
"""


@dataclass(frozen=True)
class Changed:
    """What was done to a table so far, and how large it is."""

    updates: int
    hot: int
    dead: int
    bytes: int


def with_a_reader(dsn: str) -> dict[str, float]:
    """The look of a worker that finds nothing, after a load without a reader and after one with:
    microseconds; how much of the heartbeats was HOT; and what a run left in `runs`."""
    found: dict[str, float] = {"seconds of the reader": sizes.READER}
    with agentrun.connect(dsn) as opened, psycopg.connect(dsn, autocommit=True) as conn:
        for beside, seconds in (("", sizes.UNDISTURBED), (", reader", sizes.READER)):
            before = _changed(conn, "runs"), _changed(conn, "workers")
            with _reader(dsn) if beside else nullcontext(), ours.started("worker", dsn):
                runs = _load(seconds)
                time.sleep(sizes.COUNTED)
                found[f"look us{beside}"] = _look(opened)
                after = _changed(conn, "runs"), _changed(conn, "workers")
            beats = after[1].updates - before[1].updates
            found[f"HOT beats{beside}"] = (after[1].hot - before[1].hot) / beats
            found[f"runs{beside}"] = runs
            found[f"dead a run{beside}"] = (after[0].dead - before[0].dead) / runs
            found[f"bytes a run{beside}"] = (after[0].bytes - before[0].bytes) / runs
        conn.execute("VACUUM agentrun.runs")
        found["look us, vacuumed"] = _look(opened)
    found["agentrun"] = found["look us, reader"] / found["look us, vacuumed"]
    return found


@contextmanager
def _reader(dsn: str) -> Iterator[None]:
    """A transaction that sees the database as it is now, for as long as this lasts."""
    with psycopg.connect(dsn) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SELECT count(*) FROM agentrun.runs")
        yield


def _load(seconds: float) -> int:
    """Submit runs at a steady rate, and wait for them."""
    handles = []
    begun = time.monotonic()
    while (spent := time.monotonic() - begun) < seconds:
        if len(handles) < sizes.SUBMITTED_A_SECOND * spent:
            handles.append(agents.started.submit())
        else:
            time.sleep(0.01)
    for handle in handles:
        handle.result()
    return len(handles)


def _look(opened: OpenDatabase) -> float:
    return median(ours.timed(lambda: ours.claim(opened)) for _ in range(5 * sizes.CLAIMS)) * 1e6


def _changed(conn: psycopg.Connection[Any], table: str) -> Changed:
    cursor = conn.cursor(row_factory=class_row(Changed))
    found = cursor.execute(CHANGED, [f"agentrun.{table}"]).fetchone()
    assert found is not None
    return found
