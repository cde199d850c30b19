"""Shows a run while it executes: new lines in a terminal, or one growing view in a notebook.

Both take the journal in pieces, as `store.watching` yields it. This module uses no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from agentrun.core.events import Event
from agentrun.core.folding import Fold
from agentrun.core.state import ENDED
from agentrun.core.transcript import Entry, NewMessage, Step, Transcript, fold
from agentrun.view.layout import TextLine, entry_lines, lines_after, lines_before, turn_line

__all__ = ["Feed", "display_live"]


class Feed:
    """Turns pieces of a journal into lines. An entry is printed when it is new or has changed.

    So a long step is printed when it begins, and again with its outcome. A step that begins and
    ends in the same piece is printed once.
    """

    def __init__(self, *, width: int, full: bool = False) -> None:
        self._width, self._full = width, full
        self._run = Fold()
        self._events: list[Event] = []
        self._shown: tuple[Entry, ...] = ()
        self._turn: int | None = None

    def take(self, events: Iterable[Event]) -> Iterator[TextLine]:
        """The lines for the next events of the journal, none wider than the width."""
        for line in self._lines(list(events)):
            yield line.fit(self._width)

    def _lines(self, events: list[Event]) -> Iterator[TextLine]:
        first = not self._events
        self._events += events
        if first:
            yield from lines_before(fold(events), self._width, self._full)
        for event in events:
            self._run.add(event)
        before, self._shown = self._shown, self._run.entries()
        for number, entry in enumerate(self._shown):
            if number >= len(before) or entry != before[number]:
                yield from self._entry(entry)
        if self._run.status in ENDED:
            yield from lines_after(fold(self._events), self._width, self._full)

    def _entry(self, entry: Entry) -> Iterator[TextLine]:
        if isinstance(entry, NewMessage | Step) and entry.turn not in (None, self._turn):
            self._turn = entry.turn
            yield from turn_line(entry.turn, self._width)
        yield from entry_lines(entry, self._width, self._full)


def display_live(pieces: Iterable[list[Event]]) -> Transcript:
    """Show a run in a notebook, and update this one view. Returns the last transcript.

    An empty piece changes nothing. The saved notebook has only the last state.
    """
    from IPython.display import display

    events: list[Event] = []
    shown: Any = None
    for piece in pieces:
        if not piece:
            continue
        events += piece
        if shown is None:
            shown = display(fold(events), display_id=True)  # type: ignore[no-untyped-call]
        else:
            shown.update(fold(events))
    return fold(events)
