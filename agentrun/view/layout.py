"""A transcript as lines of text, each piece with the name of a style.

Both the terminal and the plain text of 80 columns are made from these lines, so they say the
same, and plain text needs no `rich`. Every piece passes through `visible` in `Line.add`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from agentrun.core.transcript import Entry, Message, Note, Resume, Said, Step, Transcript
from agentrun.view import words
from agentrun.view.safe import clip, pretty, visible

__all__ = [
    "Line",
    "as_text",
    "columns",
    "entry_lines",
    "layout",
    "lines_after",
    "lines_before",
    "turn_line",
]

_MESSAGE_LINES = 12  # of one message, unless everything is asked for
_DEEP = " " * 7
_PLAIN_LINES = 200  # of a whole transcript shown as text/plain


@dataclass(slots=True)
class Line:
    """Pieces of inert text and their styles: see `terminal.STYLES`."""

    pieces: list[tuple[str, str]] = field(default_factory=list)

    def add(self, text: str, style: str = "") -> Line:
        self.pieces.append((visible(text), style))
        return self

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def fitted(self, width: int) -> Line:
        """The same line, cut with an ellipsis where it is wider than ``width`` columns."""
        if columns(self.text) <= width:
            return self
        fitted, room = Line(), width - 1
        for text, style in self.pieces:
            part = _head(text, room)
            room -= columns(part)
            fitted.pieces.append((part, style))
            if part != text:
                break
        return fitted.add("…", "dim")


def as_text(transcript: Transcript, *, width: int = 80, limit: int | None = _PLAIN_LINES) -> str:
    """The transcript as plain text; of more than ``limit`` lines the middle is left out."""
    lines = [line.text.rstrip() for line in layout(transcript, width=width)]
    if limit is not None and len(lines) > limit:
        half, left_out = limit // 2, len(lines) - limit
        told = f"… {left_out:,} more lines …"
        lines = [*lines[:half], told, *lines[-half:]]
    return "\n".join(lines)


def layout(transcript: Transcript, *, width: int, full: bool = False) -> Iterator[Line]:
    """The lines of a transcript, none wider than ``width`` columns.

    ``full`` shows messages and values whole instead of their beginnings.
    """
    for line in _lines(transcript, width, full):
        yield line.fitted(width)


def columns(text: str) -> int:
    """How many terminal columns a text takes: East Asian wide characters take two."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.combining(char) or char in "\u200c\u200d\ufe0e\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _lines(transcript: Transcript, width: int, full: bool) -> Iterator[Line]:
    yield from lines_before(transcript, width, full)
    turn = None
    for entry in transcript.entries:
        if isinstance(entry, Said | Step) and entry.turn not in (None, turn):
            turn = entry.turn
            yield from turn_line(turn, width)
        yield from entry_lines(entry, width, full)
    yield from lines_after(transcript, width, full)


def lines_before(transcript: Transcript, width: int, full: bool) -> Iterator[Line]:
    """What stands above a transcript's entries."""
    status = transcript.status
    yield Line().add(transcript.key, "key").add("  ").add(words.headline(transcript), status)
    if transcript.input not in (None, {}):
        yield from _field("input", pretty(transcript.input), width, full)


def turn_line(turn: int, width: int) -> Iterator[Line]:
    """The heading of a turn."""
    yield Line()
    yield _ruled(f"turn {turn}", width, "dim", fill="─")


def lines_after(transcript: Transcript, width: int, full: bool) -> Iterator[Line]:
    """What stands below the entries: how the run ended, and what it used."""
    yield Line()
    if transcript.error is not None:
        yield from _field("error", words.failure(transcript.error), width, full, "error")
    elif transcript.status == "done":
        yield from _field("result", pretty(transcript.result), width, full, "done")
    yield from _field("total", words.totals(transcript), width, full, label_style="dim")


def entry_lines(entry: Entry, width: int, full: bool) -> Iterator[Line]:
    """One entry; a line may be wider than ``width`` where its facts are: see `Line.fitted`."""
    match entry:
        case Said(echo=True):
            return  # the step itself shows it
        case Said():
            yield from _said(entry.message, width, full)
        case Step():
            yield from _step(entry, width, full)
        case Resume():
            yield _ruled("", width, "band", fill="═")
            yield from _wrapped(words.band(entry), width, "band")
            yield _ruled("", width, "band", fill="═")
        case Note():
            style = "error" if entry.event in ("run_failed", "diverged") else "note"
            yield from _wrapped(f"-- {words.note(entry)}", width, style)


