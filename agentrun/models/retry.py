"""When a failed attempt is tried again, and after how long: pure, apart from clock and dice.

The rules are those of the provider SDKs, whose own retries are switched off: one owner of
retries, whose attempts are recorded.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite

from agentrun.core.flow import Op

__all__ = [
    "DEFAULT_RETRIES",
    "RetryPolicy",
    "asked_wait",
    "pause",
    "retryable_error",
    "retryable_status",
]

DEFAULT_RETRIES = 2  # further attempts, as in the SDKs
FIRST_WAIT = 0.5  # seconds, doubled with each failure
LONGEST_BACKOFF = 8.0
LONGEST_ASKED_WAIT = 86_400.0  # a server that asks for more is told to the caller instead
BRIEF = 5.0  # seconds; a longer wait is the run's, which need not hold a worker's slot for it
JITTER = 0.25  # up to this share is taken off, so that workers do not come back together


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many further attempts a call gets, and how long it waits before each.

    None leaves it to the client that asks: each of its attempts is then a call of its own, and
    what is a failure is for the client to find.
    """

    retries: int | None = DEFAULT_RETRIES

    @property
    def ours(self) -> bool:
        """Whether retrying is our business."""
        return self.retries is not None

    def wait(self, failures: int, headers: Mapping[str, str]) -> float | None:
        """Seconds before the next attempt after ``failures`` others; None when none is left."""
        if self.retries is None or failures >= self.retries:
            return None
        asked = asked_wait(headers, time.time)
        if asked is not None and asked > LONGEST_ASKED_WAIT:
            return None
        if asked is not None and asked > 0:
            return asked
        backoff = min(FIRST_WAIT * 2.0 ** min(failures, 10), LONGEST_BACKOFF)
        return backoff * (1 - JITTER * random.random())


def retryable_status(status: int, headers: Mapping[str, str]) -> bool:
    """Whether this status may go away by itself; the server's ``x-should-retry`` decides."""
    told = headers.get("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    return status in (408, 409, 429) or status >= 500


def retryable_error(name: str) -> bool:
    """Whether a transport error of this name may go away: lost connections and timeouts."""
    return name not in ("UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects")


def asked_wait(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """The seconds the server asks to wait (``retry-after-ms``, ``retry-after``), if it does."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if isfinite(seconds):
            return seconds
    try:
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - now()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def pause(seconds: float) -> Op[None]:
    """The wait itself."""
    return Op(lambda: time.sleep(seconds), lambda: asyncio.sleep(seconds))
