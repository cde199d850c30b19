"""How far a client has read a stream of events: the ``id`` of each event, and back.

An id is the number of a journal row, ``12``. If the row makes several events, the id of all but the
last one also counts them, ``12.0``. Texts that are still being written belong to no row yet. For
each, the id names the step, how often its text was replaced, its state, and the length and the
digest of what the client has of it: ``12~4-0-o-180-9f86d081884c7d65``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["LAST", "Position", "SentText"]

LAST = 1 << 30  # the slot of a row's last event

# open: content follows; closed: another text replaces it; new: that other text has not begun
TextState = Literal["open", "closed", "new"]
_LETTERS: dict[TextState, str] = {"open": "o", "closed": "c", "new": "n"}
_STATES: dict[str, TextState] = {letter: state for state, letter in _LETTERS.items()}

_ID = re.compile(
    r"(\d{1,15})(?:\.(\d{1,6}))?((?:~\d{1,9}-\d{1,9}-[ocn]-\d{1,12}-[0-9a-f]{16}){0,999})"
)


@dataclass(frozen=True, slots=True)
class SentText:
    """What a client has of the text of a model call that has no outcome yet."""

    version: int = 0  # how often the text was replaced
    state: TextState = "new"
    length: int = 0  # in characters
    digest: str = hashlib.sha256().hexdigest()[:16]

    @classmethod
    def of(cls, version: int, text: str) -> SentText:
        """The state after ``text`` was sent."""
        return cls(version, "open", len(text), _digest(text))

    def begins(self, text: str) -> bool:
        """Whether ``text`` begins with what was sent."""
        return len(text) >= self.length and _digest(text[: self.length]) == self.digest


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the stream of events of a run: after this event of this journal row."""

    seq: int = 0
    slot: int = LAST
    texts: Mapping[int, SentText] = field(default_factory=dict)  # by step

    @classmethod
    def parse(cls, id_: str) -> Position:
        """Read an id. Raises ValueError."""
        found = _ID.fullmatch(id_)
        if found is None:
            raise ValueError(f"{id_[:60]!r} is not the id of an event")
        texts = {}
        for part in filter(None, found[3].split("~")):
            step, version, state, length, digest = part.split("-")
            texts[int(step)] = SentText(int(version), _STATES[state], int(length), digest)
        return cls(int(found[1]), LAST if found[2] is None else int(found[2]), texts)

    def __str__(self) -> str:
        slot = "" if self.slot == LAST else f".{self.slot}"
        return f"{self.seq}{slot}" + "".join(
            f"~{step}-{text.version}-{_LETTERS[text.state]}-{text.length}-{text.digest}"
            for step, text in sorted(self.texts.items())
        )

    def covers(self, seq: int, slot: int) -> bool:
        """Whether the event in this slot of this row is at this place or before it."""
        return (seq, slot) <= (self.seq, self.slot)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
