"""Databases to measure in, by DSNs that are URLs: SQLAlchemy reads nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

__all__ = ["database", "url"]


def url(dsn: str, **changes: str) -> str:
    """``dsn`` with these parts changed."""
    info = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    info |= changes
    login = ":".join(
        quote(info.pop(part), safe="") for part in ("user", "password") if part in info
    )
    name = quote(info.pop("dbname", ""), safe="")
    return f"postgresql://{login}@/{name}?{urlencode(info)}"


@contextmanager
def database(dsn: str, name: str) -> Iterator[str]:
    """A database of its own, empty, gone afterwards."""
    name = f"bench_{name}_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {name}")
        try:
            yield url(dsn, dbname=name)
        finally:
            conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
