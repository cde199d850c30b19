"""Whose code a line is: the agent's, a library's, or agentrun's own."""

from __future__ import annotations

import inspect
import os
import sysconfig
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

__all__ = ["Places"]

Owner = Literal["agent", "library", "agentrun"]

_PACKAGE = Path(__file__).parents[2]
_OURS = tuple(
    str(_PACKAGE / room) + os.sep for room in ("core", "store", "models", "runner", "testing")
)
_SITES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_LIBRARIES = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


class Places:
    """Tells the code of one agent from what it stands on."""

    def __init__(self, agent: Any) -> None:
        self._entry = inspect.unwrap(agent.function).__code__
        # An installed agent: its own top-level package is no library.
        self._installed = _package_of(agent.place)
        self.owner = cache(self._owner)
        ready_made = self.owner(self._entry.co_filename) == "agentrun"
        line = "" if ready_made else f":{self._entry.co_firstlineno}"
        self.entry = f"{agent.place}{line}"  # where the agent begins

    def _owner(self, file: str) -> Owner:
        if file.startswith(_OURS):
            return "agentrun"
        if file.startswith("<") and not file.startswith("<ipython"):
            return "library"  # frozen, or generated
        if self._installed and file.startswith(self._installed):
            return "agent"
        library = file.startswith(_LIBRARIES) or any(site in file for site in _SITES)
        return "library" if library else "agent"

    def caller(self, frame: FrameType | None) -> tuple[str | None, set[str]]:
        """Where the agent's code called what ``frame`` does, as ``file:line``; "" if nowhere.

        None if agentrun itself does it. Also the top-level packages on the way.
        """
        through: set[str] = set()
        while frame is not None:
            file = frame.f_code.co_filename
            whose = self.owner(file)
            if whose == "agentrun":
                return None, through
            if frame.f_code is self._entry or whose == "agent":
                return f"{file}:{frame.f_lineno}", through
            through.add(str(frame.f_globals.get("__name__", "")).partition(".")[0])
            frame = frame.f_back
        return "", through

    def innermost(self, trace: TracebackType | None) -> str:
        """The innermost line of the agent's code in a traceback, as ``file:line``; or ""."""
        found = ""
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if self.owner(file) == "agent":
                found = f"{file}:{trace.tb_lineno}"
            trace = trace.tb_next
        return found


def _package_of(file: str) -> str:
    """The folder of the top-level package of an installed file; "" for any other."""
    for site in _SITES:
        before, found, inside = file.partition(site)
        if found and os.sep in inside:
            return before + site + inside.partition(os.sep)[0] + os.sep
    return ""
