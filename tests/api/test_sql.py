"""`agentrun.sql`: it only reads, keeps the types of values, and shows itself."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

import agentrun
from agentrun.core.errors import AgentrunError, ConfigError

KINDS = (
    "SELECT 1.50::numeric AS money, 7 AS n, true AS yes, 'a'::text AS word,"
    " '2026-11-22 12:00:00+00'::timestamptz AS at, '{\"a\": [1, null]}'::json AS json,"
    " '00000000-0000-0000-0000-000000000007'::uuid AS id"
    " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL"
)
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


@agentrun.agent(name="asked-by-sql")
def note(text: str) -> str:
    return text


def test_a_query_takes_parameters_and_returns_values_with_their_types(db: Any) -> None:
    note.with_options(key="50% off").run("x")
    found = agentrun.sql("SELECT key, created_at FROM runs WHERE key = %s", "50% off")
    assert found.columns == ("key", "created_at")
    ((key, at),) = found.rows
    assert key == "50% off"
    assert at.tzinfo is not None
    assert agentrun.sql("SELECT key FROM runs WHERE key LIKE '50%'").rows == (("50% off",),)
    row = agentrun.sql(KINDS).rows[0]
    assert row[:5] == (Decimal("1.50"), 7, True, "a", AT)
    assert row[6] == UUID(int=7)


def test_an_empty_result_has_its_columns(db: Any) -> None:
    found = agentrun.sql("SELECT key, status AS s FROM runs WHERE key = %s", "nowhere")
    assert (found.columns, found.rows) == (("key", "s"), ())
    assert str(found).splitlines() == ["key   s", "no rows"]
    assert list(found.to_pandas().columns) == ["key", "s"]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM runs",
        "SELECT 1; DELETE FROM agentrun.workers",
        "COMMIT; DELETE FROM agentrun.workers",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "COMMIT",
        "COPY runs TO STDOUT",
        "SELEC",
        "SELECT %s, %s",
    ],
)
def test_it_only_reads(db: Any, query: str) -> None:
    note.with_options(key="k").run("x")
    with pytest.raises(AgentrunError):
        agentrun.sql(query, *(["1"] if "%s" in query else []))
    assert agentrun.get("k").status() == "done"


def test_it_reads_by_the_role_of_readers(db: Any) -> None:
    """The login of the tests is the owner; a query is still asked as a reader."""
    with psycopg.connect(db.dsn, autocommit=True) as conn:
        from agentrun.store import roles

        roles.create(conn)
    (user,) = agentrun.sql("SELECT current_user::text").rows[0]
    assert user.endswith("reader")


def test_a_query_that_takes_too_long_is_ended(db: Any) -> None:
    with pytest.raises(AgentrunError, match=r"took longer than 0\.2 s"):
        agentrun.sql("SELECT pg_sleep(60)", timeout=0.2)
    with pytest.raises(ConfigError, match="timeout"):
        agentrun.sql("SELECT 1", timeout=0)


def test_a_limit_says_that_there_are_more_rows(db: Any) -> None:
    query = "SELECT generate_series(1, 3) AS n"
    found = agentrun.sql(query, limit=2)
    assert (len(found), found.truncated) == (2, True)
    assert "2 rows, and the query has more" in str(found)
    assert "2 rows, and the query has more" in (found._repr_html_() or "")
    whole = agentrun.sql(query, limit=3)
    assert (len(whole), whole.truncated) == (3, False)


def test_pandas_keeps_the_types(db: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = agentrun.sql(KINDS).to_pandas()
    assert list(frame.columns) == ["money", "n", "yes", "word", "at", "json", "id"]
    assert frame["money"][0] == Decimal("1.50")
    assert isinstance(frame["money"][0], Decimal)
    assert (str(frame["n"].dtype), frame["n"][0]) == ("Int64", 7)
    assert str(frame["yes"].dtype) == "boolean"
    assert frame["at"][0] == pandas.Timestamp(AT)
    assert frame["at"][0].tzinfo is not None
    assert frame["json"][0] == {"a": [1, None]}
    large = agentrun.sql("SELECT 9007199254740993 AS n UNION ALL SELECT NULL").to_pandas()
    assert large["n"][0] == 9007199254740993  # a float would lose the last digit
    twins = agentrun.sql("SELECT 1 AS a, 2 AS a").to_pandas()
    assert list(twins.columns) == ["a", "a"]


def test_polars_keeps_the_types(db: Any) -> None:
    polars = pytest.importorskip("polars")
    frame = agentrun.sql(KINDS).to_polars()
    assert frame["money"].to_list() == [Decimal("1.50"), None]
    assert isinstance(frame["money"][0], Decimal)
    assert frame.schema["n"] == polars.Int64
    assert frame.schema["yes"] == polars.Boolean
    assert frame.schema["at"].time_zone is not None
    assert frame["at"][0] == AT
    assert frame["json"].to_list()[0] == {"a": [1, None]}
    mixed = agentrun.sql("SELECT 1.5::numeric AS m UNION ALL SELECT 2.25").to_polars()
    assert sorted(mixed["m"].to_list()) == [Decimal("1.5"), Decimal("2.25")]
    odd = agentrun.sql("SELECT 'NaN'::numeric AS m").to_polars()
    assert math.isnan(odd["m"].to_list()[0])
    with pytest.raises(ConfigError, match="two columns are named 'a'"):
        agentrun.sql("SELECT 1 AS a, 2 AS a").to_polars()


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    db: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    table = agentrun.sql("SELECT 1 AS n")
    with pytest.raises(ConfigError, match=rf"agentrun-harness\[{package}\]"):
        getattr(table, f"to_{package}")()
