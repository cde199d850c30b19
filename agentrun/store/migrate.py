"""Migrate the schema `agentrun` of a database to the version that this code needs.

The migrations are numbered SQL files, bundled with the code. A released file is never edited. The
table ``agentrun.migrations`` lists the migrations that a database has, with each file's checksum.

Any number of processes may migrate at the same time. Each migration is one transaction, which takes
an advisory lock and then reads the table again: another process may have applied the migration
while this one waited for the lock.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from agentrun import bundled
from agentrun.core.errors import ConfigError, SchemaMismatch, StoreError, StoreUnavailable
from agentrun.store.roles import grant_again
from agentrun.store.sql import SCHEMA_LOCK

__all__ = ["Migration", "State", "check", "known_migrations", "migrate", "state"]

State = Literal["older", "current", "newer"]


TABLE = """
CREATE SCHEMA IF NOT EXISTS agentrun;
CREATE TABLE agentrun.migrations (
    number      integer     NOT NULL PRIMARY KEY,
    name        text        NOT NULL,
    checksum    text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE agentrun.migrations IS 'The migrations this database has.';
COMMENT ON COLUMN agentrun.migrations.number IS 'The number of the migration; applied in order.';
COMMENT ON COLUMN agentrun.migrations.name IS 'The file it came from.';
COMMENT ON COLUMN agentrun.migrations.checksum IS 'SHA-256 of that file.';
COMMENT ON COLUMN agentrun.migrations.applied_at IS 'When it was applied.';
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file; ``name`` is the file name."""

    number: int
    name: str
    checksum: str
    sql: str = field(repr=False)


def known_migrations() -> list[Migration]:
    """The migrations of this version of agentrun, in order."""
    found = []
    for path in sorted(bundled.folder("migrations").glob("[0-9][0-9][0-9][0-9]_*.sql")):
        sql = path.read_text("utf-8")  # with \n for newlines, whatever the checkout has
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        found.append(Migration(int(path.name[:4]), path.name, checksum, sql))
    return found


def migrate(target: psycopg.Connection[Any] | str, *, dry_run: bool = False) -> list[Migration]:
    """Apply the missing migrations and return them; with ``dry_run``, only return them.

    ``target`` is a DSN, or a connection with no transaction open.

    Raises:
        SchemaMismatch: the database is newer than this code, or an applied file was edited.
        StoreError: a migration failed and was rolled back as a whole.
        StoreUnavailable: the database cannot be reached.
    """
    with _connection(target) as conn:
        if dry_run:
            return _missing(conn)
        applied = []
        while migration := _apply_next(conn):
            applied.append(migration)
        if applied:
            with conn.transaction():
                grant_again(conn)
        return applied


def state(conn: psycopg.Connection[Any]) -> State | None:
    """Compare the schema with this code; None if the database has no schema agentrun.

    Raises SchemaMismatch if a file was edited after it was applied.
    """
    have = _applied(conn)
    if have is None:
        return None
    numbers = {migration.number for migration in known_migrations()}
    if have.keys() - numbers:
        return "newer"
    _check_unedited(have)
    return "older" if numbers - have.keys() else "current"


def check(conn: psycopg.Connection[Any]) -> None:
    """Raise SchemaMismatch, with the command that helps, unless the schema is current."""
    found = state(conn)
    database = conn.info.dbname
    if found is None:
        raise SchemaMismatch(
            f"database {database!r} has no schema agentrun: run `agentrun migrate`"
        )
    if found == "older":
        missing = ", ".join(migration.name for migration in _missing(conn))
        raise SchemaMismatch(
            f"the schema agentrun in database {database!r} is older than this code (it lacks"
            f" {missing}): run `agentrun migrate`"
        )
    if found == "newer":
        raise _newer(conn)


@contextlib.contextmanager
def _connection(target: psycopg.Connection[Any] | str) -> Iterator[psycopg.Connection[Any]]:
    if isinstance(target, str):
        try:
            # No prepared statements, since the target may be a pooler; and no deadline, since a
            # migration may wait long for locks.
            conn = psycopg.connect(target, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as error:
            raise StoreUnavailable(f"could not reach the database: {error}") from error
        with conn:
            yield conn
    elif target.info.transaction_status != TransactionStatus.IDLE:
        raise ConfigError("migrate() needs a connection with no transaction open")
    else:
        threshold, target.prepare_threshold = target.prepare_threshold, None
        try:
            yield target  # behind a pooler, another session may not know a prepared statement
        finally:
            target.prepare_threshold = threshold


def _applied(conn: psycopg.Connection[Any]) -> dict[int, tuple[str, str]] | None:
    """Name and checksum by number; None if the database has no schema agentrun."""
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT to_regclass('agentrun.migrations') IS NOT NULL")
        if cursor.fetchone() != (True,):
            return None
        cursor.execute("SELECT number, name, checksum FROM agentrun.migrations")
        return {number: (name, checksum) for number, name, checksum in cursor}


def _missing(conn: psycopg.Connection[Any]) -> list[Migration]:
    if state(conn) == "newer":
        raise _newer(conn)
    have = _applied(conn) or {}
    return [migration for migration in known_migrations() if migration.number not in have]


def _apply_next(conn: psycopg.Connection[Any]) -> Migration | None:
    """Apply the first missing migration, all or nothing; None if none is missing."""
    with conn.transaction():
        # Otherwise the table would be read as it was when the wait for the lock began.
        conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        migration = next(iter(_missing(conn)), None)
        if migration is None:
            return None
        if _applied(conn) is None:
            conn.execute(TABLE)
        try:
            # Without parameters, psycopg sends many statements at once and leaves % unchanged.
            conn.execute(migration.sql.encode())
        except psycopg.Error as error:
            raise StoreError(f"migration {migration.name} failed: {error}") from error
        conn.execute(
            "INSERT INTO agentrun.migrations (number, name, checksum) VALUES (%s, %s, %s)",
            (migration.number, migration.name, migration.checksum),
        )
    return migration


def _check_unedited(have: dict[int, tuple[str, str]]) -> None:
    for migration in known_migrations():
        name, checksum = have.get(migration.number, (migration.name, migration.checksum))
        if (name, checksum) != (migration.name, migration.checksum):
            raise SchemaMismatch(
                f"migration {name} was applied to this database, and {migration.name} of this"
                " installation differs from it: a released migration is never edited; restore"
                " the file (reinstall agentrun-harness)"
            )


def _newer(conn: psycopg.Connection[Any]) -> SchemaMismatch:
    return SchemaMismatch(
        f"the schema agentrun in database {conn.info.dbname!r} is newer than this code: upgrade"
        " with `pip install --upgrade agentrun-harness`"
    )
