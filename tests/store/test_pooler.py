"""Through PgBouncer in transaction mode: what a session is no longer for, and what goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crashing import until
from pooler import INSTALL, pooler, program, through
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import agentrun
from agentrun.store.connection import connect
from agentrun.store.embedded import Files
from agentrun.store.liveness import Heart, find_dead

pytestmark = pytest.mark.skipif(program() is None, reason=INSTALL)


@pytest.fixture
def direct(dsn: str, server: Files) -> str:
    return server.dsn(str(conninfo_to_dict(dsn)["dbname"]))


@pytest.fixture
def pooled(direct: str, server: Files) -> Iterator[str]:
    with pooler(server) as folder:
        yield through(direct, folder)


@agentrun.tool(effect="idempotent")
def add(total: int, n: int) -> int:
    return total + n


@agentrun.agent
def adding(numbers: int) -> int:
    total = 0
    for n in range(numbers):
        total = add(total, n)
    return total


def test_sessions_take_turns_and_nothing_is_prepared_in_any(direct: str, pooled: str) -> None:
    with connect(direct) as conn:
        assert not conn.pooled
    with connect(pooled) as conn:
        assert conn.pooled
        query = "SELECT pg_backend_pid() AS pid, (SELECT count(*) FROM pg_prepared_statements) AS n"

        def sessions() -> set[tuple[int, int]]:
            rows = [conn.execute(query).fetchone() for _ in range(12)]
            return {(row["pid"], row["n"]) for row in rows if row}

        until(lambda: len(sessions()) > 1)
        assert conn.execute("SHOW enable_seqscan").fetchone() == {"enable_seqscan": "on"}
        with agentrun.connect(pooled):
            assert adding.run(30) == sum(range(30))
        assert {n for _, n in sessions()} == {0}


def test_a_worker_polls_and_leaves_no_session_listening(pooled: str) -> None:
    with agentrun.connect(pooled), agentrun.Worker([adding]):
        assert adding.submit(3).result(timeout=60) == 3
    with connect(pooled) as conn:
        for _ in range(12):
            assert conn.execute("SELECT pg_listening_channels()").fetchall() == []


def test_the_lease_decides_where_the_session_says_nothing(direct: str, pooled: str) -> None:
    heart = Heart(pooled, 2.0)
    with connect(direct) as conn:
        heart._stop.set()  # as killed on another machine: its sessions end, and it says no word
        heart._thread.join()
        heart._disconnect()
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        conn.execute(end + " AND datname = current_database()")
        conn.execute("UPDATE agentrun.workers SET process = NULL")
        until(lambda: find_dead(conn, heart.worker) is not None)
        dead = find_dead(conn, heart.worker)
        assert dead is not None
        assert dead.cause == "lease expired"


def test_a_login_that_the_pooler_refuses_is_told_from_a_server_that_is_away(pooled: str) -> None:
    with pytest.raises(agentrun.ConfigError, match="refused the login"):
        agentrun.connect(make_conninfo(pooled, user="nobody-it-knows"))
