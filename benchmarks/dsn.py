"""A DSN as a URL: SQLAlchemy reads nothing else."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

__all__ = ["url"]


def url(dsn: str, **changes: str) -> str:
    """``dsn`` with these parts changed."""
    info = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    info |= changes
    login = ":".join(
        quote(info.pop(part), safe="") for part in ("user", "password") if part in info
    )
    name = quote(info.pop("dbname", ""), safe="")
    return f"postgresql://{login}@/{name}?{urlencode(info)}"
