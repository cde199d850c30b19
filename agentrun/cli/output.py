"""Writes the output of commands, and turns errors into exit codes.

Data goes to stdout and notes to stderr. Recorded text may contain terminal escapes, so it reaches a
terminal only through `visible` (or tables and transcripts that use it). JSON is written in ASCII,
with escapes in place of control characters.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from typing import IO, TYPE_CHECKING, Any, NoReturn

import typer

from agentrun.core import errors

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EXIT_CODES",
    "emit",
    "emit_csv",
    "emit_json",
    "emit_rows",
    "emit_table",
    "emit_tsv",
    "fail",
    "is_terminal",
    "note",
    "paged",
    "pick_fields",
    "report_errors",
    "terminal",
]

# The first entry whose class matches the error decides.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.ConfigError, 2),
    (errors.RunHeld, 3),
    (errors.RunNotFound, 4),
    (errors.StoreError, 5),
    (errors.Diverged, 6),
    (errors.RunConflict, 7),
)
_INTERRUPTED = 130


def note(text: str) -> None:
    """Write a line for people to stderr."""
    typer.echo(_printable(text), err=True)


def emit(text: str) -> None:
    """Write text as data to stdout."""
    typer.echo(_printable(text))


def emit_json(value: Any, file: IO[str] | None = None) -> None:
    """Write one JSON value as one line to stdout, or to ``file``."""
    from agentrun.core.secrets import mask

    typer.echo(_json(mask(value)[0]), file=file)


def emit_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON array with one object on each line, while the rows arrive."""
    before = "["
    for row in rows:
        typer.echo(f"{before}\n{_json(row)}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


def pick_fields(
    rows: Iterable[Mapping[str, Any]], names: Sequence[str], fields: str | None
) -> Iterator[dict[str, Any]]:
    """The rows with only the ``fields``, a list such as ``key,status``; None: with all of them.

    Raises ConfigError for a name that is not in ``names``.
    """
    wanted = None if fields is None else [name.strip() for name in fields.split(",")]
    for name in wanted or ():
        if name not in names:
            raise errors.ConfigError(f"there is no field {name!r}; there are {', '.join(names)}")
    return (dict(row) if wanted is None else {name: row.get(name) for name in wanted}
            for row in rows)  # fmt: skip


def emit_tsv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write tab-separated lines, the first with the names of the columns.

    A tab or a line break in a value becomes visible, so a row is always one line. Times are in ISO
    8601, and None is empty.
    """
    typer.echo("\t".join(_cell(name) for name in columns))
    for row in rows:
        typer.echo("\t".join(_cell(value) for value in row))


def emit_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write CSV, the first line with the names of the columns. Line breaks in values are kept."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    for row in rows:
        writer.writerow([_cell(value, multiline=True) for value in row])


def _cell(value: Any, *, multiline: bool = False) -> str:
    """A value as the text of one cell, made inert."""
    from agentrun.view.safe import visible

    plain = _json_value(value)
    if plain is None:
        return ""
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return visible(text.replace("\t", "␉"), multiline=multiline)


def is_terminal() -> bool:
    """Whether stdout is a terminal. Otherwise tables are written as tab-separated lines."""
    return terminal().is_terminal


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table: for people in a terminal, else as tab-separated lines."""
    console = terminal()
    if not console.is_terminal:
        emit_tsv(columns, rows)
        return
    from agentrun.view.terminal import table

    console.print(table(columns, rows))


@contextlib.contextmanager
def paged(*, wanted: bool) -> Iterator[Console]:
    """A console whose text goes through the pager that AGENTRUN_PAGER or PAGER names, or `less`.

    Without a terminal at stdin and stdout, or a pager that can be started, it goes to stdout.
    """
    console = terminal()
    pager = _start_pager() if wanted and console.is_terminal and sys.stdin.isatty() else None
    if pager is None:
        yield console
        return
    from agentrun.cli.paging import PagedConsole, ReaderGone

    with pager:
        try:
            yield PagedConsole(pager, like=console)
        except (ReaderGone, BrokenPipeError):
            pass  # the reader has left the pager before the end
        finally:
            with contextlib.suppress(BrokenPipeError):
                pager.communicate()


def _start_pager() -> subprocess.Popen[str] | None:
    command = os.environ.get("AGENTRUN_PAGER", os.environ.get("PAGER", "less"))
    words = shlex.split(command)
    if not words or words == ["cat"]:
        return None
    # Less ends by itself if all fits on the screen, and keeps colours and what it has shown.
    environment = {"LESS": "FRX", "LV": "-c", **os.environ}
    try:
        return subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, text=True)
    except OSError:
        return None


def terminal() -> Console:
    """A rich console on the present stdout, without markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _json(value: Any) -> str:
    return json.dumps(_json_value(value), allow_nan=False)


def _json_value(value: Any) -> Any:
    """Convert to JSON: times to ISO 8601, bytes to hex, other objects to their text."""
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


# -- how a command ends ----------------------------------------------------------------------------


@contextlib.contextmanager
def report_errors(*, debug: bool) -> Iterator[None]:
    """Turn agentrun's own errors into one red line and an exit code; others keep their traceback.

    With ``debug``, the traceback of agentrun's errors is printed too.
    """
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks, such as ␛, must not raise an error.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        yield
    except (errors.AgentrunError, errors.Interrupt) as error:
        if debug:
            note(traceback.format_exc())
        fail(error)
    except KeyboardInterrupt:
        note("interrupted")
        raise typer.Exit(_INTERRUPTED) from None


def fail(error: BaseException) -> NoReturn:
    """Print the error, and end the command with its exit code."""
    complain(error)
    code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    raise typer.Exit(code)


def complain(error: BaseException) -> None:
    """Print an error as a red line, with its diff if it has one."""
    from agentrun.view.safe import pretty

    diff = getattr(error, "diff", "")
    text = f"error: {pretty(str(error) or type(error).__name__)}"
    if diff and diff not in text:
        text = f"{text}\n{diff}"
    typer.secho(_printable(text), fg="red", err=True)


def _printable(text: str) -> str:
    """Make a text safe to print.

    Journal text is masked already, but text that comes straight from an agent may hold a secret.
    """
    from agentrun.core.secrets import mask
    from agentrun.view.safe import visible

    return visible(mask.text(text), multiline=True)
