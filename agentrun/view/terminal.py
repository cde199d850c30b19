"""Prints transcripts and tables in a terminal with rich.

rich interprets markup in strings (``[link=…]``, ``[/x]``) and passes escape sequences through. So
it gets only `Text` objects, whose text has passed `visible`. This module loads rich: import it only
where something is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrun.core.transcript import Entry, Transcript
from agentrun.view.layout import TextLine, layout
from agentrun.view.records import as_cell
from agentrun.view.safe import visible

__all__ = ["as_renderable", "print_lines", "print_transcript", "table"]

_STYLES = {
    "key": "bold",
    "label": "bold cyan",
    "user": "bold cyan",
    "assistant": "bold green",
    "system": "bold dim",
    "tool": "bold magenta",
    "call": "bold",
    "dim": "dim",
    "note": "yellow",
    "band": "bold yellow",
    "in_doubt": "bold yellow",
    "held": "bold yellow",
    "error": "red",
    "failed": "bold red",
    "done": "green",
}


def print_transcript(
    transcript: Transcript,
    console: Console | None = None,
    *,
    full: bool = False,
    entries: Iterable[Entry] | None = None,
) -> None:
    """Print a transcript. ``full`` and ``entries`` are those of `layout`."""
    console = console or Console()
    print_lines(layout(transcript, width=console.width, full=full, entries=entries), console)


def print_lines(lines: Iterable[TextLine], console: Console) -> None:
    """Print each line in its styles as soon as the iterator yields it."""
    for line in lines:
        console.print(_text(line), soft_wrap=True, markup=False, highlight=False, emoji=False)


def as_renderable(lines: Iterable[TextLine]) -> Text:
    """Lines as one text, for a part of the screen that is written anew."""
    return Text("\n", end="").join(_text(line) for line in lines)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of any rows, as for `agentrun sql`. Each heading and cell is inert text."""
    shown = Table(box=None, header_style="bold", pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(Text(visible(column)), overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    return shown


def _cell(value: object) -> Text:
    text = as_cell(value)
    return Text(text, style=_STYLES.get(text, ""))


def _text(line: TextLine) -> Text:
    return Text.assemble(*((text, _STYLES.get(style, "")) for text, style in line.pieces))
