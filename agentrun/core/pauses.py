"""How long to pause: before another look at something, and before another try of what failed.

These are pure numbers. `core.flow.pause` makes the pause.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Backoff", "PollSchedule"]

_FIRST, _LONGEST, _GROWTH = 0.02, 0.25, 1.5  # seconds, seconds, factor
_JITTER = 0.25  # a backoff is shortened by up to this share
_DOUBLINGS = 30  # more of them would exceed every ``longest``, and in the end a float


class PollSchedule:
    """The pauses between looks at what another thread, process or person changes.

    The first pause is short, so that a quick change is seen at once. Each further pause is longer,
    so that a long wait costs little.
    """

    def __init__(self) -> None:
        self._pause = _FIRST

    def next_pause(self) -> float:
        """Seconds until the next look."""
        pause = self._pause
        self._pause = min(_LONGEST, pause * _GROWTH)
        return pause


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses between tries of what failed: doubled with each failure, up to ``longest``.

    Jitter shortens each pause, so that workers whose calls failed together do not retry together.
    """

    first: float  # seconds
    longest: float  # seconds

    def pause_after(self, failures: int, chance: float) -> float:
        """Seconds before the next try, after ``failures`` other failures than the last one.

        ``chance`` is a random number from 0 to 1 that the caller draws: this module is pure.
        """
        longest = min(self.longest, self.first * 2.0 ** min(failures, _DOUBLINGS))
        return longest * (1 - _JITTER * chance)
