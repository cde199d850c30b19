"""What a journal needs that is spread over tables or machines by a hash of the run.

The catalog and the statements are asked for it; and runs are executed on hash partitions, where
Postgres itself refuses a unique key without the run, and as a role that may not change the journal.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest
from living import live
from psycopg.conninfo import conninfo_to_dict

from agentrun.store import migrate as migrations
from agentrun.store import roles
from agentrun.store.connection import connect
from agentrun.store.embedded import Files
from agentrun.store.sql import QUERIES

PAGE = Path(__file__).parents[2] / "ARCHITECTURE.md"
OF_RUNS = {
    "journal",
    "summaries",
    "payloads",
    "mail",
    "late_results",
    "budgets",
    "reservations",
    "counted_calls",
    "permits",
    "partials",
    "exact_values",
}
SPREAD = {"journal", "payloads"}  # the bulk
WHOLE = {
    "runs", "workers", "migrations", "tombstones", "gateway_calls", "blob_folder", "limits",
    "holds", "mask_key", "gateway_answers", "gateway_secret",
    "roles",
}  # fmt: skip
PARTITIONS = 8


def asked(dsn: str, query: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query).fetchall()


def test_every_unique_key_contains_the_run(dsn: str) -> None:
    """In `runs` the run is the key; its other key, by which callers name it, is why it stays."""
    found = asked(
        dsn,
        """
        SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
        WHERE i.indisunique AND c.relnamespace = 'agentrun'::regnamespace
        GROUP BY i.indexrelid, c.relname
        """,
    )
    keys = [(table, columns) for table, columns in found if table in OF_RUNS]
    assert {table for table, _ in keys} == OF_RUNS
    assert [key for key in keys if "run_id" not in key[1]] == []
    tables = {name for (name,) in asked(dsn, "SELECT tablename FROM pg_tables WHERE schemaname"
                                             " = 'agentrun'")}  # fmt: skip
    assert tables - OF_RUNS == WHOLE, "is the new one of a run?"


def test_nothing_binds_the_rows_of_different_runs(dsn: str) -> None:
    """No foreign keys, row triggers, rules, sequences: each would have to reach all parts.

    `runs` is in one piece, so that a trigger may look there whether a key was pruned. That of
    `mail` looks at the letter's own run.
    """
    bound = """
        SELECT conname FROM pg_constraint
        WHERE contype IN ('f', 'x') AND connamespace = 'agentrun'::regnamespace
        UNION ALL
        SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'agentrun'::regnamespace AND t.tgtype & 1 = 1 AND NOT t.tgisinternal
          AND c.relname NOT IN ('runs', 'mail')
          AND t.tgname <> 'fault_at_commit'  -- of --serializable
        UNION ALL
        SELECT r.rulename FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
        WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind <> 'v'
        UNION ALL
        SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'agentrun'::regnamespace
    """
    assert asked(dsn, bound) == []


_READ = re.compile(r"(?:FROM|JOIN) agentrun\.(?:journal|payloads)\b(?: (?!WHERE|JOIN|USING)(\w+))?")


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_a_statement_reads_the_journal_only_of_runs_that_it_names(name: str) -> None:
    """By equality with a parameter, or with the run of another table's row."""
    text = re.sub(r"--.*", "", QUERIES[name])
    for found in _READ.finditer(text):
        rest, alias = text[found.end() :], found[1] or ""
        column = rf"\b{alias}\.run_id" if alias else r"(?<!\.)\brun_id"
        joined = "USING (run_id" in rest.partition("WHERE")[0]
        assert joined or re.search(rf"{column} = |= {column}\b", rest), f"{name}: {found[0]}"


# -- a whole life ----------------------------------------------------------------------------------


@pytest.fixture
def partitioned(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database whose journal and payloads are hash partitions."""
    monkeypatch.setattr(migrations, "known_migrations", lambda: [_spread(m) for m in KNOWN])
    migrations.migrate(empty_dsn)
    return empty_dsn


KNOWN = migrations.known_migrations()


def _spread(migration: migrations.Migration) -> migrations.Migration:
    return replace(migration, sql=re.sub(
        r"CREATE TABLE agentrun\.(journal|payloads) \(.*?\n\)(?=;)",
        lambda made: f"{made[0]} PARTITION BY HASH (run_id);\n" + ";\n".join(
            f"CREATE TABLE agentrun.{made[1]}_{n} PARTITION OF agentrun.{made[1]}"
            f" FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {n})"
            for n in range(PARTITIONS)
        ),
        migration.sql,
        flags=re.DOTALL,
    ))  # fmt: skip


def test_runs_live_on_hash_partitions(partitioned: str) -> None:
    live(partitioned)
    spread = asked(partitioned, "SELECT DISTINCT tableoid::regclass::text FROM agentrun.journal")
    assert len(spread) > 1, "more than one partition has rows"


def test_runs_live_where_the_journal_is_append_only_by_grants(dsn: str, server: Files) -> None:
    """The role of workers may not change it, and no trigger has to keep them from it."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    with connect(server.dsn(name)) as owner:
        names = roles.create(owner, prefix=name)
    role = names["worker"]
    with psycopg.connect(server.dsn(name), autocommit=True) as admin:
        admin.execute("DROP TRIGGER journal_append_only ON agentrun.journal")
        admin.execute(cast(LiteralString, f"ALTER DATABASE {name} SET role = {role}"))
        try:
            live(dsn)
            for change in "DELETE FROM", "TRUNCATE", "UPDATE":
                end = " SET run_id = NULL" if change == "UPDATE" else ""
                for table in SPREAD:
                    statement = cast(LiteralString, f"{change} agentrun.{table}{end}")
                    with psycopg.connect(dsn) as conn:
                        assert conn.execute("SELECT current_user").fetchone() == (role,)
                        with pytest.raises(psycopg.errors.InsufficientPrivilege):
                            conn.execute(statement)
        finally:
            admin.execute(cast(LiteralString, f"ALTER DATABASE {name} RESET role"))
            for made in names.values():
                admin.execute(cast(LiteralString, f"DROP OWNED BY {made}; DROP ROLE {made}"))
