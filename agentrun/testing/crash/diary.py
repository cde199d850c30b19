"""The diary of one process of a crash test: a file with one JSON line for each note.

Each note is one unbuffered write, so the kernel has it even if SIGKILL ends the process next.

========  ======================================================================================
point     the process passed a point: its ``name``, and its number ``n`` among the points of that
          name; at the points of a step's body also ``key`` and ``attempt``
touch     it had an effect outside: ``what``, ``place``, and ``key`` of the step ("" if none)
sent      a step's body sent bytes: ``verb``, ``keyed``, ``digest``, ``key``, ``place``
seen      the agent's code got a value or an exception (``how``) from the step ``key``: its
          ``text``, and a ``mark`` that is equal for equal values
refused   it tried to reach another machine and was refused: ``to``, ``place``
modules   the names of the library modules that it loaded
end       how the run ended in this process: ``how``, and ``result``, ``message``, ``diff``,
          ``place``
========  ======================================================================================
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Diary", "Note", "Trace"]

Note = dict[str, Any]


class Diary:
    """Appends notes to the file of one process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, **facts: Any) -> None:
        """Append one note."""
        os.write(self._file, json.dumps({"note": kind, **facts}, default=str).encode() + b"\n")


@dataclass(frozen=True)
class Trace:
    """One process that has ended: its exit code, notes and output."""

    code: int  # its exit status, or minus the signal that ended it
    notes: tuple[Note, ...]
    log: str  # the end of its output

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL

    @property
    def end(self) -> Note:
        """The note that says how the run ended; ``how`` is empty if the process ended first."""
        return next(self.notes_of("end"), {"how": ""})

    def notes_of(self, kind: str) -> Iterator[Note]:
        """The notes of one kind, in order."""
        return (note for note in self.notes if note["note"] == kind)

    def point_names(self) -> list[str]:
        """The names of the points it passed, in order."""
        return [note["name"] for note in self.notes_of("point")]

    def points_passed(self) -> list[tuple[str, int]]:
        """The points it passed, in order, each with its number among the points of its name."""
        return [(note["name"], note["n"]) for note in self.notes_of("point")]

    def body_keys(self, side: str) -> list[str]:
        """The keys of the steps whose bodies it began (``before``) or ended (``after``)."""
        return [note["key"] for note in self.notes_of("point") if note["name"] == f"body:{side}"]


def read_trace(path: str, code: int) -> Trace:
    """Read the diary at ``path`` of a process that ended with ``code``."""
    file, log = Path(path), Path(f"{path}.log")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    printed = log.read_text("utf-8", "replace") if log.exists() else ""
    return Trace(code, tuple(map(json.loads, lines)), printed[-4000:])
