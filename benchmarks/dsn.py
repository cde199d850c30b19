"""Databases to measure in, by DSNs that are URLs: SQLAlchemy reads nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

__all__ = ["database", "parts", "url"]


def url(dsn: str, **changes: str) -> str:
    """``dsn`` with these parts changed."""
    info = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    info |= changes
    login = ":".join(
        quote(info.pop(part), safe="") for part in ("user", "password") if part in info
    )
    name = quote(info.pop("dbname", ""), safe="")
    return f"postgresql://{login}@/{name}?{urlencode(info)}"


def parts(dsn: str) -> tuple[str, int, str, str]:
    """Host (or the folder of the Unix socket), port, user and database of ``dsn``."""
    info = conninfo_to_dict(dsn)
    return str(info["host"]), int(info.get("port") or 5432), str(info["user"]), str(info["dbname"])


@contextmanager
def database(dsn: str, name: str) -> Iterator[str]:
    """A database of its own, empty, gone afterwards."""
    name = f"bench_{name}_{os.getpid()}_{threading.get_native_id()}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {name}")
        try:
            yield url(dsn, dbname=name)
        finally:
            conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
