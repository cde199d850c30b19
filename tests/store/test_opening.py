"""Which databases are opened, and which are refused before anything is written."""

from __future__ import annotations

import psycopg
import pytest

import agentrun
from agentrun.store.run_list import list_runs


@pytest.fixture
def careless(dsn: str) -> str:
    """A database that may lose commits it has acknowledged."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        (name,) = conn.execute("SELECT current_database()").fetchone() or ("",)
        conn.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    return dsn


@pytest.mark.direct("alters a setting of the database, which sessions of a pool had before")
def test_a_server_that_may_lose_commits_is_refused(careless: str) -> None:
    with pytest.raises(agentrun.ConfigError, match="synchronous_commit=off"):
        agentrun.connect(careless)


def test_a_server_that_may_lose_commits_is_taken_if_told_so(careless: str) -> None:
    with agentrun.connect(careless, allow_unsafe=True) as database:
        assert list_runs(database, limit=1) == []
