"""The short phrases that every viewer uses for the same thing: a step, a band, a sum of money."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from agentrun.core.transcript import Attempt, Doubt, Failure, Note, Resume, Step, Transcript
from agentrun.view.safe import pretty

__all__ = [
    "ATTEMPT_COLUMNS",
    "STEP_COLUMNS",
    "attempt_cells",
    "attempt_line",
    "band",
    "call",
    "decision_lines",
    "eventful",
    "facts",
    "failure",
    "headline",
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
    """``support · done · 3 turns · 4.2 s`` (the key is shown beside it); without a model, steps."""
    turns, steps = transcript.turns, len(transcript.steps)
    size = _counted(turns, "turn") if turns or not steps else _counted(steps, "step")
    took = seconds(transcript.started_at, transcript.finished_at)
    return _facts(transcript.agent, transcript.status, size, took)


def totals(transcript: Transcript) -> str:
    """What the run used: calls, tokens, money, and what is not known about the money."""
    sums = transcript.totals
    return _facts(
        _counted(sums.model_calls, "model call"),
        _counted(sums.tool_calls, "tool call"),
        f"{sums.input_tokens:,} → {sums.output_tokens:,} tokens",
        _cost(sums.cost, sums.unpriced, sums.model_calls),
        f"{sums.possibly_billed} possibly billed" if sums.possibly_billed else None,
    )


def call(step: Step) -> str:
    """``refund(order_id="7", cents=100)``, or the model's name for a model call."""
    if step.kind == "model":
        return step.model or step.name or "model"
    if isinstance(step.input, dict):
        given = ", ".join(f"{name}={_literal(value)}" for name, value in step.input.items())
    else:
        given = "" if step.input is None else _literal(step.input)
    return f"{step.name or step.kind or 'step'}({given})"


def facts(step: Step) -> str:
    """``once · ok · 2 attempts · 0.2 s``; for a model call its tokens and price."""
    return _facts(
        step.effect if step.kind != "model" else None,
        step.status.replace("_", " ") if step.kind != "model" or step.status != "ok" else None,
        _tokens(step),
        _price(step),
        _counted(len(step.attempts), "attempt") if len(step.attempts) > 1 else None,
        f"{step.possibly_billed} possibly billed" if step.possibly_billed else None,
        seconds(step.started_at, step.finished_at),
        "set aside" if step.set_aside else None,
    )


def step_rows(transcript: Transcript) -> Iterator[tuple[Step, tuple[str, ...]]]:
    """Each step and its cells under `STEP_COLUMNS`, less the first."""
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
    """The result or the error of a step, in one text."""
    if step.error is not None:
        return failure(step.error)
    return pretty(step.output) if step.finished_at is not None else ""


def eventful(step: Step) -> bool:
    """True where the attempts tell more than the step's own line."""
    failed = any(attempt.error for attempt in step.attempts)
    return len(step.attempts) > 1 or bool(step.doubts) or (failed and step.error is None)


def attempt_cells(attempt: Attempt) -> tuple[str | None, ...]:
    """One attempt under `ATTEMPT_COLUMNS`."""
    retry = f"next in {attempt.retry_in:g} s" if attempt.retry_in is not None else None
    error = failure(attempt.error) if attempt.error else attempt.reason
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
    *told, _, took = attempt_cells(attempt)
    return _facts(*told, took)


def decision_lines(step: Step) -> Iterator[str]:
    """Who approved the call; what was in doubt and who settled it; and who reopened the step."""
    for decision in step.approvals:
        edited = f" with {pretty(decision.arguments)}" if decision.arguments is not None else ""
        told = f"{decision.resolution} by {decision.by or 'somebody'}{edited}"
        yield _facts(told, decision.reason)
    for doubt in step.doubts:
        yield _doubt(doubt)
    for decision in step.reopened:
        yield _facts(f"reopened by {decision.by or 'somebody'}", decision.reason)


def _doubt(doubt: Doubt) -> str:
    said = f"in doubt: attempt {doubt.attempt} began and has no outcome"
    if (decision := doubt.decision) is None:
        return f"{said}; waits for a decision"
    settled = f"{decision.resolution.replace('_', ' ')}, decided by {decision.by or 'somebody'}"
    return _facts(f"{said}; {settled}", decision.reason)


def band(resume: Resume) -> str:
    """What no other viewer shows: what a resume took from the journal, and did again."""
    who = f"resumed by {resume.worker or 'a worker'}"
    reason = f" ({resume.reason})" if resume.reason else ""
    saved = money(resume.saved) + (
        f" and {resume.saved_unpriced} unpriced" if resume.saved_unpriced else ""
    )
    return (
        f"{who}{reason}: {_counted(resume.replayed, 'step')} replayed, {resume.rerun} re-run, "
        f"{saved} not spent again, {resume.in_doubt} in doubt"
    )


def note(entry: Note) -> str:
    """``parked · held · approval`` and the like."""
    step = f"step {entry.step}" if entry.step is not None else None
    return _facts(entry.event.replace("_", " "), step, entry.text)


def failure(error: Failure) -> str:
    """``Timeout: no answer``"""
    return f"{error.type}: {error.message}" if error.message else error.type


def money(amount: Decimal) -> str:
    """Dollars, with the four to six decimals that model calls need."""
    text = f"{amount:.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${int(whole):,}.{cents.ljust(2 if not cents or amount >= 100 else 4, '0')}"


def seconds(start: datetime | None, end: datetime | None) -> str | None:
    """``0.2 s``, ``3 min 4 s``; None where one end is not known."""
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


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _facts(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)
