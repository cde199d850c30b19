"""Shows a run while it executes, as lines for a terminal.

It takes the journal in pieces, as `store.watching` yields it. This module uses no database.
`view/live_page.py` does the same for a notebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentrun.core.events import Event
from agentrun.core.live_fold import LiveFold
from agentrun.core.state import ENDED
from agentrun.core.transcript import Entry, NewMessage, Step
from agentrun.view.layout import TextLine, entry_lines, lines_after, lines_before, turn_line

__all__ = ["Feed"]


class Feed:
    """Turns pieces of a journal into lines. An entry is printed when it is new or has changed.

    So a long step is printed when it begins, and again with its outcome. A step that begins and
    ends in the same piece is printed once.
    """

    def __init__(self, *, width: int, full: bool = False) -> None:
        self._width, self._full = width, full
        self._live = LiveFold()
        self._has_head = False
        self._turn: int | None = None

    def take(self, events: Iterable[Event]) -> Iterator[TextLine]:
        """The lines for the next events of the journal, none wider than the width."""
        for line in self._lines(list(events)):
            yield line.fit(self._width)

    def _lines(self, events: list[Event]) -> Iterator[TextLine]:
        changed = self._live.take(events)
        if not self._has_head:
            self._has_head = True
            yield from lines_before(self._live.transcript(), self._width, self._full)
        for position in changed:
            yield from self._entry(self._live.entries[position])
        if self._live.run.status in ENDED:
            yield from lines_after(self._live.transcript(), self._width, self._full)

    def _entry(self, entry: Entry) -> Iterator[TextLine]:
        if isinstance(entry, NewMessage | Step) and entry.turn not in (None, self._turn):
            self._turn = entry.turn
            yield from turn_line(entry.turn, self._width)
        yield from entry_lines(entry, self._width, self._full)
