"""Opening a database, and the default of this process.

`connect()` opens one and makes it the default; `default()` finds it again, or opens the one that
AGENTRUN_DATABASE_URL names, or the embedded server.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import threading
from collections.abc import Iterator
from urllib.parse import unquote

import psycopg

from agentrun.core.errors import ConfigError
from agentrun.core.secrets import redact
from agentrun.store import embedded, migrate
from agentrun.store.blobs import Blobs
from agentrun.store.connection import DeadlineConnection, describe, explain_refusal
from agentrun.store.connection import connect as open_connection
from agentrun.store.database import Database
from agentrun.store.liveness import LEASE
from agentrun.store.sql import QUERIES

_default: Database | None = None
_choosing = threading.RLock()

_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET", "PASSWORD", "_PASSWD", "_PASS")
_URL_PASSWORD = re.compile(r"://[^\s/:@]*:([^\s/@]+)@")


def connect(
    dsn: str | None = None,
    *,
    blobs: str | None = None,
    lease: float = LEASE,
    allow_unsafe: bool = False,
) -> Database:
    """Open a database and make it the default of this process.

    Without ``dsn``: AGENTRUN_DATABASE_URL, else an embedded Postgres under AGENTRUN_HOME. A
    database without the schema `agentrun` gets it; the embedded one is always brought up to date.
    ``blobs``, else AGENTRUN_BLOBS, is where values over 64 KiB are put: ``file:///FOLDER`` or
    ``s3://BUCKET/PREFIX``; without it they lie in the database, too.
    ``lease`` is how many seconds without a heartbeat make a worker dead. ``allow_unsafe`` accepts
    a server with synchronous_commit=off, which may lose acknowledged steps in a crash.

    Raises:
        ConfigError: the DSN or the place of blobs is malformed, the login is refused, a package is
            missing, or the server's settings would lose acknowledged steps.
        StoreUnavailable: the server cannot be reached.
        SchemaMismatch: the schema is older or newer than this version.
    """
    global _default
    dsn = dsn or os.environ.get("AGENTRUN_DATABASE_URL") or None
    redact.know([*_environment_secrets(), *_passwords(dsn or "")])
    target = dsn or embedded.start()
    describe(target)  # refuses what is no DSN
    try:
        with open_connection(target) as conn:
            _check_settings(conn, target, allow_unsafe)
            if dsn is None or migrate.state(conn) is None:
                migrate.migrate(conn)
            else:
                migrate.check(conn)
            outside = _blobs(conn, blobs or os.environ.get("AGENTRUN_BLOBS"))
    except psycopg.OperationalError as error:
        raise explain_refusal(error, target) from error
    database = Database(target, lease=lease, blobs=outside)
    with _choosing:
        _default = database
    return database


def default() -> Database:
    """The process's database: the last one connected, else the one the environment names."""
    with _choosing:  # so that two threads at once open one
        return connect() if _default is None or _default.closed else _default


def _blobs(conn: DeadlineConnection, url: str | None) -> Blobs | None:
    folder = conn.execute(QUERIES["blob_folder"]).fetchone()
    assert folder is not None
    return Blobs(url, folder["id"]) if url else None


def _environment_secrets() -> Iterator[str]:
    """Values of the environment that are secret by their name, and passwords in its URLs."""
    for name, value in os.environ.items():
        if name.upper().endswith(_SECRET_NAMES):
            yield value
        yield from _passwords(value)


def _passwords(text: str) -> Iterator[str]:
    for password in _URL_PASSWORD.findall(text):
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
    # The child shares sockets with its parent: it must use none of them and open its own.
    global _default, _choosing
    _default, _choosing = None, threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _stop_at_exit() -> None:
    if _default is not None:
        with contextlib.suppress(Exception):
            _default.close(timeout=0)
