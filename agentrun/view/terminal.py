"""Prints transcripts and tables in a terminal with rich.

rich interprets markup in strings (``[link=…]``, ``[/x]``) and passes escape sequences through. So
it gets only `Text` objects, whose text has passed `visible`. This module loads rich: import it only
where something is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrun.core.transcript import Transcript
from agentrun.view.layout import TextLine, layout
from agentrun.view.safe import clip, pretty, visible

__all__ = ["inbox_table", "print_lines", "print_transcript", "runs_table", "table"]

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
_CELL = 400  # characters of one table cell


def print_transcript(
    transcript: Transcript, console: Console | None = None, *, full: bool = False
) -> None:
    """Print a transcript. ``full`` shows messages and values without cuts."""
    console = console or Console()
    print_lines(layout(transcript, width=console.width, full=full), console)


def print_lines(lines: Iterable[TextLine], console: Console) -> None:
    """Print each line in its styles as soon as the iterator yields it."""
    for line in lines:
        console.print(_text(line), soft_wrap=True, markup=False, highlight=False, emoji=False)


def runs_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The table of `agentrun ls`, from the rows of the store's ``runs`` query."""
    return table(
        ("key", "agent", "status", "owner", "created", "reason"),
        (
            (
                row.get("key"),
                row.get("agent"),
                _status(row),
                row.get("owner"),
                row.get("created_at"),
                _first_line(row.get("reason")),
            )
            for row in rows
        ),
    )


def inbox_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The table of the inbox, from rows of the view ``agentrun.inbox``.

    It includes requests that are decided and not yet taken up by a worker.
    """
    waiting = list(rows)
    columns = ["key", "step", "waits_for", "name", "args", "attempt", "since", "reason"]
    if any(row.get("masked") for row in waiting):
        columns.insert(5, "masked")
    shown = ({**row, "reason": _first_line(row.get("reason"))} for row in waiting)
    return table(columns, ([row.get(column) for column in columns] for row in shown))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of any rows, as for `agentrun sql`. Each heading and cell is inert text."""
    shown = Table(box=None, header_style="bold", pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(Text(visible(column)), overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    return shown


def _first_line(reason: object) -> str | None:
    """The first line of a reason; that of a divergence goes on with a diff, which `show` prints."""
    lines = str(reason or "").strip().splitlines()
    return None if not lines else lines[0] if len(lines) == 1 else f"{lines[0]} …"


def _status(row: Mapping[str, Any]) -> str:
    status = str(row.get("status") or "")
    if row.get("decided_at") is not None:
        return "decided"  # no worker has taken the decision up yet
    return f"{status} (owner dead)" if row.get("owner_dead") and status == "running" else status


def _cell(value: object) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    if isinstance(value, bytes | memoryview):
        return Text(clip(bytes(value).hex(), _CELL))
    text = pretty(value) if isinstance(value, str | dict | list | bool) else str(value)
    style = _STYLES.get(text, "")
    return Text(clip(visible(text), _CELL), style=style)


def _text(line: TextLine) -> Text:
    return Text.assemble(*((text, _STYLES.get(style, "")) for text, style in line.pieces))
