"""Queries in a browser: by the read-only login of `agentrun sql`, for seconds, with few rows.

The query is in the URL, so a bookmark saves it, and a link shares it. A link on another site does
not have it executed.

A query that says what it likes can leave a role that only the session has set. So there has to be
a login that may do nothing but read: that of the embedded server, or AGENTRUN_READER_URL.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from agentrun.core.errors import AgentrunError, StoreError
from agentrun.store.audit import read_only_query
from agentrun.store.opening import default, has_reader, reader_of
from agentrun.store.schema_comments import CommentedColumn, list_columns
from agentrun.web.page import Page, Refused
from agentrun.web.site import PageRoute, Site

__all__ = ["PAGES", "QueryData"]

SECONDS = 5.0  # that a query may take
ROWS = 1_000  # that are shown, and that a CSV file has
CELLS = 50_000  # of all these rows
SIZE = 5_000_000  # characters of all these cells
_LONGEST = 20_000  # characters of a query
_NO_READER = (
    "queries need a login that may do nothing but read: `agentrun roles create`, then "
    "`agentrun roles grant reader LOGIN`, and name that login in AGENTRUN_READER_URL"
)

SAVED = (
    ("The latest errors", "SELECT key, step, name, output, at FROM steps WHERE status = 'error' "
     "ORDER BY at DESC LIMIT 50"),
    ("What waits for a person", "SELECT key, step, waits_for, name, reason, since FROM inbox "
     "ORDER BY since"),
    ("Cost by day and model", "SELECT at::date AS day, model, count(*) AS calls, sum(cost) AS cost "
     "FROM spend GROUP BY 1, 2 ORDER BY 1 DESC, 4 DESC"),
    ("The dearest trees", "SELECT key, tree_cost, tree_calls, tree_runs FROM spend_by_run "
     "WHERE parent_key IS NULL ORDER BY tree_cost DESC LIMIT 50"),
    ("Runs that changed hands", "SELECT key, worker, reason, replayed, rerun, saved, at "
     "FROM resumes ORDER BY at DESC LIMIT 50"),
    ("The slowest tools", "SELECT name, count(*) AS calls, max(at - started_at) AS longest, "
     "avg(at - started_at) AS mean FROM tool_calls GROUP BY 1 ORDER BY 3 DESC LIMIT 50"),
)  # fmt: skip


@dataclass(frozen=True)
class QueryData:
    """The rows of a query, at most 1,000, with 50,000 cells and 5,000,000 characters in all.

    ``truncated`` says that there are more rows, and ``error`` why there are none.
    """

    query: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    error: str | None


async def _sql(site: Site, request: Request) -> Page:
    if not site.sql:
        raise Refused(404, "no_sql", "queries are off: mount the pages with agentrun.ui(sql=True)")
    data = await site.read(_query, _query_in(request))
    columns = await site.share(("columns",), lambda: _relations())
    limits = {"seconds": SECONDS, "most": ROWS, "cells": CELLS, "size": SIZE}
    shown = {"saved": SAVED, "relations": columns, **limits}
    return Page("sql.html", data, shown, 200 if data.error is None else 400)


def _query_in(request: Request) -> str:
    query = request.query_params.get("query", "").strip()
    if len(query) > _LONGEST:
        raise Refused(400, "long", f"a query has at most {_LONGEST} characters")
    if query and request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Refused(403, "origin", "a link on another site does not execute a query: paste it")
    return query


def _query(query: str) -> QueryData:
    if not query:
        return QueryData("", (), (), False, None)
    if not has_reader(default()):
        raise Refused(409, "no_reader", _NO_READER)
    try:
        reader = reader_of(default())
        with read_only_query(reader, query.rstrip(";"), timeout=SECONDS) as answer:
            rows, truncated = _take(answer.rows)
    except StoreError:
        raise
    except AgentrunError as error:  # the query is wrong, would write, or takes too long
        return QueryData(query, (), (), False, str(error))
    return QueryData(query, answer.columns, rows, truncated, None)


def _take(rows: Iterator[tuple[Any, ...]]) -> tuple[tuple[tuple[Any, ...], ...], bool]:
    """The first rows, as many as a page can show, and whether there are more."""
    shown: list[tuple[Any, ...]] = []
    cells = size = 0
    for row in rows:
        length = sum(len(value if isinstance(value, str) else str(value)) for value in row)
        if length > SIZE:
            raise AgentrunError(
                f"row {len(shown) + 1} has {length:,} characters, and a page shows {SIZE:,} at"
                " most: select parts of it, or use `agentrun sql --csv`"
            )
        cells, size = cells + len(row), size + length
        if len(shown) == ROWS or cells > CELLS or size > SIZE:
            return tuple(shown), True
        shown.append(row)
    return tuple(shown), False


def _relations() -> list[tuple[CommentedColumn, list[CommentedColumn]]]:
    """The columns of each table and view, below one that says what it is."""
    grouped = groupby(list_columns(default()), key=lambda column: column.relation)
    return [(columns[0], columns) for columns in (list(rows) for _, rows in grouped)]


async def _csv(site: Site, request: Request) -> Response:
    if not site.sql:
        raise Refused(404, "no_sql", "queries are off: mount the pages with agentrun.ui(sql=True)")
    data = await site.read(_query, _query_in(request))
    if data.error is not None:
        raise Refused(400, "query", data.error)
    headers = {"content-disposition": 'attachment; filename="query.csv"'}
    return Response(
        await site.compute(lambda: _write_csv(data)),
        headers=headers,
        media_type="text/csv; charset=utf-8",
    )


def _write_csv(data: QueryData) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(data.columns)
    writer.writerows([_cell(value) for value in row] for row in data.rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    """A value as a cell. A text that a spreadsheet would calculate begins with an apostrophe."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(tuple("=+-@\t\r")) else text


_QUERY = {"query": "one SELECT, which takes 5 s at most"}
PAGES = (
    PageRoute("sql", _sql, "The rows of a query, which only reads", QueryData, _QUERY, name="SQL"),
    PageRoute("sql.csv", _csv, "The rows of a query as CSV", None, _QUERY),
)
