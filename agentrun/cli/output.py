"""What the command line writes, and how a command ends.

Data goes to stdout and notes to stderr. Recorded text reaches a terminal only through `visible`
(or the tables and transcripts made of it), and JSON is ASCII, which addresses no terminal.
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
from agentrun.core.secrets import redact
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
    "reporting",
    "terminal",
]

# The first class that an error is an instance of decides.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.ConfigError, 2),
    (errors.RunHeld, 3),
    (errors.RunNotFound, 4),
    (errors.StoreError, 5),
    (errors.Diverged, 6),
    (errors.RunConflict, 7),
)
_INTERRUPTED = 130
_PIPED_WIDTH = 4096  # columns: where no terminal folds lines, neither do we, for grep's sake


def note(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(_shown(text), err=True)


def emit(text: str) -> None:
    """Text as data, on stdout."""
    typer.echo(_shown(text))


def emit_json(value: Any, file: IO[str] | None = None) -> None:
    """One JSON value, on one line of stdout, or of ``file``."""
    typer.echo(_json(redact(value)[0]), file=file)


def emit_rows(rows: Iterable[dict[str, Any]]) -> None:
    """A JSON array with an object a line, written as the rows come."""
    before = "["
    for row in rows:
        typer.echo(f"{before}\n{_json(row)}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


def emit_table(table: Table) -> None:
    """A table from `agentrun.view.terminal`."""
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
    """rich, on today's stdout."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON values as they are; times as ISO 8601, bytes as hex, other things as their text."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


# -- how a command ends ----------------------------------------------------------------------------


@contextlib.contextmanager
def reporting(*, debug: bool) -> Iterator[None]:
    """Turn agentrun's own errors into one red line and an exit code; others keep their traceback.

    ``debug`` prints the traceback of ours too.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a terminal that cannot show ␛ is no error
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
    """Say what is wrong and end the command with the error's exit code."""
    complain(error)
    code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    raise typer.Exit(code)


def complain(error: BaseException) -> None:
    """The red line of an error, and its diff if it has one."""
    diff = getattr(error, "diff", "")
    text = f"error: {pretty(str(error) or type(error).__name__)}"
    if diff and diff not in text:
        text = f"{text}\n{diff}"
    typer.secho(_shown(text), fg="red", err=True)


def _shown(text: str) -> str:
    """What comes straight from an agent, not from the journal, may still hold a secret."""
    return visible(redact.text(text), multiline=True)
