"""Renders one step by itself, as a transcript shows it, and a plan to perform one again."""

from __future__ import annotations

from agentrun.core.transcript import Step
from agentrun.view.html import entry_html
from agentrun.view.layout import entry_lines
from agentrun.view.safe import Markup
from agentrun.view.tables import in_page

__all__ = ["step_html", "step_text"]


def step_text(step: Step, *, width: int = 80) -> str:
    """The step as lines of text."""
    return "\n".join(line.fit(width).text.rstrip() for line in entry_lines(step, width, False))


def step_html(step: Step) -> Markup:
    """The step as HTML, with its styles."""
    return in_page(entry_html(step))
