"""Open a database, and keep the default database of this process.

`connect()` opens a database and makes it the default. `default()` returns it. If there is none, it
opens the database in AGENTRUN_DATABASE_URL, or the embedded server.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from urllib.parse import unquote
from weakref import WeakSet

import psycopg

from agentrun.core.errors import ConfigError
from agentrun.core.naming import is_sensitive, is_worth_knowing
from agentrun.core.secrets import mask
from agentrun.store import migrate, roles
from agentrun.store.blobs import Blobs
from agentrun.store.connection import DeadlineConnection, describe, explain_refusal
from agentrun.store.connection import connect as open_connection
from agentrun.store.database import Database, OpenDatabase
from agentrun.store.liveness import LEASE
from agentrun.store.patience import PROCESS, at_exit
from agentrun.store.revival import is_embedded, use
from agentrun.store.sql import QUERIES

DATABASE, BLOBS = "AGENTRUN_DATABASE_URL", "AGENTRUN_BLOBS"
READER = "AGENTRUN_READER_URL"

_default: OpenDatabase | None = None
_open: WeakSet[OpenDatabase] = WeakSet()
_choosing = threading.RLock()
_chosen: ContextVar[OpenDatabase | None] = ContextVar("agentrun_database", default=None)

_URL_PASSWORD = re.compile(r"://[^\s/:@]*:([^\s/@]+)@")


def connect(
    dsn: str | None = None,
    *,
    blobs: str | None = None,
    lease: float = LEASE,
    allow_unsafe: bool = False,
    tools_dsn: str | None = None,
) -> Database:
    """Open a database and make it the default of this process.

    Args:
        dsn: the database; by default AGENTRUN_DATABASE_URL, or else an embedded Postgres under
            AGENTRUN_HOME. If the schema `agentrun` is missing, it is created. The schema of the
            embedded database is always migrated.
        blobs: where values over 64 KiB are stored: ``file:///FOLDER`` or ``s3://BUCKET/PREFIX``; by
            default AGENTRUN_BLOBS, or else the database.
        lease: seconds without a heartbeat after which a worker counts as dead.
        allow_unsafe: accept a server with synchronous_commit=off, which may lose acknowledged steps
            in a crash.
        tools_dsn: another login to the same database, for the bodies of `transaction` tools; by
            default AGENTRUN_TOOLS_URL, or else ``dsn``. A login with the role ``tools`` cannot send
            letters or change a journal, whatever SQL a model makes the tool execute.

    Raises:
        ConfigError: the DSN or the URL of blobs is malformed, the login is refused or lacks a
            privilege, a package is missing, or the server's settings would lose acknowledged steps.
        StoreUnavailable: the server cannot be reached.
        SchemaMismatch: the schema is older or newer than this version.

    Example:
        >>> database = agentrun.connect("postgresql://localhost/agents", lease=30)
    """
    global _default
    dsn = dsn or os.environ.get(DATABASE) or None
    know_environment()
    mask.know(_passwords(dsn or ""))
    target = dsn or use()
    describe(target)  # raises if it is not a DSN
    try:
        with open_connection(target) as conn:
            _check_settings(conn, target, allow_unsafe)
            roles.require_entry(conn)
            if dsn is None or migrate.state(conn) is None:
                migrate.migrate(conn)
            else:
                migrate.check(conn)
            if dsn is None:
                roles.use_reader(conn)
            outside = _blobs(conn, blobs or os.environ.get(BLOBS))
    except psycopg.OperationalError as error:
        raise explain_refusal(error, target) from error
    tools = tools_dsn or os.environ.get("AGENTRUN_TOOLS_URL") or None
    if tools is not None:
        _check_tools(tools)
    database = OpenDatabase(target, lease=lease, blobs=outside, tools_dsn=tools)
    # Without the key, values are masked with a key of this process, which is enough to show them.
    with contextlib.suppress(ConfigError):
        mask.use_key(database.mask_key)
    with _choosing:
        _default = database
        _open.add(database)
        _watch_the_end()
    return database


@contextlib.contextmanager
def using(database: OpenDatabase) -> Iterator[None]:
    """Make this the `default` database of the block, in this context only."""
    token = _chosen.set(database)
    try:
        yield
    finally:
        _chosen.reset(token)


def default() -> OpenDatabase:
    """The database of the block `using`, or else the process's: the last one connected, or else the
    one in the environment."""
    if (chosen := _chosen.get()) is not None:
        return chosen
    with _choosing:  # so that two threads do not open two databases
        if _default is None or _default.closed:
            connect()
        assert _default is not None
        return _default


def internals(database: Database | None) -> OpenDatabase:
    """What `connect` returned, as the package itself uses it; None is the process's database."""
    if database is None:
        return default()
    assert isinstance(database, OpenDatabase)
    return database


