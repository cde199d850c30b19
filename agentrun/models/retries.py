"""Decides whether a failed attempt is retried, and after how long.

The rules are those of the provider SDKs. The SDKs' own retries are switched off, because only one
part of the program may retry: the one that records each attempt. The functions are pure, apart from
the clock and random jitter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite
from random import random

from agentrun.core.pauses import Backoff

__all__ = [
    "DEFAULT_PATIENCE",
    "DEFAULT_RETRIES",
    "RetryPolicy",
    "is_retryable_error",
    "is_retryable_status",
    "is_unreached",
    "reconnect_wait",
    "requested_wait",
    "should_retry",
]

DEFAULT_RETRIES = 2  # further attempts, as in the SDKs
DEFAULT_PATIENCE = 300.0  # seconds to wait for a provider that cannot be reached
BACKOFF = Backoff(0.5, 8.0)  # before another attempt
RECONNECT_BACKOFF = Backoff(0.5, 30.0)  # before another try to reach a provider
LONGEST_REQUESTED_WAIT = 86_400.0  # if a server asks for more, the failure is final
LONGEST_WAIT_IN_PLACE = 5.0  # seconds; for a longer wait the run may give up its worker's slot


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many further attempts a call gets, and how long it waits before each.

    With ``retries`` None the client retries by itself: each of its attempts is then a call of its
    own, and the client decides what is a failure. ``patience`` is the number of seconds to wait for
    a provider that cannot be reached. Nothing was sent then, so no attempt is used up.
    """

    retries: int | None = DEFAULT_RETRIES
    patience: float = DEFAULT_PATIENCE

    @property
    def ours(self) -> bool:
        """Whether agentrun retries, and not the client."""
        return self.retries is not None

    def wait(self, failures: int, headers: Mapping[str, str]) -> float | None:
        """Seconds before the next attempt, after ``failures`` failed ones; None if none is left."""
        if self.retries is None or failures >= self.retries:
            return None
        requested = requested_wait(headers, time.time)
        if requested is not None and requested > LONGEST_REQUESTED_WAIT:
            return None
        if requested is not None and requested > 0:
            return requested
        return BACKOFF.pause_after(failures, random())


def is_retryable_status(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a retry may cure this status; the server's ``x-should-retry`` overrides it."""
    return should_retry(status in (408, 409, 429) or status >= 500, headers)


def should_retry(otherwise: bool, headers: Mapping[str, str]) -> bool:
    """What the server's header ``x-should-retry`` says; ``otherwise`` if it is absent."""
    answer = headers.get("x-should-retry")
    return answer == "true" if answer in ("true", "false") else otherwise


def is_retryable_error(name: str) -> bool:
    """Whether a retry may cure a transport error of this name, as a timeout."""
    return name not in ("UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects")


def is_unreached(name: str, message: str) -> bool:
    """Whether a transport error shows that nothing was sent, and that a later try may succeed.

    Examples: no route, an unknown name, a refused connection, failed TLS. A rejected certificate,
    or a proxy that requires a password, will not change by itself.
    """
    lasting = "CERTIFICATE_VERIFY_FAILED" in message or message.startswith("407")
    return name in ("ConnectError", "ConnectTimeout", "ProxyError") and not lasting


def reconnect_wait(tries: int) -> float:
    """Seconds before the next try to reach a provider, after ``tries`` others."""
    return RECONNECT_BACKOFF.pause_after(tries, random())


def requested_wait(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """The seconds that the server asks to wait (``retry-after-ms``, ``retry-after``), if any."""
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
