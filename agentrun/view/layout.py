"""Renders a transcript as lines of text. Each piece of a line has the name of a style.

The terminal output and the plain text of 80 columns are both made from these lines. So they have
the same content, and plain text does not need rich. `TextLine.add` passes each piece through
`visible`, which removes the effect of control characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agentrun.core.transcript import (
    Entry,
    Failure,
    Message,
    NewMessage,
    Note,
    Resume,
    Step,
    Transcript,
)
from agentrun.view import phrases
from agentrun.view.blocks import Band, Interruption, Item, ShownStep, arrange
from agentrun.view.safe import clip, pretty, visible

__all__ = [
    "TextLine",
    "as_text",
    "columns",
    "entry_lines",
    "layout",
    "lines_after",
    "lines_before",
    "turn_line",
    "wrap_text",
]

_MESSAGE_LINES = 12  # lines of one message, unless ``full``
_DEEP = " " * 7
_PLAIN_LINES = 200  # lines of a whole transcript as text/plain


@dataclass(slots=True)
class TextLine:
    """Pieces of inert text, each with the name of a style in `terminal._STYLES`."""

    pieces: list[tuple[str, str]] = field(default_factory=list)

    def add(self, text: str, style: str = "") -> TextLine:
        """Append a piece of text, made inert, with the name of a style. Returns this line."""
        self.pieces.append((visible(text), style))
        return self

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def fit(self, width: int) -> TextLine:
        """The same line, cut with an ellipsis if it is wider than ``width`` columns."""
        if columns(self.text) <= width:
            return self
        fit, room = TextLine(), width - 1
        for text, style in self.pieces:
            part = _head(text, room)
            room -= columns(part)
            fit.pieces.append((part, style))
            if part != text:
                break
        return fit.add("…", "dim")


def as_text(transcript: Transcript, *, width: int = 80, limit: int | None = _PLAIN_LINES) -> str:
    """Render the transcript as plain text.

    Args:
        transcript: the run to render.
        width: columns.
        limit: lines. If there are more, the middle is left out. None leaves nothing out.

    Example:
        >>> print(agentrun.as_text(agentrun.transcript("ticket-42"), width=120))
    """
    lines = [line.text.rstrip() for line in layout(transcript, width=width)]
    if limit is not None and len(lines) > limit:
        half, left_out = limit // 2, len(lines) - limit
        text = f"… {left_out:,} more lines …"
        lines = [*lines[:half], text, *lines[-half:]]
    return "\n".join(lines)


def layout(
    transcript: Transcript,
    *,
    width: int,
    full: bool = False,
    entries: Iterable[Entry] | None = None,
) -> Iterator[TextLine]:
    """The lines of a transcript, none wider than ``width`` columns.

    ``full`` shows messages and values whole instead of their beginnings. With ``entries``, only
    these are shown; what stands above and below them is about the whole run.
    """
    shown = transcript.entries if entries is None else entries
    for line in _lines(transcript, shown, width, full):
        yield line.fit(width)


def columns(text: str) -> int:
    """How many terminal columns a text takes. East Asian wide characters take two."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.combining(char) or char in "\u200c\u200d\ufe0e\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _lines(
    transcript: Transcript, entries: Iterable[Entry], width: int, full: bool
) -> Iterator[TextLine]:
    yield from lines_before(transcript, width, full)
    turn = None
    for part in arrange(entries):
        if part.turn not in (None, turn):
            turn = part.turn
            yield from turn_line(turn, width)
        yield from _item_lines(part.item, width, full)
    yield from lines_after(transcript, width, full)


def lines_before(transcript: Transcript, width: int, full: bool) -> Iterator[TextLine]:
    """The lines above the entries: key, status, times, the first error and the input."""
    status = transcript.status
    yield TextLine().add(transcript.key, "key").add("  ").add(phrases.headline(transcript), status)
    yield from _wrap_styled(phrases.times(transcript), width, "dim", indent="  ")
    if (found := phrases.first_error(transcript)) is not None:
        step, text = found
        label = "failed" if step is None else f"step {step.step}"
        yield from _field(label, text, width, full, "error", label_style="error")
    if transcript.input not in (None, {}):
        yield from _field("input", pretty(transcript.input), width, full)


def turn_line(turn: int, width: int) -> Iterator[TextLine]:
    """The heading of a turn."""
    yield TextLine()
    yield _rule(f"turn {turn}", width, "dim", fill="─")


def lines_after(transcript: Transcript, width: int, full: bool) -> Iterator[TextLine]:
    """The lines below the entries: the result or the error, and the totals."""
    yield TextLine()
    if transcript.error is not None:
        yield from _field("error", phrases.failure(transcript.error), width, full, "error")
        yield from _traceback(transcript.error, width, full)
    elif transcript.status == "done":
        yield from _field("result", pretty(transcript.result), width, full, "done")
    yield from _field("total", phrases.totals(transcript), width, full, label_style="dim")


def entry_lines(entry: Entry, width: int, full: bool) -> Iterator[TextLine]:
    """The lines of one entry by itself, as it comes while a run goes on."""
    match entry:
        case NewMessage(echo=True):
            return  # its step shows the same result
        case Step():
            yield from _item_lines(ShownStep(entry), width, full)
        case Resume():
            yield from _item_lines(Band((entry,)), width, full)
        case NewMessage() | Note():
            yield from _item_lines(entry, width, full)


