"""A transcript as Markdown for GitHub: to paste into an issue, or to give to a model.

Recorded text stands in code spans and fences only, or escaped inside ``<code>``. There nothing in
it is a link, an image, a mention or markup, and a fence is longer than any that the text holds.
Sections fold with ``details``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from agentrun.core.transcript import Message, Note, Resume, Said, Step, Transcript
from agentrun.view import words
from agentrun.view.safe import clip, pretty, visible

__all__ = ["as_markdown"]

_SHOWN = 20_000  # characters of one value
_SUMMARY = 160  # characters of a line that can be opened


def as_markdown(transcript: Transcript) -> str:
    """The whole transcript as GitHub-flavoured Markdown."""
    return "\n\n".join(_blocks(transcript)) + "\n"


def _blocks(transcript: Transcript) -> Iterator[str]:
    yield f"# {_span(clip(transcript.key, 200))}"
    yield _span(clip(words.headline(transcript), 400))
    yield words.totals(transcript)
    if transcript.input not in (None, {}):
        yield "**input**"
        yield _fence(pretty(transcript.input, indent=2))
    turn = None
    for entry in transcript.entries:
        if isinstance(entry, Said | Step) and entry.turn not in (None, turn):
            turn = entry.turn
            yield f"## turn {turn}"
        yield from _entry(entry)
    if transcript.error is not None:
        yield "## error"
        yield _fence(words.failure(transcript.error))
    elif transcript.status == "done":
        yield "## result"
        yield _fence(pretty(transcript.result, indent=2))


def _entry(entry: Said | Step | Resume | Note) -> Iterator[str]:
    match entry:
        case Said(echo=True):
            return  # the step itself shows it
        case Said():
            yield from _said(entry.message)
        case Step():
            yield from _step(entry)
        case Resume():
            yield f"> ⟳ {_span(words.band(entry))}"
        case Note():
            yield f"*—* {_span(words.note(entry))}"


def _said(message: Message) -> Iterator[str]:
    label = f"{message.role} · {message.call_id}" if message.call_id else message.role
    parts = [_fence(message.text)] if message.text else []
    parts += [f"asks for {_span(f'{call.name}({call.arguments})')}" for call in message.calls]
    if message.role in ("user", "assistant"):
        yield f"**{message.role}**"
        yield from parts
    else:
        yield from _folded(_code(label), parts)


def _step(step: Step) -> Iterator[str]:
    facts = f" · {html.escape(words.facts(step))}" if words.facts(step) else ""
    parts = [_fence(pretty(step.input, indent=2))]
    if step.error is not None:
        parts.append(_fence(words.failure(step.error)))
    elif step.finished_at is not None and step.kind != "model":
        parts.append(_fence(pretty(step.output, indent=2)))
    parts += map(_span, words.decision_lines(step))
    if step.idempotency_key:
        parts.append(f"idempotency key {_span(step.idempotency_key)}")
    if words.eventful(step):
        lines = (f"* {_span(words.attempt_line(attempt))}" for attempt in step.attempts)
        parts.append("\n".join(lines))
    opened = " open" if step.error is not None or step.doubts else ""
    yield from _folded(f"{step.step}. {_code(words.call(step))}{facts}", parts, opened)


def _folded(summary: str, parts: list[str], opened: str = "") -> Iterator[str]:
    yield f"<details{opened}><summary>{summary}</summary>"
    yield from parts
    yield "</details>"


def _code(text: str) -> str:
    """Recorded text inside a tag, on one line."""
    return f"<code>{html.escape(visible(clip(text, _SUMMARY)))}</code>"


def _span(text: str) -> str:
    """Recorded text as a code span, on one line."""
    text = visible(clip(text, _SHOWN)).strip() or " "
    ticks = "`" * (_longest("`", text) + 1)
    return f"{ticks} {text} {ticks}"  # the spaces are no part of it


def _fence(text: str) -> str:
    """Recorded text as a fenced block."""
    text = visible(clip(text, _SHOWN), multiline=True)
    ticks = "`" * max(3, _longest("`", text) + 1)
    return f"{ticks}text\n{text}\n{ticks}"


def _longest(char: str, text: str) -> int:
    return max(map(len, re.findall(f"{re.escape(char)}+", text)), default=0)
