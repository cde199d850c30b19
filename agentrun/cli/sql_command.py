r"""`agentrun sql`: one query as a table, JSON or CSV, or a prompt for several. It only reads.

Besides queries, `\d` lists the relations of the schema, and `\d NAME` the columns of one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from agentrun.cli import output
from agentrun.core.errors import ConfigError
from agentrun.core.table import find_repeated_name
from agentrun.store.audit import (
    QueryResult,
    describe_relation,
    list_relations,
    read_only_query,
)

__all__ = ["Form", "read_query", "run_query"]

Form = Literal["table", "records", "json", "csv"]

_SHOWN = 1_000  # rows that a table in a terminal shows; a pipe, --csv and --json get all


def read_query(query: str | None) -> str | None:
    """The query from the command line or a pipe; None if a prompt should ask for queries."""
    if query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    if query is not None and not query.strip():
        raise ConfigError("there is no query: agentrun sql 'SELECT * FROM runs'")
    return query


def run_query(dsn: str, query: str, form: Form) -> None:
    r"""Run one query or `\d`, and print its rows."""
    if query.lstrip().startswith("\\"):
        _print(_describe(dsn, query.strip().rstrip(";")), form)
        return
    with read_only_query(dsn, query) as answer:
        _print(answer, form)


def _describe(dsn: str, command: str) -> QueryResult:
    r"""What `\d` and `\d NAME` list. Raises ConfigError for another command."""
    word, *names = command.split()
    if word not in (r"\d", r"\d+", r"\dt", r"\dv") or len(names) > 1:
        raise ConfigError(rf"{command!r} is not known: \d lists relations, \d NAME its columns")
    if not names:
        return list_relations(dsn)
    name = names[0].removeprefix("agentrun.")
    found = describe_relation(dsn, name)
    if found is None:
        raise ConfigError(rf"there is no relation {name!r} in the schema agentrun; \d lists them")
    return found


def _print(answer: QueryResult, form: Form) -> None:
    if form == "json":
        output.emit_rows(_rows_as_objects(answer))
    elif answer.is_empty:
        output.note("no rows")
    elif form == "csv":
        output.emit_csv(answer.columns, answer.rows)
    elif output.is_terminal():
        _print_table(answer, form)
    else:
        output.emit_tsv(answer.columns, answer.rows)


def _print_table(answer: QueryResult, form: Form) -> None:
    """Print a table, or records if the table would be wider than the screen."""
    from agentrun.view.records import is_wider, record_lines
    from agentrun.view.terminal import print_lines

    console, rows = output.terminal(), list(islice(answer.rows, _SHOWN))
    if form == "records" or is_wider(answer.columns, rows, console.width):
        print_lines(record_lines(answer.columns, rows, width=console.width), console)
    else:
        output.emit_table(answer.columns, rows)
    if next(answer.rows, None) is not None:
        output.note(f"only the first {_SHOWN:,} rows are shown; a pipe, --csv and --json get all")


def _rows_as_objects(answer: QueryResult) -> Iterator[dict[str, Any]]:
    if (name := find_repeated_name(answer.columns)) is not None:
        raise ConfigError(f"two columns are named {name!r}: rename one with AS")
    for row in answer.rows:
        yield dict(zip(answer.columns, row, strict=True))
