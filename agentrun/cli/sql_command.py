"""`agentrun sql`: one query as a table or JSON, or a prompt for several. It only reads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from agentrun.cli.output import complain, emit_rows, emit_table, note
from agentrun.core.errors import AgentrunError, ConfigError
from agentrun.store.audit import QueryResult, read_only_query

__all__ = ["read_query", "run_prompt", "run_query"]

_SHOWN = 1_000  # rows that a table shows; --json prints all
_WELCOME = (
    "read-only; end a query with ; and leave with Ctrl-D\n"
    "runs, journal; views: steps turns tool_calls model_calls attempts transcript in_doubt inbox "
    "resumes spend spend_by_run late_answers"
)


def read_query(query: str | None) -> str | None:
    """The query from the command line or a pipe; None if a prompt should ask for queries."""
    if query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    if query is not None and not query.strip():
        raise ConfigError("there is no query: agentrun sql 'SELECT * FROM runs'")
    return query


def run_query(dsn: str, query: str, *, as_json: bool) -> None:
    """Run one query, and print its rows."""
    with read_only_query(dsn, query) as answer:
        if as_json:
            emit_rows(_rows_as_objects(answer))
        elif answer.columns:
            _print_table(answer)
        else:
            note("no rows")


def run_prompt(dsn: str, *, as_json: bool) -> None:
    """Run queries from the terminal until end of file; an error ends only its query."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  adds editing and history to input(), where it exists
    note(_WELCOME)
    for query in _read_queries():
        try:
            run_query(dsn, query, as_json=as_json)
        except AgentrunError as error:
            complain(error)


def _read_queries() -> Iterator[str]:
    lines: list[str] = []
    while True:
        try:
            lines.append(input("agentrun> " if not lines else "       -> "))
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:  # as in psql, Ctrl-C discards the lines typed so far
            note("")
            lines = []
            continue
        if not "".join(lines).strip():
            lines = []
        elif lines[-1].rstrip().endswith(";"):
            yield "\n".join(lines)
            lines = []


def _print_table(answer: QueryResult) -> None:
    from agentrun.view.terminal import table

    emit_table(table(answer.columns, islice(answer.rows, _SHOWN)))
    if next(answer.rows, None) is not None:
        note(f"only the first {_SHOWN:,} rows are shown; --json prints all")


def _rows_as_objects(answer: QueryResult) -> Iterator[dict[str, Any]]:
    twice = {name for name in answer.columns if answer.columns.count(name) > 1}
    if twice:
        raise ConfigError(f"two columns are named {min(twice)!r}: rename one with AS")
    for row in answer.rows:
        yield dict(zip(answer.columns, row, strict=True))
