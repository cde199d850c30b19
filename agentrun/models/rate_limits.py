"""Rate limits of providers: the model that a limit is about, and limits stated in headers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from agentrun.core.recorder import ModelRequest
from agentrun.models.cost_estimate import expected_tokens
from agentrun.models.retries import requested_wait

__all__ = ["blocked_seconds", "expected_tokens", "model_name"]

PROVIDERS = {"api.openai.com": "openai", "api.anthropic.com": "anthropic"}
# Headers: the calls or tokens that remain, and the time until the limit is reset.
REMAINING = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
)
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def model_name(request: ModelRequest) -> str:
    """``provider/model``, as a limit is named; an unknown provider has the name of its host."""
    host = urlsplit(request.url).netloc.rpartition("@")[2]
    return f"{PROVIDERS.get(host, host)}/{request.model or request.api}"


def blocked_seconds(status: int, headers: Mapping[str, str]) -> float:
    """For how many seconds the provider accepts no calls of this model; 0 if it accepts them."""
    if status in (429, 503, 529):
        return max(0.0, requested_wait(headers, time.time) or 0.0)
    spans = [
        _parse_duration(headers.get(reset, ""))
        for left, reset in REMAINING
        if headers.get(left) == "0"
    ]
    return max(spans, default=0.0)


def _parse_duration(text: str) -> float:
    """The seconds of a duration like ``6m0s`` or ``250ms``; 0 for any other text."""
    parts = DURATION.findall(text)
    whole = "".join(number + unit for number, unit in parts) == text
    return sum(float(number) * SECONDS[unit] for number, unit in parts) if whole else 0.0
