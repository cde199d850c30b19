"""When a run worked and when it did not, read from the times in its transcript.

A run does not work before a process takes it up, while it is parked, after its process died until
another one took it up, while all that is under way waits (for a time, a letter, a person), and
between two attempts of a step.
The journal does not say when a process died. So its last event before the next claim counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from agentrun.core.entries import Attempt, Note, Resume, Step
from agentrun.core.transcript import Transcript

__all__ = ["Bar", "Period", "Timeline", "attempt_time", "read_timeline"]

Period: TypeAlias = tuple[datetime, datetime]
_NOTHING = timedelta(0)


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt at a step, from its beginning to its end."""

    step: Step
    attempt: Attempt
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Timeline:
    """The times of a run, from its creation to its last event, also while it goes on."""

    start: datetime
    end: datetime
    bars: tuple[Bar, ...]
    idle: tuple[Period, ...]  # in order, without overlaps
    crashes: tuple[datetime, ...]  # the claims that followed the death of a process

    @property
    def waiting(self) -> timedelta:
        return _sum(self.idle)

    @property
    def working(self) -> timedelta:
        return self.end - self.start - self.waiting


def read_timeline(transcript: Transcript) -> Timeline | None:
    """The timeline of a run. None if it has not begun."""
    began = transcript.started_at
    if began is None:
        return None
    start = min(began, transcript.created_at or began)
    instants = sorted(time for time in _instants(transcript) if time is not None and time >= start)
    claims = [e.at for e in transcript.entries if isinstance(e, Resume) and e.at is not None]
    last = instants[-1] if instants else start
    bars = tuple(_bars(transcript.steps, instants, claims, last))
    parked = list(_parked(transcript))
    down = [
        (instants[place - 1], claim)
        for claim in claims
        if (place := bisect_left(instants, claim))
        and not any(begin <= instants[place - 1] and claim <= end for begin, end in parked)
    ]
    busy = _union((bar.start, bar.end) for bar in bars if bar.step.kind != "wait")
    waits = _union(_waits(transcript.steps))
    idle = _union([(start, began), *parked, *down, *_difference(waits, busy)])
    within = [(max(begin, start), min(end, last)) for begin, end in idle]
    return Timeline(
        start,
        last,
        bars,
        tuple(period for period in within if period[0] < period[1]),
        tuple(claim for _, claim in down),
    )


def attempt_time(step: Step) -> timedelta | None:
    """How long the attempts of a finished step took together. None if it has none.

    An attempt that a decision closed counts as nothing: nobody knows when it ended.
    """
    if step.finished_at is None or not step.attempts:
        return None
    ends = [(a.started_at, a.ended_at) for a in step.attempts if a.status != "settled"]
    known = [(start, end) for start, end in ends if start is not None and end is not None]
    return _sum(_union(known))


def _instants(transcript: Transcript) -> Iterator[datetime | None]:
    yield from (transcript.started_at, transcript.finished_at)
    for entry in transcript.entries:
        if not isinstance(entry, Step):
            yield entry.at
            continue
        yield from (entry.started_at, entry.finished_at)
        for attempt in entry.attempts:
            yield from (attempt.started_at, attempt.ended_at)
        for decision in (*entry.approvals, *entry.reopened):
            yield decision.at
        for doubt in entry.doubts:
            yield doubt.since
            yield doubt.decision.at if doubt.decision else None


def _bars(
    steps: Iterable[Step], instants: list[datetime], claims: list[datetime], last: datetime
) -> Iterator[Bar]:
    """The attempts as bars. One without an outcome ends with the last event of its process."""
    for step in steps:
        for attempt in step.attempts:
            if attempt.started_at is None:
                continue
            end = attempt.ended_at
            if end is None or attempt.status == "settled":  # a decision closed it, much later
                place = bisect_left(claims, attempt.started_at)
                if place < len(claims):
                    before = bisect_left(instants, claims[place]) - 1
                    end = max(attempt.started_at, instants[before])
                elif end is None:
                    end = max(last, attempt.started_at)
            yield Bar(step, attempt, attempt.started_at, max(end, attempt.started_at))


def _parked(transcript: Transcript) -> Iterator[Period]:
    """From each time at which the run was parked or handed back to the next claim."""
    since: datetime | None = None
    for entry in transcript.entries:
        if isinstance(entry, Note) and entry.event in ("parked", "handed_back"):
            since = since or entry.at
        elif isinstance(entry, Resume):
            if since is not None and entry.at is not None:
                yield since, entry.at
            since = None
    if since is not None and transcript.finished_at is not None:
        yield since, transcript.finished_at


def _waits(steps: Iterable[Step]) -> Iterator[Period]:
    """When a step waited: for what it waits for, for a person, for its next attempt."""
    for step in steps:
        if step.started_at is None:
            continue
        if step.kind == "wait" and step.finished_at is not None:
            yield step.started_at, step.finished_at
        decided = [decision.at for decision in step.approvals if decision.at is not None]
        if decided:
            yield step.started_at, max(decided)
        for one, following in zip(step.attempts, step.attempts[1:], strict=False):
            if one.ended_at is not None and following.started_at is not None:
                yield one.ended_at, following.started_at


def _union(periods: Iterable[Period]) -> list[Period]:
    """The same times without overlaps, in order."""
    joined: list[Period] = []
    for start, end in sorted(periods):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif start < end:
            joined.append((start, end))
    return joined


def _difference(periods: list[Period], others: list[Period]) -> Iterator[Period]:
    """The times of ``periods`` that are in none of ``others``. Both are unions."""
    place = 0
    for start, end in periods:
        while place < len(others) and others[place][1] <= start:
            place += 1
        at = place
        while at < len(others) and others[at][0] < end:
            if start < others[at][0]:
                yield start, others[at][0]
            start = max(start, others[at][1])
            at += 1
        if start < end:
            yield start, end


def _sum(periods: Iterable[Period]) -> timedelta:
    return sum((end - start for start, end in periods), _NOTHING)
