"""`queries.sql`, split into named statements."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any, LiteralString, cast

# The advisory lock under which the schema and the roles change: "agentrun" in hexadecimal digits.
SCHEMA_LOCK = 0x6167656E7472756E

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def _split(text: str) -> dict[str, LiteralString]:
    parts = _NAME.split(text)
    # psycopg's type LiteralString forbids text built from input. The file is part of the package
    # and contains no input, so the cast is safe.
    return {
        name: cast(LiteralString, body.strip())
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


QUERIES = _split(files("agentrun.store").joinpath("queries.sql").read_text("utf-8"))

_PARAMETER = re.compile(r"%\((\w+)\)[bs]")


def numbered(query: LiteralString) -> tuple[LiteralString, list[str]]:
    """Replace named parameters by $1, $2, …; return the statement and the names in that order.

    psycopg would do so at every execution, since it caches the result only for short statements.
    """
    names = list(dict.fromkeys(_PARAMETER.findall(query)))
    text = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", query)
    return cast(Any, text), names  # as in `_split`