def _said(message: Message, width: int, full: bool) -> Iterator[Line]:
    label = f"{message.role} {message.call_id}" if message.call_id else message.role
    if message.text or not message.calls:
        yield from _field(label, message.text, width, full, "", message.role)
    for asked in message.calls:
        text = f"asks for {asked.name}({asked.arguments})"
        yield from _wrapped(text if full else clip(text, 300), width, "call", indent="  ")


def _step(step: Step, width: int, full: bool) -> Iterator[Line]:
    style = step.status if step.status in ("error", "in_doubt") else ""
    yield from _step_line(step, width, full, style)
    if (step.kind != "model" or step.error is not None) and (shown := words.outcome(step)):
        yield from _field("     →", shown, width, full, style, label_style="dim")
    if words.eventful(step):
        for attempt in step.attempts:
            line = words.attempt_line(attempt)
            yield from _wrapped(line if full else clip(line, 300), width, "dim", indent=_DEEP)
    for told in words.decision_lines(step):
        yield from _wrapped(told, width, "in_doubt", indent=_DEEP)
    if step.doubts and step.idempotency_key:
        yield Line().add(f"{_DEEP}idempotency key ", "dim").add(step.idempotency_key)


def _step_line(step: Step, width: int, full: bool, style: str) -> Iterator[Line]:
    """The call and its facts on one line if they fit; the facts are never cut."""
    number, told = f"{step.step:>4} ", words.facts(step)
    called = visible(words.call(step))
    room = width - columns(f"{number} · {told}")
    if columns(called) > room >= 30 and not full:
        called = _head(called, room - 2) + "…)"
    if columns(called) <= room:
        line = Line().add(number, "dim").add(called, "call")
        yield line.add(f" · {told}", style or "dim") if told else line
    else:
        call = number + called
        yield from _wrapped(call if full else clip(call, 300), width, "call")
        yield from _wrapped(told, width, style or "dim", indent=_DEEP)


def _field(
    label: str, text: str, width: int, full: bool, style: str = "", label_style: str = "label"
) -> Iterator[Line]:
    """A label and its text beside it: wrapped, and cut after some lines unless ``full``."""
    label = visible(label)
    label += " " * max(1, 8 - columns(label))
    shown = 0
    for number, part in enumerate(_wrap(text, width - 8, width - columns(label))):
        line = Line().add(" " * 8) if number else Line().add(label, label_style)
        if number == _MESSAGE_LINES and not full:
            yield line.add(f"… {max(1, len(text) - shown):,} more characters", "dim")
            return
        shown += len(part) + 1
        yield line.add(part, style)


def _wrapped(text: str, width: int, style: str, indent: str = "") -> Iterator[Line]:
    for number, part in enumerate(_wrap(text, width - len(indent), width - len(indent))):
        yield Line().add(indent if number or indent else "").add(part, style)


def _wrap(text: str, width: int, first: int) -> Iterator[str]:
    """``text`` in pieces of at most ``width`` columns (``first`` for the first), made inert."""
    room = max(8, first)
    for line in visible(text, multiline=True).split("\n"):
        start = 0
        while True:
            head = _head(line[start : start + room], room)
            if start + len(head) >= len(line):
                break
            if (space := head.rfind(" ")) > room // 2:
                head = head[: space + 1]
            yield head.rstrip()
            start, room = start + len(head), max(8, width)
        yield head
        room = max(8, width)


def _head(text: str, room: int) -> str:
    """The longest beginning of ``text`` that fits into ``room`` columns."""
    if text.isascii():
        return text[: max(0, room)]
    taken = 0
    for index, char in enumerate(text):
        taken += _width(char)
        if taken > room:
            return text[:index]
    return text


def _ruled(title: str, width: int, style: str, *, fill: str) -> Line:
    text = f"{fill * 2} {title} " if title else ""
    return Line().add(text + fill * (width - columns(text)), style)
