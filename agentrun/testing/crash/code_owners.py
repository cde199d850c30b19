"""Tells whether a line of code belongs to the agent, to a library, or to agentrun.

A crash test reports an effect only if the agent caused it. To find the cause, `find_caller` walks
up the stack from the effect: the first frame that belongs to the agent or to agentrun decides.
"""

from __future__ import annotations

import inspect
import os
import sysconfig
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

__all__ = ["CodeOwners"]

Owner = Literal["agent", "library", "agentrun"]

_PACKAGE = Path(__file__).parents[2]
_ROOMS = ("api", "core", "lifecycle", "models", "steps", "store", "testing", "values")
_OURS = tuple(str(_PACKAGE / room) + os.sep for room in _ROOMS)
# In these functions agentrun calls code that it did not write: a request that is no model call, the
# body of a thread, an event loop, a tool. Effects below them are not agentrun's own, so the walk up
# the stack goes on past them.
_PASSES_ON = {
    (str(_PACKAGE / file), name)
    for file, names in {
        "models/transport.py": ("_pass", "_apass"),
        "lifecycle/event_loop.py": ("_serve",),
        "steps/function_step.py": ("_await_value",),
        "lifecycle/context_propagation.py": ("call", "ran"),
        "api/tool.py": ("call",),
    }.items()
    for name in names
}
_SITES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_LIBRARIES = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


class CodeOwners:
    """Tells the code of one agent from the libraries and agentrun below it."""

    def __init__(self, agent: Any) -> None:
        self._entry = inspect.unwrap(agent.function).__code__
        # If the agent itself is installed, its top-level package is not a library.
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

    def find_caller(self, frame: FrameType | None) -> tuple[str | None, set[str]]:
        """Return the line of the agent's code that led to ``frame``, and the packages between.

        The line is ``file:line``; "" if no line of the agent is on the stack; None if agentrun
        itself caused the call. The second value is the top-level packages on the way.
        """
        through: set[str] = set()
        passed_on = False
        while frame is not None:
            file = frame.f_code.co_filename
            whose = self.owner(file)
            if whose == "agentrun":
                passed_on = passed_on or (file, frame.f_code.co_name) in _PASSES_ON
                if not passed_on:
                    return None, through
            if frame.f_code is self._entry or whose == "agent":
                return f"{file}:{frame.f_lineno}", through
            if whose != "agentrun":
                through.add(str(frame.f_globals.get("__name__", "")).partition(".")[0])
            frame = frame.f_back
        return "", through

    def innermost_line(self, trace: TracebackType | None) -> str:
        """The innermost line of the agent's code in a traceback, as ``file:line``; "" if none."""
        found = ""
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if self.owner(file) == "agent":
                found = f"{file}:{trace.tb_lineno}"
            trace = trace.tb_next
        return found


def _package_of(file: str) -> str:
    """The folder of the top-level package of an installed file; "" if it is not installed."""
    for site in _SITES:
        before, found, inside = file.partition(site)
        if found and os.sep in inside:
            return before + site + inside.partition(os.sep)[0] + os.sep
    return ""
