"""Reports to a crash test what the agent's code gets from its steps.

A resume must hand the same values and exceptions to the code as the execution before the crash, and
a crash test compares both reports. Without a crash test this module does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from agentrun.core.flow import Flow

__all__ = ["arm", "witness_outcome"]

T = TypeVar("T")
Note = Callable[[str, Literal["value", "exception"], Any], None]

_note: Note | None = None


def witness_outcome(key: str, flow: Flow[T]) -> Flow[T]:
    """Run ``flow``, and report its result or exception: what the code gets from step ``key``."""
    try:
        value = yield from flow
    except Exception as error:
        if _note is not None:
            _note(key, "exception", error)
        raise
    if _note is not None:
        _note(key, "value", value)
    return value


def arm(note: Note | None) -> None:
    """Report to ``note`` each step's key, its kind of outcome and the value. None ends this."""
    global _note
    _note = note
