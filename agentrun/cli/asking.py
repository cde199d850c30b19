"""`agentrun sql`: one query as a table or JSON, or a prompt for several. It only reads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from agentrun.cli.output import complain, emit_rows, emit_table, note
from agentrun.core.errors import AgentrunError, ConfigError
from agentrun.store.audit import Answer, asking

__all__ = ["given_or_piped", "one", "prompt"]

_SHOWN = 1_000  # rows of a table; --json gives all
_WELCOME = (
    "read-only; end a query with ; and leave with Ctrl-D\n"
    "runs, journal; views: steps turns tool_calls model_calls attempts transcript in_doubt inbox "
    "resumes spend spend_by_run late_answers"
)


def given_or_piped(query: str | None) -> str | None:
    """The query of the command line, or of a pipe; None: ask at the terminal."""
    if query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    if query is not None and not query.strip():
        raise ConfigError("there is no query: agentrun sql 'SELECT * FROM runs'")
    return query


def one(dsn: str, query: str, *, as_json: bool) -> None:
    """Ask, and write the answer."""
    with asking(dsn, query) as answer:
        if as_json:
            emit_rows(_objects(answer))
        elif answer.columns:
            _table(answer)
        else:
            note("no rows")


def prompt(dsn: str, *, as_json: bool) -> None:
    """Answer queries from the terminal until end of file; an error ends its query only."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  editing and history, where there is such a thing
    note(_WELCOME)
    for query in _typed():
        try:
            one(dsn, query, as_json=as_json)
        except AgentrunError as error:
            complain(error)


def _typed() -> Iterator[str]:
    lines: list[str] = []
    while True:
        try:
            lines.append(input("agentrun> " if not lines else "       -> "))
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:  # as psql: the query begun is forgotten
            note("")
            lines = []
            continue
        if not "".join(lines).strip():
            lines = []
        elif lines[-1].rstrip().endswith(";"):
            yield "\n".join(lines)
            lines = []


def _table(answer: Answer) -> None:
    from agentrun.view.terminal import table

    emit_table(table(answer.columns, islice(answer.rows, _SHOWN)))
    if next(answer.rows, None) is not None:
        note(f"only the first {_SHOWN:,} rows are shown; --json gives all")


def _objects(answer: Answer) -> Iterator[dict[str, Any]]:
    twice = {name for name in answer.columns if answer.columns.count(name) > 1}
    if twice:
        raise ConfigError(f"two columns are named {min(twice)!r}: name them apart with AS")
    for row in answer.rows:
        yield dict(zip(answer.columns, row, strict=True))
