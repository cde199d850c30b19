"""The short phrases that all viewers share: for a step, a resume, a sum of money and so on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from agentrun.core.events import Json, first_name
from agentrun.core.money import money
from agentrun.core.transcript import (
    Attempt,
    Decision,
    Doubt,
    Failure,
    Message,
    Note,
    Step,
    Transcript,
)
from agentrun.view.blocks import Band, Part, ShownStep
from agentrun.view.durations import brief
from agentrun.view.safe import clip, pretty
from agentrun.view.timeline import Timeline, attempt_time, read_timeline

__all__ = [
    "ATTEMPT_COLUMNS",
    "STEP_COLUMNS",
    "attempt_cells",
    "attempt_line",
    "band",
    "band_lines",
    "call",
    "clock",
    "decision_lines",
    "facts",
    "failure",
    "far_image",
    "far_images",
    "first_error",
    "headline",
    "is_eventful",
    "moment",
    "money",
    "note",
    "outcome",
    "seconds",
    "step_rows",
    "times",
    "tokens",
    "took",
    "totals",
    "turn_facts",
]

ATTEMPT_COLUMNS = ("attempt", "worker", "outcome", "error", "started", "took")
_SHORTEST_WAIT = timedelta(seconds=0.1)  # of a run; a shorter one is not told
STEP_COLUMNS = ("step", "what", "outcome", "began at", "took", "tokens", "cost", "cost so far")


def headline(transcript: Transcript) -> str:
    """``support · done · 3 turns``. Without a model call, the steps are counted."""
    turns, steps = transcript.turns, len(transcript.steps)
    size = _count(turns, "turn") if turns or not steps else _count(steps, "step")
    dead = " (owner dead)" if transcript.owner_lost and transcript.status == "running" else ""
    return _facts(transcript.agent, transcript.status + dead, size)


def times(transcript: Transcript, timeline: Timeline | None = None) -> str:
    """``2026-11-22 12:00:02 UTC · worked 4.2 s · waited 31 min 0 s``: when it began, how long.

    ``timeline`` is that of the transcript, if it has been read already.
    """
    timeline = timeline or read_timeline(transcript)
    if timeline is None:
        created = transcript.created_at
        return f"created {moment(created)} · not started" if created else "not started"
    waited = f"waited {brief(timeline.waiting)}" if timeline.waiting >= _SHORTEST_WAIT else None
    began = moment(transcript.started_at or timeline.start)
    return _facts(began, f"worked {brief(timeline.working)}", waited)


def first_error(transcript: Transcript) -> tuple[Step | None, str] | None:
    """The error of a failed run with the step that it comes from, or else the first of a step.

    A run that failed without a step has its error, and None for the step.
    """
    if transcript.error is not None:
        steps = (step for step in transcript.steps if step.step == transcript.failed_step)
        return next(steps, None), failure(transcript.error)
    for step in transcript.steps:
        if step.error is not None and step.failed and not step.set_aside:
            return step, failure(step.error)
    return None


def totals(transcript: Transcript) -> str:
    """The totals of a run: calls, tokens, cost, and how many calls have no known cost."""
    sums = transcript.totals
    special = {
        "cached": sums.cached_tokens,
        "written to the cache": sums.cache_write_tokens,
        "reasoning": sums.reasoning_tokens,
        "audio": sums.audio_tokens,
    }
    return _facts(
        _count(sums.model_calls, "model call"),
        _count(sums.tool_calls, "tool call"),
        _token_line(sums.input_tokens, sums.output_tokens, special),
        _cost(sums.cost, sums.unpriced, sums.model_calls),
        f"{sums.possibly_billed} possibly billed" if sums.possibly_billed else None,
    )


def turn_facts(parts: Iterable[Part], start: datetime | None) -> str:
    """``12:00:14 · 2 tool calls · $0.0031 · 1.2 s``: what these parts of a turn are together."""
    steps = [part.item.step for part in parts if isinstance(part.item, ShownStep)]
    if not steps:
        return ""
    begins = [step.started_at for step in steps if step.started_at is not None]
    ends = [step.finished_at for step in steps if step.finished_at is not None]
    calls = sum(step.kind == "tool" for step in steps)
    costs = [step.usage.cost for step in steps if step.usage and step.usage.cost is not None]
    errors = sum(step.failed for step in steps)
    return _facts(
        clock(min(begins, default=None), start),
        _count(calls, "tool call") if calls else None,
        _count(errors, "error") if errors else None,
        money(sum(costs, Decimal(0))) if costs else None,
        seconds(min(begins, default=None), max(ends, default=None)),
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
        tokens(step),
        _price(step),
        _count(len(step.attempts), "attempt") if len(step.attempts) > 1 else None,
        f"{step.possibly_billed} possibly billed" if step.possibly_billed else None,
        took(step),
        "set aside" if step.set_aside else None,
        describe_masked(step.masked),
    )


def took(step: Step) -> str | None:
    """How long the attempts of a step took, and how long it waited in between, if it did."""
    whole = seconds(step.started_at, step.finished_at)
    worked = attempt_time(step)
    if step.kind == "wait" or worked is None or step.started_at is None or not step.finished_at:
        return f"waited {whole}" if whole and step.kind == "wait" else whole
    waited = step.finished_at - step.started_at - worked
    parts = [brief(worked)] if worked or waited < timedelta(seconds=1) else []
    parts += [f"{brief(waited)} of waiting"] if waited >= timedelta(seconds=1) else []
    return " + ".join(parts)


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
                took(step) or "",
                (tokens(step) or "").replace(" tokens", ""),
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
        moment(attempt.started_at) if attempt.started_at else None,
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


def band(band: Band) -> str:
    """A resume: ``resumed by w-2: 3 steps replayed, 0 re-run, $0.0031 not spent again, …``."""
    *others, last = band.resumes
    times = f" {len(band.resumes)} times, the last time" if others else ""
    who = f"resumed{times} by {last.worker or 'a worker'}"
    reason = f" ({last.reason})" if last.reason else ""
    saved = money(last.saved) + (
        f" and {last.saved_unpriced} unpriced" if last.saved_unpriced else ""
    )
    return (
        f"{who}{reason}: {'each time ' if others else ''}"
        f"{_count(last.replayed, 'step')} replayed, {last.rerun} re-run, "
        f"{saved} not spent again, {last.in_doubt} in doubt"
    )


def band_lines(band: Band) -> Iterator[str]:
    """One line for each resume of a band: when, by whom and why."""
    for resume in band.resumes:
        when = moment(resume.at) if resume.at else None
        yield _facts(when, resume.worker or "a worker", resume.reason)


def note(entry: Note) -> str:
    """A note as one line: ``parked · held · approval``."""
    step = f"step {entry.step}" if entry.step is not None else None
    return _facts(entry.event.replace("_", " "), step, entry.text)


def failure(error: Failure) -> str:
    """An error as one line: ``Timeout: no answer``."""
    return f"{error.type}: {error.message}" if error.message else error.type


def far_image(address: str) -> str:
    """What stands in the place of an image at an address, which no viewer loads."""
    return f"image at {clip(address, 300)}, not loaded"


def far_images(message: Message) -> Iterator[str]:
    """``[image at https://…, not loaded]`` for each image that the message does not hold."""
    for image in message.images:
        if not image.address.startswith("data:"):
            yield f"[{far_image(image.address)}]"


def moment(at: datetime) -> str:
    """A time with its zone, which is always UTC: ``2026-11-22 12:00:02 UTC``."""
    return f"{_utc(at):%Y-%m-%d %H:%M:%S} UTC"


def clock(at: datetime | None, start: datetime | None) -> str | None:
    """The time of day in UTC: ``12:00:02``. On another day than ``start`` with its date."""
    if at is None:
        return None
    at = _utc(at)
    same_day = start is not None and _utc(start).date() == at.date()
    return f"{at:%H:%M:%S}" if same_day else f"{at:%Y-%m-%d %H:%M:%S}"


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC) if at.tzinfo is not None else at


def seconds(start: datetime | None, end: datetime | None) -> str | None:
    """The time between two moments, as `brief`. None if one of them is not known."""
    return None if start is None or end is None else brief(end - start)


def tokens(step: Step) -> str | None:
    """``100 → 20 tokens (40 cached, 5 reasoning)``. None if the reply named none."""
    usage = step.usage
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    special = {
        "cached": usage.cached_tokens,
        "written to the cache": usage.cache_write_tokens,
        "reasoning": usage.reasoning_tokens,
        "audio": usage.audio_tokens,
    }
    return _token_line(usage.input_tokens or 0, usage.output_tokens or 0, special)


def _token_line(sent: int, received: int, special: Mapping[str, int | None]) -> str:
    parts = [f"{count:,} {name}" for name, count in special.items() if count]
    more = f" ({', '.join(parts)})" if parts else ""
    return f"{sent:,} → {received:,} tokens{more}"


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
