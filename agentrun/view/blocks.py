"""Arranges the entries of a transcript as people read them. All viewers of a whole run use it.

The entries of one turn stand together, also if the turns of several conversations overlap. The
resumes and notes that came while a step was under way stand inside the step, so that a crash is
shown where it struck and before the result. Resumes that say the same become one band. A tool call
that has a step is not repeated as a part of the reply that asked for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from agentrun.core.entries import Entry, NewMessage, Note, Resume, Step
from agentrun.core.events import Json
from agentrun.core.messages import ToolRequest, arguments_of

__all__ = ["Band", "Interruption", "Item", "Part", "ShownStep", "arrange"]

_ENDS = ("run_finished", "run_failed", "run_cancelled")


@dataclass(frozen=True, slots=True)
class Band:
    """Resumes that follow each other and say the same. There is at least one."""

    resumes: tuple[Resume, ...]


Interruption: TypeAlias = Band | Note


@dataclass(frozen=True, slots=True)
class ShownStep:
    """A step, and the resumes and notes that came while it was under way."""

    step: Step
    inside: tuple[Interruption, ...] = ()


Item: TypeAlias = NewMessage | ShownStep | Band | Note


@dataclass(frozen=True, slots=True)
class Part:
    """One item, and the number of the turn that it is shown in."""

    turn: int | None
    item: Item


@dataclass(slots=True, eq=False)
class _ShownTurn:
    """The items of one turn, or items between turns."""

    turn: int | None
    items: list[Item] = field(default_factory=list)


def arrange(entries: Iterable[Entry]) -> list[Part]:
    """The entries as parts, in the order in which they are shown. Each turn is contiguous."""
    return [
        Part(group.turn, item)
        for group in _split_ends(_group_turns(_place_interruptions(entries)))
        for item in _without_repeats(group.items)
    ]


def _place_interruptions(entries: Iterable[Entry]) -> Iterator[Item]:
    """Each step with what came while it was under way; resumes as bands."""
    step: Step | None = None
    waiting: list[Resume | Note] = []
    for entry in entries:
        if isinstance(entry, Resume | Note) and (step is None or _is_during(step, entry)):
            waiting.append(entry)
            continue
        yield from _release(step, waiting)
        step, waiting = None, []
        if isinstance(entry, Step):
            step = entry
        elif isinstance(entry, NewMessage):
            yield entry
        else:
            waiting.append(entry)
    yield from _release(step, waiting)


def _release(step: Step | None, waiting: list[Resume | Note]) -> Iterator[Item]:
    joined = tuple(_join_equal(waiting))
    if step is None:
        yield from joined
    else:
        yield ShownStep(step, joined)


def _is_during(step: Step, entry: Resume | Note) -> bool:
    if isinstance(entry, Note) and (entry.event in _ENDS or entry.step not in (None, step.step)):
        return False
    return step.finished_at is None or (entry.at is not None and entry.at < step.finished_at)


def _join_equal(entries: list[Resume | Note]) -> Iterator[Interruption]:
    """Join the resumes that follow each other and differ only in their worker and their time."""
    same: list[Resume] = []
    for entry in entries:
        if same and (isinstance(entry, Note) or _counts(entry) != _counts(same[0])):
            yield Band(tuple(same))
            same = []
        if isinstance(entry, Note):
            yield entry
        else:
            same.append(entry)
    if same:
        yield Band(tuple(same))


def _counts(resume: Resume) -> tuple[object, ...]:
    return (
        resume.replayed,
        resume.rerun,
        resume.saved,
        resume.saved_unpriced,
        resume.in_doubt,
    )


def _group_turns(items: Iterable[Item]) -> list[_ShownTurn]:
    """The items by turn, in the order in which the turns began."""
    groups: list[_ShownTurn] = []
    by_turn: dict[int, _ShownTurn] = {}
    latest = _ShownTurn(None)
    for item in items:
        if isinstance(item, Band) or (isinstance(item, Note) and item.event not in _ENDS):
            if not groups:
                groups.append(latest)
            latest.items.append(item)
            continue
        turn = _turn_of(item)
        if turn in by_turn:
            latest = by_turn[turn]
        elif turn is not None or not groups or latest.turn is not None:
            latest = _ShownTurn(turn)
            groups.append(latest)
            if turn is not None:
                by_turn[turn] = latest
        latest.items.append(item)
    return groups


def _turn_of(item: Item) -> int | None:
    if isinstance(item, ShownStep):
        return item.step.turn
    return item.turn if isinstance(item, NewMessage) else None


def _split_ends(groups: list[_ShownTurn]) -> Iterator[_ShownTurn]:
    """Move what follows the last step of a turn behind the turn: it belongs to the run."""
    for group in groups:
        if group.turn is None:
            yield group
            continue
        size = len(group.items)
        while size and isinstance(group.items[size - 1], Band | Note):
            size -= 1
        yield _ShownTurn(group.turn, group.items[:size])
        if group.items[size:]:
            yield _ShownTurn(None, group.items[size:])


def _without_repeats(items: list[Item]) -> Iterator[Item]:
    """The items without messages and calls that a step of the same turn shows."""
    steps: dict[str, list[Step]] = defaultdict(list)
    for item in items:
        if isinstance(item, ShownStep) and item.step.kind != "model":
            steps[item.step.name].append(item.step)
    for item in items:
        if not isinstance(item, NewMessage):
            yield item
        elif not item.echo:
            message = item.message
            calls = tuple(call for call in message.calls if not _has_step(call, steps))
            if calls == message.calls:
                yield item
            elif message.text or calls:
                yield replace(item, message=replace(message, calls=calls))


def _has_step(call: ToolRequest, steps: dict[str, list[Step]]) -> bool:
    """Whether the next step of this name was made with these arguments. The step is then used up.

    A step may have more arguments, which are defaults.
    """
    if not steps[call.name]:
        return False
    made = steps[call.name].pop(0).input
    return _equal(call.arguments, made)


def _equal(sent: str, made: Json) -> bool:
    try:
        arguments = arguments_of(sent)
    except (ValueError, RecursionError):
        return False
    if not isinstance(arguments, dict) or not isinstance(made, dict):
        return bool(arguments == made)
    return all(name in made and made[name] == value for name, value in arguments.items())
