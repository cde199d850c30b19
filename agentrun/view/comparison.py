"""Renders a comparison of two runs: as lines of text, and as HTML.

Both list every place in the code. Places where the runs agree are folded together, the first
difference is open, and whatever is cut is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from agentrun.core.comparison import ComparedStep, Comparison
from agentrun.core.transcript import Transcript
from agentrun.view import phrases
from agentrun.view.html import CSS
from agentrun.view.layout import TextLine
from agentrun.view.safe import Markup, clip, element, join

__all__ = ["compared_totals", "comparison_html", "comparison_lines", "comparison_text", "headline"]

_DIFFS = 50  # steps whose diff is shown; --json has all
_ROWS = 1_000  # steps of one group that are listed
_SUMMARY = 160  # characters of one line of HTML
_SHOWN = 4_000  # characters of one value
_SIGNS = {"same": "=", "differs": "≠", "only_a": "A", "only_b": "B"}
_WORDS = {"differs": "differs", "only_a": "only in A", "only_b": "only in B"}


def headline(comparison: Comparison) -> str:
    """``8 steps: 5 same, 2 differ, 1 only in B``, and how many set aside are not compared."""
    counts = {
        "same": "same",
        "differs": "differ",
        "only_a": "only in A",
        "only_b": "only in B",
    }
    verdicts = [step.verdict for step in comparison.steps]
    if verdicts.count("differs") == 1:
        counts["differs"] = "differs"
    found = [f"{verdicts.count(name)} {word}" for name, word in counts.items() if name in verdicts]
    size = "1 step" if len(verdicts) == 1 else f"{len(verdicts)} steps"
    text = f"{size}: {', '.join(found) or 'nothing to compare'}"
    aside = [
        f"{count} of {name}"
        for name, run in (("A", comparison.a), ("B", comparison.b))
        if (count := sum(step.set_aside for step in run.steps))
    ]
    return f"{text}; set aside and not compared: {', '.join(aside)}" if aside else text


def compared_totals(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """The totals of both runs: what it is, and the values of A and B."""
    a, b = (list(_totals(run)) for run in (comparison.a, comparison.b))
    for (name, one), (_, other) in zip(a, b, strict=True):
        yield name, one, other


def _totals(run: Transcript) -> Iterator[tuple[str, str]]:
    sums = run.totals
    yield "status", run.status
    yield "turns", f"{run.turns:,}"
    yield "model calls", f"{sums.model_calls:,}"
    yield "tool calls", f"{sums.tool_calls:,}"
    yield "input tokens", f"{sums.input_tokens:,}"
    yield "of these cached", f"{sums.cached_tokens:,}"
    yield "output tokens", f"{sums.output_tokens:,}"
    yield "cost", phrases.money(sums.cost)
    yield "calls without a price", f"{sums.unpriced:,}"
    yield "possibly billed", f"{sums.possibly_billed:,}"
    yield "from start to end", phrases.seconds(run.started_at, run.finished_at) or ""


def _call(compared: ComparedStep) -> str:
    step = compared.a or compared.b
    return "" if step is None else phrases.call(step)


def _numbers(compared: ComparedStep) -> str:
    """The numbers of the step in both runs, if they are not the same: ``step 3 of A, 4 of B``."""
    a, b = (step and step.step for step in (compared.a, compared.b))
    if a is None or b is None or a == b:
        return f"step {a if a is not None else b}"
    return f"step {a} of A, {b} of B"


def _groups(comparison: Comparison) -> Iterator[tuple[bool, list[ComparedStep]]]:
    for same, steps in groupby(comparison.steps, lambda step: step.verdict == "same"):
        yield same, list(steps)


# -- text ------------------------------------------------------------------------------------------


def comparison_text(comparison: Comparison, *, width: int = 80) -> str:
    """The comparison as plain text, no line wider than ``width`` columns."""
    return "\n".join(line.text.rstrip() for line in comparison_lines(comparison, width=width))


def comparison_lines(comparison: Comparison, *, width: int) -> Iterator[TextLine]:
    """The lines of a comparison, none wider than ``width`` columns."""
    for line in _lines(comparison):
        yield line.fit(width)


def _lines(comparison: Comparison) -> Iterator[TextLine]:
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        line = TextLine().add(f"{name}  ", "dim").add(clip(run.key, 200), "bold")
        yield line.add(f"  {clip(phrases.headline(run), 400)}")
    yield TextLine()
    for name, one, other in compared_totals(comparison):
        mark = "  " if one == other else "≠ "
        yield TextLine().add(mark).add(f"{name:<24}", "dim").add(f"{one:>18}  {other:>18}")
    yield TextLine()
    for change in comparison.changes:
        yield TextLine().add("≠ ", "error").add(clip(change, 2_000))
    yield (
        TextLine()
        .add("the runs are the same; " if comparison.same else "")
        .add(headline(comparison))
    )
    yield TextLine()
    diffs = 0
    for same, steps in _groups(comparison):
        shown = [*steps[:1], *steps[-1:]] if same and len(steps) > 4 else steps
        for compared in shown:
            diffs += compared.verdict == "differs"
            yield from _step_lines(compared, with_diff=diffs <= _DIFFS)
            if shown is not steps and compared is shown[0]:
                yield TextLine().add(f"    … {len(steps) - 2:,} more are the same …", "dim")


def _step_lines(compared: ComparedStep, *, with_diff: bool) -> Iterator[TextLine]:
    style = "" if compared.verdict == "same" else "error"
    line = TextLine().add(f"{_SIGNS[compared.verdict]} ", style).add(f"{compared.ident:<6} ", "dim")
    line.add(_call(compared)).add(f" · {_numbers(compared)}", "dim")
    if word := _WORDS.get(compared.verdict):
        line.add(f" · {word}", style)
    yield line
    for change in compared.changes:
        yield TextLine().add(f"         {change}")
    if compared.verdict != "differs":
        return
    if not with_diff:
        yield TextLine().add("         its diff is in `agentrun compare A B --json`", "dim")
    for text in compared.diff.splitlines() if with_diff else ():
        yield TextLine().add(f"         {text}", "dim")


# -- HTML ------------------------------------------------------------------------------------------


def comparison_html(comparison: Comparison, *, styled: bool = True) -> Markup:
    """The comparison as one ``div`` of ``details``, ``table`` and ``pre``, for any page.

    ``styled`` is False for a page that brings `CSS` itself.
    """
    head = element("tr", *(element("th", name, align="left") for name in ("", "A", "B")))
    runs = [
        ("run", clip(comparison.a.key, 200), clip(comparison.b.key, 200)),
        ("agent", clip(comparison.a.agent, 200), clip(comparison.b.agent, 200)),
        *compared_totals(comparison),
    ]
    rows = [
        element("tr", *(element("td", cell, align="left", dir="auto") for cell in row))
        for row in runs
    ]
    blocks, diffs = [], 0
    for same, steps in _groups(comparison):
        if same:
            blocks.append(_same_block(steps))
            continue
        for compared in steps:
            first = compared is comparison.first_difference
            diffs += compared.verdict == "differs"
            blocks.append(_different_block(compared, first=first, with_diff=diffs <= _DIFFS))
    same_text = "The runs are the same. " if comparison.same else ""
    return element(
        "div",
        element("style", CSS) if styled else "",
        element("h3", "Two runs"),
        element("table", head, *rows),
        *(element("p", clip(change, 2_000), dir="auto") for change in comparison.changes),
        element("p", element("strong", f"{same_text}{headline(comparison)}")),
        *blocks,
        class_="ar-root",
    )


def _same_block(steps: list[ComparedStep]) -> Markup:
    shown = [
        element(
            "tr",
            *(
                element("td", clip(cell, _SUMMARY), align="left")
                for cell in (compared.ident, _numbers(compared), _call(compared))
            ),
        )
        for compared in steps[:_ROWS]
    ]
    missing = len(steps) - len(shown)
    rest = [element("p", f"… {missing:,} more are the same")] if missing > 0 else []
    count = f"{len(steps):,} step{'' if len(steps) == 1 else 's'} the same"
    return element("details", element("summary", f"= {count}"), element("table", *shown), *rest)


def _different_block(compared: ComparedStep, *, first: bool, with_diff: bool) -> Markup:
    summary = element(
        "summary",
        element("strong", f"{_SIGNS[compared.verdict]} "),
        f"{clip(compared.ident, _SUMMARY)} ",
        element("code", clip(_call(compared), _SUMMARY)),
        element("span", f" · {_numbers(compared)} · {_WORDS[compared.verdict]}", class_="ar-dim"),
    )
    changes = [element("p", clip(change, 2_000), dir="auto") for change in compared.changes]
    opened = {"open": "open"} if first else {}
    return element(
        "details", summary, *changes, _evidence(compared, with_diff), class_="ar-error", **opened
    )


def _evidence(compared: ComparedStep, with_diff: bool) -> Markup:
    """The diff of two steps, or what is known of a step that only one run has."""
    if compared.verdict == "differs":
        if not with_diff:
            return element("p", "Its diff is in `agentrun compare A B --json`.")
        return element("pre", compared.diff) if compared.diff else Markup("")
    step = compared.a or compared.b
    if step is None:
        return Markup("")
    return join(
        [element("p", phrases.facts(step)), element("pre", clip(phrases.outcome(step), _SHOWN))]
    )
