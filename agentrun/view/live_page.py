"""Shows a run while it executes, as one growing view in a notebook.

The view consists of many displays: a head, one for each entry, and the result. A display is sent
again only if its own content has changed. So the folds that a reader has opened elsewhere stay
open, and a long run does not send its whole transcript four times a second. After `_SINGLE`
entries, several share a display, because a notebook becomes slow with thousands of them.

The text of a reply that is under way stands in the display of its model call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from agentrun.core.events import Event
from agentrun.core.live_fold import LiveFold
from agentrun.core.state import ENDED
from agentrun.core.transcript import NewMessage, Step, Transcript
from agentrun.view import phrases
from agentrun.view.html import CSS, ending_html, entry_html
from agentrun.view.layout import entry_lines, lines_after
from agentrun.view.safe import Markup, clip, element, visible

__all__ = ["LivePage", "LivePiece", "display_live"]

_SINGLE = 100  # entries that have a display of their own
_SHARED = 50  # entries of a later display
_REPLY = 4_000  # characters of a reply that is under way
_WIDTH = 80

# New events of the journal, and the text so far of each reply that is under way, by step.
LivePiece: TypeAlias = tuple[list[Event], Mapping[int, str]]


@dataclass(slots=True, eq=False)
class _Display:
    """One output of the cell. ``handle`` is None until it has content."""

    positions: list[int] = field(default_factory=list)
    shown: str = ""
    handle: Any = None

    def send(self, markup: Markup, text: str) -> None:
        """Show the content, if it is another one than before."""
        import IPython.display

        if markup == self.shown:
            return
        self.shown = markup
        bundle = {"text/html": str(markup), "text/plain": text}
        if self.handle is None:
            display: Any = IPython.display.display
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)


class LivePage:
    """Takes a run in pieces, and shows what is new or has changed."""

    def __init__(self) -> None:
        self._live = LiveFold()
        self._title, self._head, self._end = _Display(), _Display(), _Display()
        self._displays: list[_Display] = []
        self._place: list[_Display] = []  # the display of each entry
        self._turn_of: dict[int, int] = {}  # the turn that begins at an entry, by position
        self._turn: int | None = None
        self._shown_tools: dict[str, int] = {}  # the model call that shows each list of tools
        self._replies: Mapping[int, str] = {}
        self._writing: set[int] = set()  # positions of model calls whose reply is under way

    def take(self, piece: LivePiece) -> None:
        """Fold a piece, and send the displays whose content it has changed."""
        events, replies = piece
        changed = self._live.take(events)
        for position in changed:
            self._place_entry(position)
        self._replies = replies
        found = {self._live.find(step) for step in replies}
        writing = {n for n in found if n is not None and self._reply_of(n) is not None}
        stale = dict.fromkeys(
            self._place[position] for position in sorted({*changed, *self._writing, *writing})
        )
        self._writing = writing
        if events:
            self._show_head(self._live.transcript())
        for display in stale:
            display.send(self._markup(display), self._text(display))
        if events and self._live.run.status in ENDED:
            self._show_end(self._live.transcript())

    def _place_entry(self, position: int) -> None:
        """Give a new entry its place: a display of its own, or one that it shares."""
        if position < len(self._place):
            return
        entry = self._live.entries[position]
        if isinstance(entry, NewMessage | Step) and entry.turn not in (None, self._turn):
            self._turn_of[position] = self._turn = entry.turn or 0
        last = self._displays[-1] if self._displays else None
        room = _SHARED if position > _SINGLE else 1
        if last is None or len(last.positions) >= room:
            last = _Display()
            self._displays.append(last)
        last.positions.append(position)
        self._place.append(last)

    def _reply_of(self, position: int) -> str | None:
        """The text so far of the reply that this entry waits for."""
        entry = self._live.entries[position]
        if isinstance(entry, Step) and entry.status in ("running", "open"):
            return self._replies.get(entry.step)
        return None

    # -- content -----------------------------------------------------------------------------------

    def _show_head(self, run: Transcript) -> None:
        key = clip(run.key, 200)
        title = element("div", element("style", CSS), element("h3", key), class_="ar-root")
        self._title.send(title, visible(key))
        lines = (clip(phrases.headline(run), 400), phrases.totals(run))
        markup = element("div", *(element("p", line) for line in lines), class_="ar-root")
        self._head.send(markup, "\n".join(map(visible, lines)))

    def _show_end(self, run: Transcript) -> None:
        text = "\n".join(line.fit(_WIDTH).text for line in lines_after(run, _WIDTH, False))
        self._end.send(element("div", ending_html(run), class_="ar-root"), text)

    def _markup(self, display: _Display) -> Markup:
        parts: list[Markup] = []
        for position in display.positions:
            if position in self._turn_of:
                parts.append(element("h4", f"turn {self._turn_of[position]}"))
            parts.append(entry_html(self._live.entries[position], self._shown_tools))
            if (text := self._reply_of(position)) is not None:
                parts.append(_reply_so_far(text))
        # An entry that only repeats another one has no content.
        return element("div", *parts, class_="ar-root") if any(parts) else Markup("")

    def _text(self, display: _Display) -> str:
        lines = [
            line.fit(_WIDTH).text.rstrip()
            for position in display.positions
            for line in entry_lines(self._live.entries[position], _WIDTH, False)
        ]
        return "\n".join(lines)


def _reply_so_far(text: str) -> Markup:
    earlier = len(text) - _REPLY
    cut = [element("p", f"… {earlier:,} earlier characters")] if earlier > 0 else []
    summary = element("summary", f"reply so far, {len(text):,} characters")
    return element("details", summary, *cut, element("pre", text[-_REPLY:]), open="open")


def display_live(pieces: Iterable[LivePiece]) -> None:
    """Show a run in a notebook until the pieces end. The saved notebook has the last state."""
    page = LivePage()
    for piece in pieces:
        page.take(piece)
