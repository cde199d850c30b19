"""`agentrun show`: the transcript of a run, or a part of it."""

from __future__ import annotations

from collections.abc import Iterator

from agentrun.cli import output
from agentrun.cli.keys import Connect
from agentrun.cli.loaded_run import load_run
from agentrun.core.errors import ConfigError
from agentrun.core.transcript import Transcript, fold
from agentrun.view.layout import TextLine
from agentrun.view.selection import Selection, select

__all__ = ["show", "turns_of"]


def show(
    connect: Connect, key: str, selection: Selection, *, full: bool, pager: bool, as_json: bool
) -> None:
    """Print a transcript, or the part of it that the selection names."""
    found = load_run(connect, key)
    whole = fold(found.events, owner_lost=found.owner_lost)
    _check_step(whole, selection.step)
    _check_turns(whole, selection.turns)
    transcript = select(whole, selection)
    if (missing := len(whole.entries) - len(transcript.entries)) > 0:
        output.note(f"{missing} of {len(whole.entries)} entries are not shown")
    if as_json:
        output.emit_json(transcript.to_dict() | {"decided": found.decided})
        return
    from agentrun.view.terminal import print_lines, print_transcript

    with output.paged(wanted=pager) as console:
        print_transcript(whole, console, full=full, entries=transcript.entries)
        print_lines(_evidence(transcript, selection, console.width, full), console)
        for row in found.decided:
            text = f"decided, step {row['step']}, {row['name']}: {row['reason']}"
            print_lines([TextLine().add(text, "note")], console)


def _evidence(
    transcript: Transcript, selection: Selection, width: int, full: bool
) -> Iterator[TextLine]:
    """What one step asked for and got; with `--errors`, where each error comes from."""
    from agentrun.view.evidence import evidence_lines, failure_lines

    for step in transcript.steps:
        if selection.step is not None:
            yield from evidence_lines(step, width=width, full=full)
        elif selection.errors and step.error is not None and step.failed:
            yield TextLine().add(f"step {step.step}, {step.name}", "error")
            yield from failure_lines(step.error, width=width, full=full)
    if selection.errors and transcript.error is not None and transcript.error.traceback:
        origin = transcript.failed_step
        text = "the run" if origin is None else f"the run, by step {origin}"
        yield TextLine().add(text, "error")
        yield from failure_lines(transcript.error, width=width, full=full)


def _check_step(transcript: Transcript, step: int | None) -> None:
    numbers = [one.step for one in transcript.steps]
    if step is not None and step not in numbers:
        known = f"it has the steps {min(numbers)} to {max(numbers)}" if numbers else "it has none"
        raise ConfigError(f"run {transcript.key!r} has no step {step}: {known}")


def _check_turns(transcript: Transcript, turns: tuple[int, int | None] | None) -> None:
    if turns is None:
        return
    first, last = turns
    numbers = {turn for entry in transcript.entries if (turn := getattr(entry, "turn", None))}
    if any(first <= number <= (last or number) for number in numbers):
        return
    known = f"it has the turns {min(numbers)} to {max(numbers)}" if numbers else "it has none"
    wanted = f"turn {first}" if first == last else f"turns {first}..{last or ''}"
    raise ConfigError(f"run {transcript.key!r} has no {wanted}: {known}")


def turns_of(text: str | None) -> tuple[int, int | None] | None:
    """Parse turns such as ``3``, ``3..5`` or ``3..``. Raises ConfigError."""
    if text is None:
        return None
    first, dots, last = text.partition("..")
    if not first.isdecimal() or (last and not last.isdecimal()):
        raise ConfigError(f"--turns {text}: give a turn or a range of turns, as in 3..5")
    if last and int(last) < int(first):
        raise ConfigError(f"--turns {text}: the range ends before it begins")
    return int(first), int(last) if last else None if dots else int(first)
