"""Renders one step by itself, as a transcript shows it, and a plan to perform one again."""

from __future__ import annotations

from agentrun.core.redo import Redo
from agentrun.core.transcript import Step
from agentrun.view.html import entry_html
from agentrun.view.layout import entry_lines
from agentrun.view.safe import Markup, visible
from agentrun.view.tables import in_page

__all__ = ["redo_text", "step_html", "step_text"]


def step_text(step: Step, *, width: int = 80) -> str:
    """The step as lines of text."""
    return "\n".join(line.fit(width).text.rstrip() for line in entry_lines(step, width, False))


def step_html(step: Step) -> Markup:
    """The step as HTML, with its styles."""
    return in_page(entry_html(step))


def redo_text(plan: Redo) -> str:
    """The plan to perform a step again, in sentences."""
    return visible(plan.describe())
