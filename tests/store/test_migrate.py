"""Migrations against real databases, with the bundled files and with files of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from agentrun import bundled
from agentrun.core.errors import ConfigError, SchemaMismatch, StoreError, StoreUnavailable
from agentrun.store.migrate import check, known_migrations, migrate, state

BUNDLED = known_migrations()
Login = Callable[[str], str]
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes migrations of our own take the place of the bundled ones."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    monkeypatch.setattr(bundled, "__path__", [str(tmp_path)])

    def write(name: str, sql: str) -> None:
        (folder / name).write_text(sql)

    return write


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        found = conn.execute("SELECT relname FROM pg_class WHERE relnamespace::regnamespace::text"
                             " = 'agentrun' AND relkind = 'r'")  # fmt: skip
        return {name for (name,) in found}


def test_the_bundled_migrations_are_numbered_from_one_without_gaps() -> None:
    numbers = [migration.number for migration in known_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(list(bundled.folder("migrations").glob("*.sql"))) == len(numbers)


# The beginning of each file's checksum. A migration that databases have is never edited: they would
# be refused for it. What is to change goes into a new one, and its line is added here.
CHECKSUMS = {"0001_schema.sql": "6da5fd090f3c8414"}


def test_no_migration_was_edited_after_it_was_published() -> None:
    assert {found.name: found.checksum[:16] for found in known_migrations()} == CHECKSUMS


def test_a_fresh_database_gets_every_migration(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        assert state(conn) is None
    assert migrate(empty_dsn) == known_migrations()
    assert {"runs", "journal", "migrations"} <= tables(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        assert state(conn) == "current"
        check(conn)


def test_migrating_again_applies_nothing(dsn: str) -> None:
    assert migrate(dsn) == []


def test_a_connection_of_the_caller_serves_whatever_its_settings(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, row_factory=dict_row) as conn:
        assert migrate(conn) == known_migrations()
        conn.rollback()  # committed by itself
        assert state(conn) == "current"


def test_a_connection_with_an_open_transaction_is_refused(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("SELECT 1")
        with pytest.raises(ConfigError, match="no transaction open"):
            migrate(conn)


def test_migrations_at_once_apply_each_file_once(empty_dsn: str) -> None:
    applied: list[str] = []
    barrier = threading.Barrier(4)

    def one() -> None:
        barrier.wait()
        applied.extend(migration.name for migration in migrate(empty_dsn))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [migration.name for migration in known_migrations()]


def test_a_dry_run_lists_what_is_missing_and_changes_nothing(empty_dsn: str) -> None:
    assert migrate(empty_dsn, dry_run=True) == known_migrations()
    with psycopg.connect(empty_dsn) as conn:
        assert state(conn) is None
    assert tables(empty_dsn) == set()


def test_only_what_is_missing_is_applied(empty_dsn: str, write: Write) -> None:
    write(
        "0001_one.sql", "CREATE TABLE agentrun.one (); SELECT 'a % sign'; CREATE VIEW v AS SELECT"
    )
    migrate(empty_dsn)
    write("0002_two.sql", "CREATE TABLE agentrun.two ();")
    with psycopg.connect(empty_dsn) as conn:
        assert state(conn) == "older"
        with pytest.raises(SchemaMismatch, match=r"lacks 0002_two.sql.*`agentrun migrate`"):
            check(conn)
    assert [migration.name for migration in migrate(empty_dsn)] == ["0002_two.sql"]
    assert tables(empty_dsn) == {"migrations", "one", "two"}


@pytest.mark.direct("logins of its own")
def test_a_migration_keeps_rows_and_gives_the_roles_their_rights(
    dsn: str, login: Login, write: Write
) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("INSERT INTO agentrun.limits (model, rpm) VALUES ('m', 1)")
    reader = login("reader")
    for migration in BUNDLED:
        write(migration.name, migration.sql)
    write(
        "0002_teams.sql",
        "CREATE TABLE agentrun.teams (team text);"
        " ALTER TABLE agentrun.limits ADD COLUMN team text NOT NULL DEFAULT 'all'",
    )
    with psycopg.connect(dsn) as conn:
        assert state(conn) == "older"
    assert [migration.name for migration in migrate(dsn)] == ["0002_teams.sql"]
    with psycopg.connect(reader) as conn:
        assert conn.execute("SELECT model, team FROM agentrun.limits").fetchall() == [("m", "all")]
        assert conn.execute("SELECT FROM agentrun.teams").fetchall() == []
        check(conn)


def test_a_migration_that_fails_leaves_those_before_it_and_nothing_of_itself(
    empty_dsn: str, write: Write
) -> None:
    write("0001_one.sql", "CREATE TABLE agentrun.one ();")
    write("0002_two.sql", "CREATE TABLE agentrun.two (); SELECT 1 / 0;")
    with pytest.raises(StoreError, match=r"0002_two.sql failed: division by zero"):
        migrate(empty_dsn)
    assert tables(empty_dsn) == {"migrations", "one"}


def test_an_applied_file_that_was_edited_is_named(empty_dsn: str, write: Write) -> None:
    write("0001_one.sql", "CREATE TABLE agentrun.one ();")
    migrate(empty_dsn)
    write("0001_one.sql", "CREATE TABLE agentrun.one (id integer);")
    with pytest.raises(SchemaMismatch, match=r"0001_one\.sql"):
        migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as conn, pytest.raises(SchemaMismatch, match=r"0001_one\.sql"):
        check(conn)


def test_a_file_keeps_its_checksum_when_a_checkout_changes_its_newlines(write: Write) -> None:
    write("0001_one.sql", "SELECT 1;\nSELECT 2;\n")
    (before,) = known_migrations()
    write("0001_one.sql", "SELECT 1;\r\nSELECT 2;\r\n")
    (after,) = known_migrations()
    assert after.checksum == before.checksum


def test_a_database_newer_than_the_code_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "INSERT INTO agentrun.migrations (number, name, checksum)"
            " VALUES (9999, '9999_future.sql', '')"
        )
    with psycopg.connect(dsn) as conn:
        assert state(conn) == "newer"
        with pytest.raises(SchemaMismatch, match="--upgrade agentrun-harness"):
            check(conn)
    with pytest.raises(SchemaMismatch, match="--upgrade agentrun-harness"):
        migrate(dsn)


def test_a_database_without_the_schema_is_told_to_migrate(empty_dsn: str) -> None:
    with (
        psycopg.connect(empty_dsn) as conn,
        pytest.raises(SchemaMismatch, match="agentrun migrate"),
    ):
        check(conn)


def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="could not reach"):
        migrate(f"host={tmp_path}")


def test_every_column_of_the_list_of_migrations_is_explained(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        silent = conn.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'agentrun.migrations'::regclass"
            " AND attnum > 0 AND col_description(attrelid, attnum) IS NULL"
        ).fetchall()
    assert silent == []
