"""Sends requests that are not recorded: those outside a run, and those that are no model calls.

`wrap` switches the retries of an SDK off, for model calls of a run. Elsewhere the SDK must work as
it did, so its retries are made here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from agentrun.core.flow import Flow, Op, pause
from agentrun.models.reply import error_name
from agentrun.models.response_body import WireBody
from agentrun.models.retries import (
    RetryPolicy,
    is_retryable_error,
    is_retryable_status,
    requested_wait,
)

__all__ = ["send_unrecorded"]

_LONGEST_REQUESTED_WAIT = 60.0  # seconds, as in the SDKs: a longer one is not heeded


def send_unrecorded(
    hx: Any, request: Any, send: Callable[[Any], Op[Any]], policy: RetryPolicy
) -> Flow[Any]:
    """Send the request, and again after each failure that a retry may cure: the last response.

    Raises the transport error of the last attempt. A body that can be read only once is sent once.
    """
    failures = 0
    while True:
        try:
            response = yield send(request)
        except hx.RequestError as error:
            retryable = is_retryable_error(error_name(hx, error))
            wait = _wait(hx, request, policy, failures, {}) if retryable else None
            if wait is None:
                raise
        else:
            retryable = is_retryable_status(response.status_code, response.headers)
            wait = _wait(hx, request, policy, failures, response.headers) if retryable else None
            if wait is None:
                return response
            yield from WireBody(response.stream).close()
        failures += 1
        yield pause(wait)


def _wait(
    hx: Any, request: Any, policy: RetryPolicy, failures: int, headers: Mapping[str, str]
) -> float | None:
    """Seconds before the next attempt; None if none is left, or the SDK retries by itself."""
    if not isinstance(request.stream, hx.ByteStream):
        return None
    if request.headers.get("x-stainless-retry-count", "0") != "0":
        return None
    requested = requested_wait(headers, time.time)
    heeded = requested is not None and requested <= _LONGEST_REQUESTED_WAIT
    return policy.wait(failures, headers if heeded else {})
