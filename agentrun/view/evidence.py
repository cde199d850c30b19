"""What exactly a step asked for and got, and where its error comes from, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from agentrun.core.transcript import Failure, Step
from agentrun.view.layout import TextLine, wrap_text
from agentrun.view.safe import pretty

__all__ = ["evidence_lines", "failure_lines"]

_SHORT = 12  # lines of one text, unless it is shown whole
_INDENT = "  "


def evidence_lines(step: Step, *, width: int, full: bool) -> Iterator[TextLine]:
    """The request and the reply of a model call as JSON, and the traceback of an error.

    ``full`` shows them whole instead of their first lines.
    """
    if step.request is not None:
        yield from _section("request", pretty(step.request, indent=2), width, full)
    if step.reply is not None:
        yield from _section("reply", pretty(step.reply, indent=2), width, full)
    if step.error is not None:
        yield from failure_lines(step.error, width=width, full=full)


def failure_lines(failure: Failure, *, width: int, full: bool) -> Iterator[TextLine]:
    """Where an error was raised, and its traceback."""
    if failure.site is not None:
        yield from _section("raised at", failure.site, width, full)
    if failure.traceback is not None:
        yield from _section("traceback", failure.traceback.rstrip(), width, full, end=True)


def _section(
    title: str, text: str, width: int, full: bool, *, end: bool = False
) -> Iterator[TextLine]:
    """A title and the lines below it. Of a long text the beginning, or with ``end`` the end."""
    yield TextLine().add(title, "label")
    lines = list(wrap_text(text, max(8, width - len(_INDENT))))
    missing = 0 if full else max(0, len(lines) - _SHORT)
    note = TextLine().add(f"{_INDENT}… {missing:,} more lines: --full", "dim")
    if missing and end:
        yield note
    shown = lines[missing:] if end else lines[: len(lines) - missing]
    for line in shown:
        yield TextLine().add(_INDENT + line)
    if missing and not end:
        yield note
