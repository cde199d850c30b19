"""The short phrases that all viewers share: for a step, a resume, a sum of money and so on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from agentrun.core.events import Json, first_name
from agentrun.core.transcript import (
    Attempt,
    Decision,
    Doubt,
    Failure,
    Note,
    Resume,
    Step,
    Transcript,
)
from agentrun.view.safe import pretty

__all__ = [
    "ATTEMPT_COLUMNS",
    "STEP_COLUMNS",
    "attempt_cells",
    "attempt_line",
    "band",
    "call",
    "decision_lines",
    "facts",
    "failure",
    "headline",
    "is_eventful",
    "money",
    "note",
    "outcome",
    "seconds",
    "step_rows",
    "totals",
]

ATTEMPT_COLUMNS = ("attempt", "worker", "outcome", "error", "started", "took")
STEP_COLUMNS = ("step", "what", "outcome", "began at", "took", "tokens", "cost", "cost so far")


def headline(transcript: Transcript) -> str:
    """``support · done · 3 turns · 4.2 s``. Without a model call, the steps are counted."""
    turns, steps = transcript.turns, len(transcript.steps)
    size = _count(turns, "turn") if turns or not steps else _count(steps, "step")
    took = seconds(transcript.started_at, transcript.finished_at)
    dead = " (owner dead)" if transcript.owner_lost and transcript.status == "running" else ""
    return _facts(transcript.agent, transcript.status + dead, size, took)


def totals(transcript: Transcript) -> str:
    """The totals of a run: calls, tokens, cost, and how many calls have no known cost."""
    sums = transcript.totals
    return _facts(
        _count(sums.model_calls, "model call"),
        _count(sums.tool_calls, "tool call"),
        f"{sums.input_tokens:,} → {sums.output_tokens:,} tokens",
        _cost(sums.cost, sums.unpriced, sums.model_calls),
        f"{sums.possibly_billed} possibly billed" if sums.possibly_billed else None,
    )


def call(step: Step) -> str:
    """``refund(order_id="7", cents=100)``, or the name of the model for a model call."""
    if step.kind == "model":
        return step.model or step.name or "model"
    if isinstance(step.input, dict):
        arguments = ", ".join(f"{name}={_literal(value)}" for name, value in step.input.items())
    else:
        arguments = "" if step.input is None else _literal(step.input)
    return f"{step.name or step.kind or 'step'}({arguments})"


def facts(step: Step) -> str:
    """``once · ok · 2 attempts · 0.2 s``. For a model call also its tokens and cost."""
    return _facts(
        step.effect if step.kind != "model" else None,
        step.status.replace("_", " ") if step.kind != "model" or step.status != "ok" else None,
        _tokens(step),
        _price(step),
        _count(len(step.attempts), "attempt") if len(step.attempts) > 1 else None,
        f"{step.possibly_billed} possibly billed" if step.possibly_billed else None,
        seconds(step.started_at, step.finished_at),
        "set aside" if step.set_aside else None,
        describe_masked(step.masked),
    )


def describe_masked(counts: Json) -> str | None:
    """``masked: openai key (51 characters)``. None if nothing is masked."""
    parts = counts.values() if isinstance(counts, dict) else []
    kinds: dict[str, int] = {}
    for part in parts:
        for kind, sums in part.items() if isinstance(part, dict) else ():
            chars = sums.get("chars") if isinstance(sums, dict) else None
            kinds[str(kind)] = max(kinds.get(str(kind), 0), chars if isinstance(chars, int) else 0)
    found = [f"{kind} ({_count(chars, 'character')})" for kind, chars in sorted(kinds.items())]
    return f"masked: {', '.join(found)}" if found else None


def step_rows(transcript: Transcript) -> Iterator[tuple[Step, tuple[str, ...]]]:
    """Each step, and its cells under `STEP_COLUMNS` without the first column."""
    spent = Decimal(0)
    for step in transcript.steps:
        cost = step.usage.cost if step.usage is not None else None
        spent += cost or 0
        began = seconds(transcript.started_at, step.started_at)
        yield (
            step,
            (
                call(step),
                step.status.replace("_", " "),
                f"+{began}" if began else "",
                seconds(step.started_at, step.finished_at) or "",
                (_tokens(step) or "").removesuffix(" tokens"),
                _price(step) or "",
                money(spent) if cost is not None else "",
            ),
        )


def outcome(step: Step) -> str:
    """The result or the error of a step as text."""
    if step.error is not None:
        return failure(step.error)
    return pretty(step.output) if step.finished_at is not None else ""


def is_eventful(step: Step) -> bool:
    """Whether the attempts have information that the line of the step does not have."""
    failed = any(attempt.error for attempt in step.attempts)
    return len(step.attempts) > 1 or bool(step.doubts) or (failed and step.error is None)


def attempt_cells(attempt: Attempt) -> tuple[str | None, ...]:
    """The cells of one attempt under `ATTEMPT_COLUMNS`."""
    retry = f"next in {attempt.retry_in:g} s" if attempt.retry_in is not None else None
    own = attempt.error if attempt.status != "unreached" else None
    error = failure(own) if own else attempt.reason
    if attempt.partial:
        error = " · ".join(filter(None, (error, f"superseded partial: {attempt.partial}")))
    return (
        f"attempt {attempt.number}",
        attempt.worker,
        "no outcome" if attempt.status == "unknown" else attempt.status.replace("_", " "),
        _facts(error, retry),
        attempt.started_at.isoformat(sep=" ", timespec="seconds") if attempt.started_at else None,
        seconds(attempt.started_at, attempt.ended_at),
    )


def attempt_line(attempt: Attempt) -> str:
    """``attempt 1 · w-1 · failed · HTTP 500: overloaded · next in 2 s · 0.3 s``"""
    *cells, _, took = attempt_cells(attempt)
    return _facts(*cells, took)


def decision_lines(step: Step) -> Iterator[str]:
    """One line for each approval, each doubt with its decision, and each reopening of a step."""
    for decision in step.approvals:
        edited = f" with {pretty(decision.arguments)}" if decision.arguments is not None else ""
        decided = f"{decision.resolution} by {decision.decider}{edited}"
        yield _facts(decided, decision.reason, _database_user(decision))
    for doubt in step.doubts:
        yield _doubt(doubt)
    for decision in step.reopened:
        yield _facts(f"reopened by {first_name(decision.by)}", decision.reason)


def _doubt(doubt: Doubt) -> str:
    text = f"in doubt: attempt {doubt.attempt} began and has no outcome"
    if (decision := doubt.decision) is None:
        return f"{text}; waits for a decision"
    decided = f"{decision.resolution.replace('_', ' ')}, decided by {decision.decider}"
    return _facts(f"{text}; {decided}", decision.reason, _database_user(decision))


def _database_user(decision: Decision) -> str | None:
    """Whether the decision is signed, and the database user if that differs from the decider."""
    signed = "signed" if decision.signed_by else None
    known = (
        f"database user {decision.by}" if decision.by and decision.by != decision.decider else ""
    )
    return _facts(signed, known) or None


def band(resume: Resume) -> str:
    """A resume: ``resumed by w-2: 3 steps replayed, 0 re-run, $0.0031 not spent again, …``."""
    who = f"resumed by {resume.worker or 'a worker'}"
    reason = f" ({resume.reason})" if resume.reason else ""
    saved = money(resume.saved) + (
        f" and {resume.saved_unpriced} unpriced" if resume.saved_unpriced else ""
    )
    return (
        f"{who}{reason}: {_count(resume.replayed, 'step')} replayed, {resume.rerun} re-run, "
        f"{saved} not spent again, {resume.in_doubt} in doubt"
    )


def note(entry: Note) -> str:
    """A note as one line: ``parked · held · approval``."""
    step = f"step {entry.step}" if entry.step is not None else None
    return _facts(entry.event.replace("_", " "), step, entry.text)


def failure(error: Failure) -> str:
    """An error as one line: ``Timeout: no answer``."""
    return f"{error.type}: {error.message}" if error.message else error.type


def money(amount: Decimal) -> str:
    """US dollars, with the four to six decimals that model calls need."""
    text = f"{amount:.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${int(whole):,}.{cents.ljust(2 if not cents or amount >= 100 else 4, '0')}"


def seconds(start: datetime | None, end: datetime | None) -> str | None:
    """A duration: ``0.2 s``, ``3 min 4 s``. None if one end is not known."""
    if start is None or end is None:
        return None
    took = max(0.0, (end - start).total_seconds())
    if took < 60:
        return f"{took:.1f} s"
    minutes, rest = divmod(round(took), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _tokens(step: Step) -> str | None:
    usage = step.usage
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    return f"{usage.input_tokens or 0:,} → {usage.output_tokens or 0:,} tokens"


def _price(step: Step) -> str | None:
    if step.unpriced:
        return "unpriced"
    return money(step.usage.cost) if step.usage and step.usage.cost is not None else None


def _cost(cost: Decimal, unpriced: int, calls: int) -> str:
    if not unpriced:
        return money(cost)
    return f"{unpriced} unpriced" if unpriced >= calls else f"{money(cost)} + {unpriced} unpriced"


def _literal(value: object) -> str:
    return pretty([value])[1:-1]  # a string keeps its quotes


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _facts(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)