def _item_lines(item: Item, width: int, full: bool) -> Iterator[TextLine]:
    """The lines of one item. A line of a step may be wider than ``width``: see `TextLine.fit`."""
    match item:
        case NewMessage():
            yield from _message(item.message, width, full)
        case ShownStep():
            yield from _step(item, width, full)
        case Band() | Note():
            yield from _interruption(item, width, full)


def _interruption(item: Interruption, width: int, full: bool) -> Iterator[TextLine]:
    if isinstance(item, Note):
        style = "error" if item.event in ("run_failed", "diverged") else "note"
        yield from _wrap_styled(f"-- {phrases.note(item)}", width, style)
        return
    yield _rule("", width, "band", fill="═")
    yield from _wrap_styled(phrases.band(item), width, "band")
    if len(item.resumes) > 1:
        for text in phrases.band_lines(item):
            yield from _wrap_styled(text, width, "dim", indent=_DEEP)
    yield _rule("", width, "band", fill="═")


def _message(message: Message, width: int, full: bool) -> Iterator[TextLine]:
    label = f"{message.role} {message.call_id}" if message.call_id else message.role
    if message.text or not message.calls:
        yield from _field(label, message.text, width, full, "", message.role)
    for text in phrases.far_images(message):
        yield from _wrap_styled(text, width, "dim", indent=" " * 8)
    for asked in message.calls:
        text = f"asks for {asked.name}({asked.arguments})"
        yield from _wrap_styled(text if full else clip(text, 300), width, "call", indent="  ")


def _step(shown_step: ShownStep, width: int, full: bool) -> Iterator[TextLine]:
    step = shown_step.step
    style = step.status if step.failed or step.status == "in_doubt" else ""
    yield from _step_line(step, width, full, style)
    for interruption in shown_step.inside:
        yield from _interruption(interruption, width, full)
    if (step.kind != "model" or step.error is not None) and (shown := phrases.outcome(step)):
        yield from _field("     →", shown, width, full, style, label_style="dim")
        yield from _traceback(step.error, width, full)
    if phrases.is_eventful(step):
        for attempt in step.attempts:
            line = phrases.attempt_line(attempt)
            yield from _wrap_styled(line if full else clip(line, 300), width, "dim", indent=_DEEP)
    for text in phrases.decision_lines(step):
        yield from _wrap_styled(text, width, "in_doubt", indent=_DEEP)
    if step.doubts and step.idempotency_key:
        yield TextLine().add(f"{_DEEP}idempotency key ", "dim").add(step.idempotency_key)


def _traceback(failure: Failure | None, width: int, full: bool) -> Iterator[TextLine]:
    """Where an error was raised, and with ``full`` its traceback."""
    if failure is None or failure.site is None:
        return
    text = failure.traceback if full and failure.traceback else f"at {failure.site}"
    yield from _wrap_styled(text.rstrip(), width, "dim", indent=_DEEP)


def _step_line(step: Step, width: int, full: bool, style: str) -> Iterator[TextLine]:
    """The call and its facts, on one line if they fit. The facts are never cut."""
    number, text = f"{step.step:>4} ", phrases.facts(step)
    called = visible(phrases.call(step))
    room = width - columns(f"{number} · {text}")
    if columns(called) > room >= 30 and not full:
        called = _head(called, room - 2) + "…)"
    if columns(called) <= room:
        line = TextLine().add(number, "dim").add(called, "call")
        yield line.add(f" · {text}", style or "dim") if text else line
    else:
        call = number + called
        yield from _wrap_styled(call if full else clip(call, 300), width, "call")
        yield from _wrap_styled(text, width, style or "dim", indent=_DEEP)


def _field(
    label: str, text: str, width: int, full: bool, style: str = "", label_style: str = "label"
) -> Iterator[TextLine]:
    """A label with its text beside it. The text is wrapped, and cut unless ``full``."""
    label = visible(label)
    label += " " * max(1, 8 - columns(label))
    shown = 0
    for number, part in enumerate(_wrap(text, width - 8, width - columns(label))):
        line = TextLine().add(" " * 8) if number else TextLine().add(label, label_style)
        if number == _MESSAGE_LINES and not full:
            yield line.add(f"… {max(1, len(text) - shown):,} more characters", "dim")
            return
        shown += len(part) + 1
        yield line.add(part, style)


def _wrap_styled(text: str, width: int, style: str, indent: str = "") -> Iterator[TextLine]:
    for number, part in enumerate(_wrap(text, width - len(indent), width - len(indent))):
        yield TextLine().add(indent if number or indent else "").add(part, style)


def wrap_text(text: str, width: int) -> Iterator[str]:
    """``text`` made inert, in pieces of at most ``width`` columns; nothing for an empty text."""
    if text:
        yield from _wrap(text, width, width)


def _wrap(text: str, width: int, first: int) -> Iterator[str]:
    """``text`` made inert, in pieces of at most ``width`` columns, the first of ``first``."""
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


def _rule(title: str, width: int, style: str, *, fill: str) -> TextLine:
    text = f"{fill * 2} {title} " if title else ""
    return TextLine().add(text + fill * (width - columns(text)), style)
