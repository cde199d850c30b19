"""What must hold in every database: `invariants.sql`, asked after a test did its worst."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg

from agentrun.core.state import STATUS_AFTER

_SUMMARIES = Path(__file__).with_name("summaries.sql").read_text("utf-8")
_RULES = Path(__file__).with_name("invariants.sql").read_text("utf-8")
SQL = cast(LiteralString, _RULES.replace("/* summaries.sql */", _SUMMARIES))
SUMMARIZE = cast(
    LiteralString,
    "INSERT INTO agentrun.summaries (run_id, turns, model_calls, input_tokens, output_tokens,"
    " cached_tokens, reasoning_tokens, cost, unpriced, failed_step, error_type, error)"
    f" {_SUMMARIES}",
)


def summarize(conn: psycopg.Connection[Any]) -> None:
    """Write the summaries of runs whose journals a test wrote by hand."""
    conn.execute("DELETE FROM agentrun.summaries")
    conn.execute(SUMMARIZE)


def violations(dsn: str) -> list[tuple[str, str, str]]:
    """Each broken rule with the run and the detail; empty when all is well."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        rows = conn.execute(SQL, {"status_after": json.dumps(STATUS_AFTER)}).fetchall()
    return [(rule, str(run_id), detail) for rule, run_id, detail in rows]


def assert_invariants(dsn: str) -> None:
    """Fail, naming what is broken, unless every invariant holds."""
    found = violations(dsn)
    assert not found, f"{len(found)} violations, the first: {found[:5]}"
