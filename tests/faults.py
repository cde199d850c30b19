"""SERIALIZABLE, and its failures: thrown by dice in the database, `faults.sql`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import LiteralString, cast
from zlib import crc32

import psycopg

from agentrun.store.sql import QUERIES, numbered

OPTIONS = "-c default_transaction_isolation=serializable"  # PGOPTIONS: of every connection
SQL = cast(LiteralString, Path(__file__).with_name("faults.sql").read_text("utf-8"))
SEED = int(os.environ.get("AGENTRUN_SEED", "0"))
SIDES = 20  # of the dice: one throw in so many is a failure


def install(dsn: str, *, sides: int = SIDES) -> None:
    """What agentrun writes in this database, and in copies of it, fails now and then."""
    statements = [numbered(query)[0] for query in QUERIES.values()]
    with psycopg.connect(dsn) as conn:
        psycopg.ClientCursor(conn).execute(SQL, {"sides": sides, "statements": statements})


def seed(dsn: str, test: str) -> None:
    """Every test has dice of its own, which fall alike each time it is run."""
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE faults.rules SET seed = %s", [SEED + crc32(test.encode())])


def thrown(dsn: str) -> tuple[int, int]:
    """How often the dice were thrown there, and how often that was a failure."""
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            """
            SELECT count(*), count(*) FILTER (WHERE faults.fell(n) IS NOT NULL)
            FROM faults.dice, generate_series(1, CASE WHEN is_called THEN last_value ELSE 0 END) n
            """
        ).fetchone()
    assert found is not None
    return found[0], found[1]
