"""Renders what waits for a person: each request with the calls of Python that decide it.

A call carries the fingerprint of the request that is shown. So a call that was copied from an old
cell decides nothing, if the run asks for something else by now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentrun.core.waiting import Waiting, suggested_limits
from agentrun.view import phrases
from agentrun.view.safe import Markup, clip, element, pretty, visible
from agentrun.view.tables import in_page

__all__ = ["decision_calls", "inbox_html", "inbox_text"]

_REASON = 2_000  # characters
_ARGUMENTS = 4_000


def decision_calls(waiting: Waiting) -> Iterator[str]:
    """The calls that answer the request, as Python. None of them is performed here."""
    key = ascii(waiting.key)
    if waiting.waits_for == "divergence" or waiting.fingerprint is None or waiting.step is None:
        if waiting.waits_for == "divergence":
            yield f'agentrun.resume({key}, on_divergence="keep")  # or "accept": see the reason'
        else:
            yield f"agentrun.resume({key})  # see the reason"
        return
    place = f"{key}, {waiting.step}"
    seen = f"fingerprint={waiting.fingerprint!a}"
    if waiting.waits_for == "doubt":
        for outcome in ("Happened(RESULT)", "NotHappened()", "Unknown()"):
            yield f"agentrun.resolve({place}, agentrun.{outcome}, {seen})"
        return
    larger = suggested_limits(waiting.suggested_budget)
    budget = f"budget=agentrun.Budget({larger}), " if larger else ""
    yield f"agentrun.approve({place}, {budget}{seen})"
    yield f'agentrun.reject({place}, reason="WHY", {seen})'


def _title(waiting: Waiting) -> str:
    step = f"step {waiting.step}" if waiting.step is not None else None
    since = f"since {waiting.since.isoformat(sep=' ', timespec='seconds')}"
    return " · ".join(filter(None, (step, waiting.waits_for, since)))


def _facts(waiting: Waiting) -> str:
    attempt = f"attempt {waiting.attempt}" if waiting.attempt else None
    masked = phrases.describe_masked({"input": waiting.masked} if waiting.masked else None)
    parts = (waiting.name, waiting.effect, attempt, masked)
    return " · ".join(part for part in parts if part)


def inbox_text(inbox: Sequence[Waiting]) -> str:
    """Each request as a block of lines. A call stands on a line of its own, to be copied whole."""
    if not inbox:
        return "nothing waits"
    return "\n\n".join("\n".join(_block(waiting)) for waiting in inbox)


def _block(waiting: Waiting) -> Iterator[str]:
    yield visible(f"{clip(waiting.key, 200)} · {waiting.agent} · {_title(waiting)}")
    if facts := _facts(waiting):
        yield f"  {visible(facts)}"
    if waiting.args is not None:
        yield f"  {visible(clip(pretty(waiting.args), 400))}"
    yield f"  {visible(clip(waiting.reason, _REASON))}"
    yield from (f"  {visible(call)}" for call in decision_calls(waiting))


def inbox_html(inbox: Sequence[Waiting]) -> Markup:
    """A card for each request. Nothing in it sends a decision: a call has to be copied and run."""
    if not inbox:
        return in_page(element("p", "nothing waits"))
    return in_page(*map(_card, inbox))


def _card(waiting: Waiting) -> Markup:
    summary = element(
        "summary",
        element("strong", clip(waiting.key, 200)),
        f" · {clip(waiting.agent, 200)} · {_title(waiting)}",
    )
    parts = [element("p", facts)] if (facts := _facts(waiting)) else []
    if waiting.args is not None:
        parts.append(element("pre", clip(pretty(waiting.args, indent=2), _ARGUMENTS)))
    parts.append(element("p", clip(waiting.reason, _REASON), dir="auto"))
    parts.append(element("pre", "\n".join(decision_calls(waiting))))
    return element("details", summary, *parts, class_="ar-doubt", open="open")
