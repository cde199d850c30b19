"""`queries.sql`, split into named statements."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def _split(text: str) -> dict[str, LiteralString]:
    parts = _NAME.split(text)
    # The file ships with the package and holds no input of anybody: its text is as literal as
    # if it stood here, which is what psycopg's LiteralString asks for.
    return {
        name: cast(LiteralString, body.strip())
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


QUERIES = _split(files("agentrun.store").joinpath("queries.sql").read_text("utf-8"))

_PARAMETER = re.compile(r"%\((\w+)\)[bs]")


def numbered(query: LiteralString) -> tuple[LiteralString, list[str]]:
    """A statement with $1, $2, … for its parameters, and their names in that order.

    psycopg rewrites named parameters at every execution, and caches that only for short texts.
    """
    names = list(dict.fromkeys(_PARAMETER.findall(query)))
    return _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", query), names
