"""The table of `agentrun ls`: one line a run, never wrapped, and cut at the width of the screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from agentrun.view.durations import ago, brief
from agentrun.view.layout import TextLine, columns
from agentrun.view.phrases import money
from agentrun.view.safe import visible

__all__ = ["run_lines"]

_HEADINGS = ("status", "key", "agent", "age", "took", "turns", "cost", "note")
_RIGHT = frozenset(["age", "took", "turns", "cost"])
_LONGEST = {"key": 40, "agent": 20}  # columns; the rest of a longer text gives way to the note
_SHORTEST = 10  # columns of a key or a name on a narrow screen


def run_lines(
    rows: Sequence[Mapping[str, Any]], *, width: int, now: datetime
) -> Iterator[TextLine]:
    """The heading and a line for each run, none wider than ``width``.

    A row has the fields of `RunSummary`, and ``depth`` and ``note``.
    """
    cells = [_cells(row, now) for row in rows]
    widths = {
        name: max(columns(name), *(columns(row[name]) for row in cells)) for name in _HEADINGS[:-1]
    }
    for name in _LONGEST:
        widths[name] = min(widths[name], _room(name, widths, width))
    yield _line({name: name for name in _HEADINGS}, widths, "").fit(width)
    for row, source in zip(cells, rows, strict=True):
        yield _line(row, widths, str(source["status"])).fit(width)


def _room(name: str, widths: Mapping[str, int], width: int) -> int:
    """How wide a column may be: so that the others and a beginning of the note fit beside it."""
    others = sum(widths[other] + 2 for other in widths if other != name)
    return max(_SHORTEST, columns(name), min(_LONGEST[name], width - others - 2 - _SHORTEST))


def _cells(row: Mapping[str, Any], now: datetime) -> dict[str, str]:
    status = "decided" if row["decided_at"] is not None else str(row["status"])
    dead = row["owner_dead"] and row["status"] == "running"
    cost = money(row["cost"]) if row["cost"] else ""
    if row["unpriced"]:
        cost = f"{cost} + {row['unpriced']} unpriced".removeprefix(" + ")
    texts = {
        "status": f"{status} (owner dead)" if dead else status,
        "key": f"{'  ' * (row['depth'] - 1)}└ {row['key']}" if row["depth"] else str(row["key"]),
        "agent": str(row["agent"]),
        "age": ago(row["created_at"], now),
        "took": brief(row["working_seconds"]) if row["started_at"] else "",
        "turns": str(row["turns"] or ""),
        "cost": cost,
        "note": str(row["note"]),
    }
    return {name: visible(text) for name, text in texts.items()}


def _line(cells: Mapping[str, str], widths: Mapping[str, int], status: str) -> TextLine:
    line = TextLine()
    for name, room in widths.items():
        part = TextLine().add(cells[name]).fit(room).text
        space = " " * (room - columns(part))
        text = f"{space}{part}" if name in _RIGHT else f"{part}{space}"
        style = {"status": status, "key": "key"}.get(name, "") if status else "key"
        line.add(text, style).add("  ")
    return line.add(cells["note"], "dim" if status else "key")
