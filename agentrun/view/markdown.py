"""Renders a transcript as Markdown for GitHub, for an issue or as input of a model.

Recorded text appears only in code spans and fences, or escaped inside ``<code>``. So nothing in it
can act as a link, an image, a mention or markup. A fence is longer than any fence in its text.
Sections can be folded (``details``).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from agentrun.core.transcript import Message, NewMessage, Note, Transcript
from agentrun.view import phrases
from agentrun.view.blocks import Band, Interruption, Item, ShownStep, arrange
from agentrun.view.safe import clip, pretty, visible

__all__ = ["as_markdown"]

_SHOWN = 20_000  # characters of one value
_SUMMARY = 160  # characters of the summary of a `details` element


def as_markdown(transcript: Transcript) -> str:
    """The whole transcript as GitHub-flavoured Markdown."""
    return "\n\n".join(_blocks(transcript)) + "\n"


def _blocks(transcript: Transcript) -> Iterator[str]:
    yield f"# {_span(clip(transcript.key, 200))}"
    yield _span(clip(phrases.headline(transcript), 400))
    yield _span(phrases.times(transcript))
    yield phrases.totals(transcript)
    if (found := phrases.first_error(transcript)) is not None:
        step, text = found
        label = "failed" if transcript.error is not None else "first error,"
        place = "" if step is None else f" in step {step.step}"
        yield f"{label}{place}: {_span(text)}"
    if transcript.input not in (None, {}):
        yield "**input**"
        yield _fence(pretty(transcript.input, indent=2))
    turn = None
    for part in arrange(transcript.entries):
        if part.turn not in (None, turn):
            turn = part.turn
            yield f"## turn {turn}"
        yield from _item(part.item)
    if transcript.error is not None:
        yield "## error"
        yield _fence(phrases.failure(transcript.error))
    elif transcript.status == "done":
        yield "## result"
        yield _fence(pretty(transcript.result, indent=2))


def _item(item: Item) -> Iterator[str]:
    match item:
        case NewMessage():
            yield from _message(item.message)
        case ShownStep():
            yield from _step(item)
        case Band() | Note():
            yield from _interruption(item)


def _interruption(item: Interruption) -> Iterator[str]:
    if isinstance(item, Note):
        yield f"*—* {_span(phrases.note(item))}"
        return
    yield f"> ⟳ {_span(phrases.band(item))}"
    if len(item.resumes) > 1:
        yield "\n".join(f"* {_span(line)}" for line in phrases.band_lines(item))


def _message(message: Message) -> Iterator[str]:
    label = f"{message.role} · {message.call_id}" if message.call_id else message.role
    parts = [_fence(message.text)] if message.text else []
    parts += map(_span, phrases.far_images(message))
    parts += [f"asks for {_span(f'{call.name}({call.arguments})')}" for call in message.calls]
    if message.role in ("user", "assistant"):
        yield f"**{message.role}**"
        yield from parts
    else:
        yield from _fold(_code(label), parts)


def _step(shown_step: ShownStep) -> Iterator[str]:
    step = shown_step.step
    facts = f" · {html.escape(phrases.facts(step))}" if phrases.facts(step) else ""
    parts = [_fence(pretty(step.input, indent=2))]
    for interruption in shown_step.inside:
        parts += _interruption(interruption)
    if step.error is not None:
        parts.append(_fence(phrases.failure(step.error)))
    elif step.finished_at is not None and step.kind != "model":
        parts.append(_fence(pretty(step.output, indent=2)))
    parts += map(_span, phrases.decision_lines(step))
    if step.idempotency_key:
        parts.append(f"idempotency key {_span(step.idempotency_key)}")
    if phrases.is_eventful(step):
        lines = (f"* {_span(phrases.attempt_line(attempt))}" for attempt in step.attempts)
        parts.append("\n".join(lines))
    opened = " open" if step.failed or step.doubts or shown_step.inside else ""
    yield from _fold(f"{step.step}. {_code(phrases.call(step))}{facts}", parts, opened)


def _fold(summary: str, parts: list[str], opened: str = "") -> Iterator[str]:
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
    return f"{ticks} {text} {ticks}"  # Markdown removes the two spaces again


def _fence(text: str) -> str:
    """Recorded text as a fenced block."""
    text = visible(clip(text, _SHOWN), multiline=True)
    ticks = "`" * max(3, _longest("`", text) + 1)
    return f"{ticks}text\n{text}\n{ticks}"


def _longest(char: str, text: str) -> int:
    return max(map(len, re.findall(f"{re.escape(char)}+", text)), default=0)
