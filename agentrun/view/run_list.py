"""Renders a list of runs as a table, one run as a card, and the totals of a run.

All of it is plain tables and text, which an untrusted notebook keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from agentrun.core.summary import RunSummary
from agentrun.core.transcript import Totals
from agentrun.view import phrases
from agentrun.view.safe import Markup, clip, element, visible
from agentrun.view.tables import html_table, in_page, text_table

__all__ = [
    "next_call",
    "run_card",
    "run_html",
    "runs_html",
    "runs_text",
    "totals_html",
    "totals_text",
]

_NOTE = 160  # characters of the note on a run
_COLUMNS = ("status", "key", "agent", "created", "working", "turns", "cost", "note")
_TEXT_COLUMNS = ("status", "key", "agent", "turns", "cost", "note")


def _cells(run: RunSummary) -> dict[str, object]:
    return {
        "status": status_text(run),
        "key": clip(run.key, 200),
        "agent": clip(run.agent, 200),
        "created": run.created_at.isoformat(sep=" ", timespec="seconds"),
        "working": f"{run.working_seconds:,.1f} s",
        "turns": run.turns,
        "cost": cost_text(run),
        "note": clip(run.note, _NOTE),
    }


def status_text(run: RunSummary) -> str:
    """The status; a run that is decided and not taken up, or whose owner is dead, says so."""
    if run.decided_at is not None:
        return "decided"
    is_lost = run.owner_dead and run.status == "running"
    return f"{run.status} (owner dead)" if is_lost else run.status


def cost_text(run: RunSummary) -> str:
    """The cost of the run, of its tree if that is more, and how many calls have no price."""
    parts = [phrases.money(run.cost)]
    if run.tree_cost > run.cost:
        parts.append(f"{phrases.money(run.tree_cost)} with child runs")
    if run.unpriced:
        parts.append(f"{run.unpriced} unpriced")
    return ", ".join(parts)


# -- a list of runs --------------------------------------------------------------------------------


def runs_text(runs: Sequence[RunSummary]) -> str:
    """The runs as a table of 80 columns; the note is cut."""
    if not runs:
        return "no runs"
    rows = [[str(_short_cells(run)[name]) for name in _TEXT_COLUMNS] for run in runs]
    lines = text_table(_TEXT_COLUMNS, rows, cut_last=True)
    return "\n".join([*lines, _count(runs)])


def _short_cells(run: RunSummary) -> dict[str, object]:
    """The cells of a text table: what widens the column of costs stands in the note."""
    own, *more = cost_text(run).split(", ")
    note = " · ".join([*more, run.note])
    return _cells(run) | {"cost": own, "note": clip(note, _NOTE)}


def runs_html(runs: Sequence[RunSummary]) -> Markup:
    """The runs as a table."""
    if not runs:
        return in_page(element("p", "no runs"))
    rows = [[_cells(run)[name] for name in _COLUMNS] for run in runs]
    return in_page(html_table(_COLUMNS, rows), element("p", _count(runs), class_="ar-dim"))


def _count(runs: Sequence[RunSummary]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs):,} runs"


# -- one run ---------------------------------------------------------------------------------------


def next_call(run: RunSummary) -> str:
    """What to do next about the run, as Python."""
    key = ascii(run.key)  # a literal of Python in which no character can act
    if run.status == "held" and run.decided_at is None:
        return f"agentrun.inbox({key})"
    if run.status == "failed":
        return f"agentrun.resume({key})"
    if run.status == "done":
        return f"agentrun.get({key}).result()"
    if run.status == "cancelled":
        return f"agentrun.transcript({key})"
    return f"agentrun.notebook.follow({key})"


def _facts(run: RunSummary) -> Iterator[tuple[str, str]]:
    yield ("status", status_text(run))
    yield ("agent", run.agent)
    if note := run.note:
        yield ("note", clip(note, 400))
    yield ("created", run.created_at.isoformat(sep=" ", timespec="seconds"))
    yield ("turns", f"{run.turns:,}")
    yield ("tokens", f"{run.input_tokens:,} → {run.output_tokens:,}")
    yield ("cost", cost_text(run))
    yield ("working", f"{run.working_seconds:,.1f} s, waiting {run.waiting_seconds:,.1f} s")
    if run.parent_key is not None:
        yield ("parent", run.parent_key)
    if run.children:
        yield ("runs below it", f"{run.children:,}")
    yield ("next", next_call(run))


def run_card(run: RunSummary) -> str:
    """One run as lines of text."""
    rows = list(_facts(run))
    return "\n".join([clip(visible(run.key), 50), *text_table(("", ""), rows, cut_last=True)[1:]])


def run_html(run: RunSummary) -> Markup:
    """One run as a table of facts, with the call that comes next."""
    rows = [
        (element("strong", name), element("code", text) if name == "next" else text)
        for name, text in _facts(run)
    ]
    return in_page(element("h3", clip(run.key, 200), dir="auto"), html_table(("", ""), rows))


# -- totals ----------------------------------------------------------------------------------------


def totals_text(totals: Totals) -> str:
    """The totals that are not zero, one a line."""
    rows = _amounts(totals)
    return "\n".join(text_table(("total", "amount"), rows)) if rows else "no calls"


def totals_html(totals: Totals) -> Markup:
    """The totals that are not zero, as a table."""
    rows = _amounts(totals)
    return in_page(html_table(("total", "amount"), rows) if rows else element("p", "no calls"))


def _amounts(totals: Totals) -> list[tuple[str, object]]:
    amounts = ((field.name, getattr(totals, field.name)) for field in fields(totals))
    return [(name.replace("_", " "), amount) for name, amount in amounts if amount]
