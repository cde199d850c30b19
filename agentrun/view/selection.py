"""Selects a part of a transcript: one step, some turns, or only what went wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentrun.core.transcript import Entry, NewMessage, Note, Step, Transcript

__all__ = ["Selection", "select"]

_WRONG = frozenset(["run_failed", "diverged", "late_result"])  # events of notes


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be shown of a run; all that is given must hold for an entry."""

    step: int | None = None
    turns: tuple[int, int | None] | None = None  # the first and the last; None: to the end
    errors: bool = False  # steps that failed, were tried again or are in doubt; failures of the run


def select(transcript: Transcript, selection: Selection) -> Transcript:
    """The transcript with only the entries that are selected. Its totals stay those of the run."""
    if selection == Selection():
        return transcript
    entries = tuple(entry for entry in transcript.entries if _is_selected(entry, selection))
    return replace(transcript, entries=entries)


def _is_selected(entry: Entry, selection: Selection) -> bool:
    step = getattr(entry, "step", None)
    turn = getattr(entry, "turn", None)
    if selection.step is not None and step != selection.step:
        return False
    if selection.turns is not None:
        first, last = selection.turns
        if turn is None or turn < first or (last is not None and turn > last):
            return False
    return not selection.errors or _went_wrong(entry)


def _went_wrong(entry: Entry) -> bool:
    match entry:
        case Step():
            errors = (attempt.error for attempt in entry.attempts)
            failed = any(error and not error.control_flow for error in errors)
            return entry.failed or bool(entry.doubts) or failed
        case Note():
            return entry.event in _WRONG
        case NewMessage():
            return False
        case _:
            return False
