"""Finds keys for the completion of a shell, which has a fraction of a second.

It imports little, opens one connection, starts no server and applies no migration.
"""

from __future__ import annotations

import psycopg

from agentrun.store.sql import QUERIES

__all__ = ["look_up_keys"]

_TIMEOUT = "150ms"  # for the query; a shell waits for it
_CONNECT = 1  # seconds; the least that libpq takes


def look_up_keys(dsn: str, prefix: str, limit: int) -> list[str]:
    """Keys that begin with ``prefix``, the newest first; none if the database does not answer."""
    try:
        with psycopg.connect(dsn, connect_timeout=_CONNECT) as conn:
            conn.read_only = True
            conn.execute(QUERIES["audit"], {"timeout": _TIMEOUT})
            rows = conn.execute(QUERIES["keys"], {"prefix": prefix, "limit": limit}).fetchall()
    except psycopg.Error:
        return []
    return [key for (key,) in rows]
