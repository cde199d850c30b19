"""A run while it goes on, and which entries of its transcript each piece of the journal changes.

A piece is folded into what was there before. Only the entries that its events can have changed are
built again, so following a long run costs what is new in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentrun.core.entries import Entry, Resume, Step
from agentrun.core.events import Event
from agentrun.core.folding import Fold
from agentrun.core.transcript import Transcript, as_transcript

__all__ = ["LiveFold"]

# Events that close attempts, set steps aside or move them: any entry may be another one now.
_FAR = frozenset(
    ("claimed", "parked", "handed_back", "diverged", "step_reused", "run_finished", "run_failed")
) | {"run_cancelled"}


class LiveFold:
    """Takes a journal in pieces. ``entries`` are those of the transcript so far."""

    def __init__(self) -> None:
        self.run = Fold()
        self.entries: list[Entry] = []
        self._steps: dict[int, int] = {}  # the position of each step, by its number
        self._band: int | None = None  # the position of the last resume, which still counts

    def take(self, events: Iterable[Event]) -> list[int]:
        """Fold the next events. Returns the positions of the entries that are new or changed."""
        touched = set() if self._band is None else {self._band}
        for event in events:
            self.run.add(event)
            if event.event in _FAR:
                touched.update(range(len(self.entries)))
            elif event.step in self._steps:
                touched.add(self._steps[event.step])
        changed = [position for position in sorted(touched) if self._refresh(position)]
        for entry in self.run.entries(len(self.entries)):
            position = len(self.entries)
            self.entries.append(entry)
            changed.append(position)
            if isinstance(entry, Step):
                self._steps[entry.step] = position
            elif isinstance(entry, Resume):
                self._band = position
        return changed

    def find(self, step: int) -> int | None:
        """The position of a step; None if it is not in the transcript yet."""
        return self._steps.get(step)

    def _refresh(self, position: int) -> bool:
        entry = self.run.entry(position)
        changed = entry != self.entries[position]
        self.entries[position] = entry
        return changed

    def transcript(self) -> Transcript:
        """The transcript so far."""
        return as_transcript(self.run, tuple(self.entries))
