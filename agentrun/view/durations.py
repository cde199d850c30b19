"""How long ago something was, and how long it took, in few characters for a table."""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["ago", "brief"]

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def ago(at: datetime | None, now: datetime) -> str:
    """The age of a moment, in one unit: ``45 s``, ``3 min``, ``2 h``, ``12 d``."""
    if at is None:
        return ""
    seconds = max(0.0, (now - at).total_seconds())
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def brief(length: timedelta | float | None) -> str:
    """A length of time, or of so many seconds, with two units at most.

    ``14 ms``, ``4.2 s``, ``3 min 4 s``, ``2 h 5 min``, ``3 d 4 h``. Never below zero. None is an
    empty text.
    """
    if length is None:
        return ""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 0.0995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
