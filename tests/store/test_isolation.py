"""Databases whose transactions are stricter than READ COMMITTED, and fail for it."""

from __future__ import annotations

import threading
from typing import LiteralString, cast

import faults
import psycopg
import pytest
from crashing import until
from living import live
from psycopg.conninfo import conninfo_to_dict

import agentrun
from agentrun.core.budget import Budget, BudgetRefusal, Quote
from agentrun.store.budgets import ReservedAttempt, reserve
from agentrun.store.embedded import Files
from agentrun.store.keys import run_id_of
from agentrun.store.migrate import known_migrations, migrate
from agentrun.store.sql import QUERIES, SCHEMA_LOCK

WAITING = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def isolate(server: Files, dsn: str, level: str) -> str:
    """From now on transactions in this database are so by default. Returns a direct dsn of it."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    alter = f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(cast(LiteralString, alter))
    return server.dsn(name)


@pytest.fixture(params=["repeatable read", "serializable"])
def strict(request: pytest.FixtureRequest, server: Files, dsn: str) -> str:
    return isolate(server, dsn, request.param)


@pytest.mark.read_committed("brings dice of its own")
def test_runs_live_where_every_fifth_write_and_commit_fails(dsn: str, server: Files) -> None:
    direct = isolate(server, dsn, "serializable")
    faults.install(direct, sides=5)
    live(dsn)
    throws, failures = faults.thrown(direct)
    assert throws > failures > 10


def test_a_reservation_sees_what_its_lock_made_it_wait_for(strict: str) -> None:
    """Else two runs of a tree would both get the last call of its budget."""
    run_id, decided = run_id_of("k"), list[object]()
    with agentrun.connect(strict) as db, psycopg.connect(strict) as other:
        assert db.create("k", "a", {}, "", budget=Budget(model_calls=1))
        first = {"run_id": run_id, "step": 1, "attempt": 1, "turn": 1, "epoch": 1}
        other.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        other.execute(QUERIES["lock_tree"], {**first, "milliseconds": "0"})

        def ask() -> None:
            decided.append(reserve(db, ReservedAttempt(run_id, 2, 1, 2, 1), Quote(1))[1])

        asking = threading.Thread(target=ask)
        asking.start()
        with psycopg.connect(strict, autocommit=True) as watching:
            until(lambda: bool(watching.execute(WAITING).fetchall()))
        other.execute(QUERIES["reserve"], {**first, "usd": None, "used": 1})
        other.commit()
        asking.join(60)
        assert [type(answer) for answer in decided] == [BudgetRefusal]


def test_who_waits_for_another_to_migrate_sees_that_it_did(server: Files, empty_dsn: str) -> None:
    strict = isolate(server, empty_dsn, "serializable")
    applied: list[str] = []

    def one() -> None:
        applied.extend(migration.name for migration in migrate(strict))

    with psycopg.connect(strict) as held, psycopg.connect(strict, autocommit=True) as watching:
        held.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(watching.execute(WAITING).fetchall()) == 3)
        held.commit()
        for thread in threads:
            thread.join(60)
    assert sorted(applied) == [migration.name for migration in known_migrations()]