def choose_reader(dsn: str | None, start_embedded: Callable[[], str]) -> str:
    """The DSN for queries on the database ``dsn``, of a read-only login where there is one.

    None is the embedded database, whose DSN ``start_embedded`` returns. The reader's login in the
    environment belongs to the database in the environment, so it is used for no other one.
    """
    from_environment = dsn == (os.environ.get(DATABASE) or None)
    if from_environment and (found := os.environ.get(READER)):
        return found
    return dsn if dsn is not None else roles.reader_dsn(start_embedded())


def reader_of(database: OpenDatabase) -> str:
    """The DSN for queries on an open database, as `choose_reader` chooses it."""
    return choose_reader(None if is_embedded(database.dsn) else database.dsn, lambda: database.dsn)


def has_reader(database: OpenDatabase) -> bool:
    """Whether queries on an open database log in as somebody who may do nothing else."""
    return reader_of(database) != database.dsn


def _check_tools(dsn: str) -> None:
    describe(dsn)
    try:
        with open_connection(dsn) as conn:
            roles.require(conn, "tools", "commit a `transaction` tool's checkpoint")
    except psycopg.OperationalError as error:
        raise explain_refusal(error, dsn) from error


def _blobs(conn: DeadlineConnection, url: str | None) -> Blobs | None:
    folder = conn.execute(QUERIES["blob_folder"]).fetchone()
    assert folder is not None
    return Blobs(url, folder["id"]) if url else None


_LONG = 12  # characters from which on a password does not occur in a text by chance


def know_environment() -> None:
    """Mask the secrets in this process's environment: variables with the name of a secret, and
    passwords in URLs.

    An ordinary word is not masked, even under such a name, since it would vanish from all texts.
    """
    for name, value in os.environ.items():
        named = is_sensitive(name) is not None
        if (named or name.upper().endswith("_KEY")) and is_worth_knowing(value, named=named):
            mask.know([value])
        mask.know(_passwords(value))


def _passwords(text: str) -> Iterator[str]:
    for password in _URL_PASSWORD.findall(text):
        # A short password such as `postgres` is an ordinary word, and is not masked.
        if len(password) >= _LONG or is_worth_knowing(unquote(password)):
            yield password
            yield unquote(password)


def _check_settings(conn: DeadlineConnection, dsn: str, allow_unsafe: bool) -> None:
    settings = conn.execute(QUERIES["settings"]).fetchone()
    assert settings is not None
    if settings["standby"]:
        raise ConfigError(
            f"Postgres at {describe(dsn)} is a standby and takes no writes; connect to the "
            "primary, e.g. with target_session_attrs=read-write in the DSN."
        )
    if settings["synchronous_commit"] == "off" and not allow_unsafe:
        raise ConfigError(
            f"Postgres at {describe(dsn)} has synchronous_commit=off: a server crash would lose "
            "acknowledged steps, and effects would be repeated. Turn it on for this role or "
            "database, or accept the loss with agentrun.connect(..., allow_unsafe=True)."
        )


def _after_fork() -> None:
    # The child has copies of its parent's sockets. It must not use them, and opens its own.
    global _default, _choosing
    _default, _choosing = None, threading.RLock()
    _open.clear()
    _watch_the_end.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


@cache
def _watch_the_end() -> None:
    at_exit(lambda: not any(database.active for database in list(_open)))


@atexit.register
def _stop_at_exit() -> None:
    PROCESS.hurry()
    if _default is not None:
        with contextlib.suppress(Exception):
            _default.close(timeout=0)
