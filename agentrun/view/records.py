"""Rows of a query as records, one line a column, where a table would be wider than the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from agentrun.view.layout import TextLine, columns, wrap_text
from agentrun.view.safe import clip, pretty, visible

__all__ = ["as_cell", "is_wider", "record_lines"]

_VALUE = 10_000  # characters of one value
_CELL = 400  # characters of one cell of a table
_LEAST = 20  # columns for values on a narrow screen


def as_cell(value: object) -> str:
    """A value as the text of one cell of a table, made inert, and cut if it is long."""
    return visible(clip(_plain(value), _CELL))


def is_wider(names: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> bool:
    """Whether a table of the rows is wider than ``width`` columns."""
    cells = [
        [visible(name) for name in names],
        *([as_cell(value) for value in row] for row in rows),
    ]
    widest = (max(columns(row[place]) for row in cells) for place in range(len(names)))
    return sum(widest) + 2 * (len(names) - 1) > width


def record_lines(
    names: Sequence[str], rows: Sequence[Sequence[object]], *, width: int
) -> Iterator[TextLine]:
    """The rows as records. Long values are wrapped, and line breaks in them are kept."""
    labels = [TextLine().add(name).fit(max(8, width // 3)).text for name in names]
    label_width = max(map(columns, labels), default=0)
    for number, row in enumerate(rows, 1):
        title = f"─[ {number} ]"
        yield TextLine().add(title + "─" * max(0, width - columns(title)), "dim")
        for label, value in zip(labels, row, strict=True):
            room = max(_LEAST, width - label_width - 2)
            parts = list(wrap_text(clip(_plain(value), _VALUE), room)) or [""]
            for place, part in enumerate(parts):
                shown = "" if place else label
                line = TextLine().add(shown + " " * (label_width - columns(shown)), "key")
                yield line.add(f"  {part}" if part else "")


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return pretty(value) if isinstance(value, str | dict | list | bool) else str(value)
