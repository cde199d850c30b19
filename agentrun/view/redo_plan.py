"""Renders the plan of a redo: what is performed and paid again, and what is set aside with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agentrun.core.redo import Redo
from agentrun.view.layout import wrap_text
from agentrun.view.safe import Markup, clip, element, join, visible
from agentrun.view.tables import html_table, in_page

__all__ = ["redo_html", "redo_text"]

_CALLS = 50  # calls of one row
_SHOWN = 400  # characters of one call
_WIDTH = 80


def redo_text(plan: Redo) -> str:
    """The plan as sentences, in lines of 80 columns."""
    return "\n".join(wrap_text(visible(plan.describe()), _WIDTH))


def redo_html(plan: Redo) -> Markup:
    """The plan as a table of facts."""
    rows = [(element("strong", name), shown) for name, shown in _facts(plan)]
    title = f"Redo of step {plan.step} of run {clip(plan.key, 200)}"
    return in_page(element("h3", title, dir="auto"), html_table(("", ""), rows))


def _facts(plan: Redo) -> Iterator[tuple[str, str]]:
    yield "set aside", _calls([plan.call])
    yield "paid again", plan.paid or "no model call"
    yield "performed again", _calls(plan.again) if plan.again else "nothing that has an effect"
    if plan.once:
        yield "only with once=True", _calls(plan.once)
    if plan.children:
        yield "child runs", _lines(f"The {clip(child, _SHOWN)}." for child in plan.children)
    if later := plan.later:
        numbers = ", ".join(map(str, later[:_CALLS])) + (", …" if len(later) > _CALLS else "")
        yield "set aside with it", _lines([f"steps: {numbers}", clip(str(plan.after), 2_000)])


def _calls(calls: Sequence[str]) -> Markup:
    lines: list[object] = [element("code", clip(call, _SHOWN)) for call in calls[:_CALLS]]
    if (more := len(calls) - _CALLS) > 0:
        lines.append(f"… and {more:,} more")
    return _lines(lines)


def _lines(lines: Iterable[object]) -> Markup:
    return join(element("div", line) for line in lines)
