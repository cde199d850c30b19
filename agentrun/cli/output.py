"""Writes the output of commands, and turns errors into exit codes.

Data goes to stdout and notes to stderr. Recorded text may contain terminal escapes, so it reaches a
terminal only through `visible` (or tables and transcripts that use it). JSON is written in ASCII,
with escapes in place of control characters.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from typing import IO, TYPE_CHECKING, Any, NoReturn

import typer

from agentrun.core import errors
from agentrun.core.secrets import mask
from agentrun.view.safe import pretty, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "EXIT_CODES",
    "emit",
    "emit_json",
    "emit_rows",
    "emit_table",
    "fail",
    "note",
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
_PIPED_WIDTH = 4096  # columns; into a pipe, lines are not folded, so that grep finds whole rows


def note(text: str) -> None:
    """Write a line for people to stderr."""
    typer.echo(_printable(text), err=True)


def emit(text: str) -> None:
    """Write text as data to stdout."""
    typer.echo(_printable(text))


def emit_json(value: Any, file: IO[str] | None = None) -> None:
    """Write one JSON value as one line to stdout, or to ``file``."""
    typer.echo(_json(mask(value)[0]), file=file)


def emit_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON array with one object on each line, while the rows arrive."""
    before = "["
    for row in rows:
        typer.echo(f"{before}\n{_json(row)}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


def emit_table(table: Table) -> None:
    """Write a table from `agentrun.view.terminal`."""
    console = terminal()
    if console.is_terminal:
        console.print(table)
        return
    console.width = _PIPED_WIDTH
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


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
    diff = getattr(error, "diff", "")
    text = f"error: {pretty(str(error) or type(error).__name__)}"
    if diff and diff not in text:
        text = f"{text}\n{diff}"
    typer.secho(_printable(text), fg="red", err=True)


def _printable(text: str) -> str:
    """Make a text safe to print.

    Journal text is masked already, but text that comes straight from an agent may hold a secret.
    """
    return visible(mask.text(text), multiline=True)
