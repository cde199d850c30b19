"""Tables of any rows, as text and as HTML: of a query, of runs, of totals.

A text table that is wider than the screen becomes records, one line a value, since broken columns
cannot be read. What is cut is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice

from agentrun.core.table import Table
from agentrun.view.html import CSS
from agentrun.view.layout import columns as columns_of
from agentrun.view.safe import Markup, clip, element, pretty, visible

__all__ = ["cell_text", "html_table", "in_page", "table_html", "table_text", "text_table"]

_TEXT_ROWS, _HTML_ROWS = 60, 500
_CELL = 400  # characters of one cell
_BREAK = 3  # columns between two cells
_LEAST = 8  # columns of a last cell that is cut


def cell_text(value: object) -> str:
    """A value as one line: a null as NULL, a time in ISO 8601 with its zone, bytes as hex."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, bytes | memoryview):
        return clip(bytes(value).hex(), _CELL)
    known = isinstance(value, str | dict | list | bool)
    return clip(visible(pretty(value) if known else str(value)), _CELL)


# -- text ------------------------------------------------------------------------------------------


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    width: int = 80,
    cut_last: bool = False,
) -> list[str]:
    """The rows as lines of text, below their headings, or as records if that is too wide.

    With ``cut_last``, the last column is cut to the width if the others leave room for it.
    """
    names = [visible(name) for name in columns]
    cells = [[cell_text(value) for value in row] for row in islice(rows, _TEXT_ROWS)]
    widths = [max(map(columns_of, column)) for column in zip(names, *cells, strict=True)]
    room = width - sum(widths[:-1]) - _BREAK * (len(widths) - 1)
    if cut_last and room >= _LEAST:
        cells = [[*row[:-1], _cut(row[-1], room)] for row in cells]
        widths[-1] = min(widths[-1], room)
    fits = not widths or widths[-1] <= room
    numbers = [_is_number(column) for column in zip(*rows, strict=True)] or [False] * len(names)
    if fits:
        lines = [_line(row, widths, numbers) for row in ([names, *cells] if names else [])]
    else:
        lines = [line for n, row in enumerate(cells, 1) for line in _record(n, names, row, width)]
    if (more := len(rows) - len(cells)) > 0:
        lines.append(f"… {more:,} more rows, which `.rows` has …")
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> str:
    parts = []
    for cell, width, number in zip(cells, widths, numbers, strict=True):
        space = " " * (width - columns_of(cell))
        parts.append(space + cell if number else cell + space)
    return (" " * _BREAK).join(parts).rstrip()


def _record(number: int, names: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    yield f"── {number} ──"
    broad = min(max(map(columns_of, names)), width // 2)
    for name, cell in zip(names, row, strict=True):
        label = _cut(name, broad)
        yield _cut(f"{label}{' ' * (broad - columns_of(label))}  {cell}", width).rstrip()


def _cut(text: str, width: int) -> str:
    if columns_of(text) <= width:
        return text
    while columns_of(text) > width - 1:
        text = text[: max(0, min(len(text) - 1, width))]
    return f"{text}…"


def _is_number(column: Sequence[object]) -> bool:
    kinds = {type(value) for value in column if value is not None}
    return bool(kinds) and kinds <= {int, float, Decimal}


# -- HTML ------------------------------------------------------------------------------------------


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """The rows as a ``table``. A cell may be `Markup`, which is shown as it is.

    Columns of numbers are aligned by an attribute, which a notebook keeps where it removes styles.
    """
    numbers = [_is_number(column) for column in zip(*rows, strict=True)] or [False] * len(columns)
    sides = ["right" if number else "left" for number in numbers]
    head = element(
        "tr",
        *(element("th", n, align=side) for n, side in zip(columns, sides, strict=True)),
    )
    body = [
        element(
            "tr",
            *(
                element("td", _html_cell(value), align=side, dir="auto")
                for value, side in zip(row, sides, strict=True)
            ),
        )
        for row in islice(rows, _HTML_ROWS)
    ]
    return element("table", head, *body)


def _html_cell(value: object) -> Markup | str:
    if value is None:
        return element("em", "NULL")
    return value if isinstance(value, Markup) else cell_text(value)


def in_page(*parts: Markup) -> Markup:
    """The parts as one ``div`` with the styles of all views."""
    return element("div", element("style", CSS), *parts, class_="ar-root")


# -- the result of a query -------------------------------------------------------------------------


def table_text(table: Table) -> str:
    """The rows of a query as text of at most 80 columns."""
    return "\n".join([*text_table(table.columns, table.rows), _size(table)])


def table_html(table: Table) -> Markup:
    """The rows of a query as HTML."""
    more = max(0, len(table.rows) - _HTML_ROWS)
    cut = f"; {more:,} of them are not shown here, and `.rows` has them" if more else ""
    rows = html_table(table.columns, table.rows)
    return in_page(rows, element("p", f"{_size(table)}{cut}", class_="ar-dim"))


def _size(table: Table) -> str:
    count = len(table.rows)
    text = "no rows" if not count else "1 row" if count == 1 else f"{count:,} rows"
    return f"{text}, and the query has more" if table.truncated else text
