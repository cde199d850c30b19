"""What a process of a crash test tells of itself, a JSON line each; a SIGKILL loses nothing.

========  ======================================================================================
point     it passed a point: ``name``, its ``n``-th; at a body's points ``key`` and ``attempt``
touch     it did something outside: ``what``, ``place``, ``key`` of the step ("" outside any)
sent      a step's body sent bytes: ``verb``, ``to``, ``keyed``, ``digest``, ``key``, ``place``
refused   it was kept from reaching another machine: ``to``, ``place``
modules   names of the library modules it loaded
end       how the run ended in it: ``how``, and ``result``, ``message``, ``diff``, ``place``
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
    """The writing side: what is noted is in the hands of the kernel at once."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, **facts: Any) -> None:
        """Note something."""
        os.write(self._file, json.dumps({"note": kind, **facts}, default=str).encode() + b"\n")


@dataclass(frozen=True)
class Trace:
    """One process: how it ended and what it told."""

    code: int  # its exit status, or minus the signal that ended it
    notes: tuple[Note, ...]
    log: str  # the end of what it printed

    @property
    def killed(self) -> bool:
        """Whether it met its kill."""
        return self.code == -signal.SIGKILL

    @property
    def end(self) -> Note:
        """How the run ended in this process; ``how`` is empty if the process ended first."""
        return next(self.of("end"), {"how": ""})

    def of(self, kind: str) -> Iterator[Note]:
        """The notes of a kind, in order."""
        return (note for note in self.notes if note["note"] == kind)

    def points(self) -> list[str]:
        """The names of the points it passed, in order."""
        return [note["name"] for note in self.of("point")]

    def passed(self) -> list[tuple[str, int]]:
        """The points it passed, each with its number among those of its name."""
        return [(note["name"], note["n"]) for note in self.of("point")]

    def bodies(self, side: str) -> list[str]:
        """The keys of the steps whose bodies it began (``before``) or ended (``after``)."""
        return [note["key"] for note in self.of("point") if note["name"] == f"body:{side}"]


def read(path: str, code: int) -> Trace:
    """What the process that wrote this diary told."""
    file, log = Path(path), Path(f"{path}.log")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    printed = log.read_text("utf-8", "replace") if log.exists() else ""
    return Trace(code, tuple(map(json.loads, lines)), printed[-4000:])
