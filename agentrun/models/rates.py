"""What providers say about how much they take: in the names of models, and in headers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from agentrun.core.recorder import ModelRequest
from agentrun.models.quote import expected
from agentrun.models.retry import asked_wait

__all__ = ["expected", "model_name", "no_more_for"]

PROVIDERS = {"api.openai.com": "openai", "api.anthropic.com": "anthropic"}
# How many more calls, or tokens, there may be, and when there may be more again.
LEFT = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
)
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def model_name(asked: ModelRequest) -> str:
    """Provider and model, as a limit names them: the provider by its host, where that is known."""
    host = urlsplit(asked.url).netloc.rpartition("@")[2]
    return f"{PROVIDERS.get(host, host)}/{asked.model or asked.api}"


def no_more_for(status: int, headers: Mapping[str, str]) -> float:
    """Seconds for which the provider takes no more calls of this model; 0: it does."""
    if status in (429, 503, 529):
        return max(0.0, asked_wait(headers, time.time) or 0.0)
    spans = [_span(headers.get(reset, "")) for left, reset in LEFT if headers.get(left) == "0"]
    return max(spans, default=0.0)


def _span(text: str) -> float:
    """Seconds, as in ``6m0s`` or ``250ms``; 0 for what is no span."""
    parts = SPAN.findall(text)
    whole = "".join(number + unit for number, unit in parts) == text
    return sum(float(number) * SECONDS[unit] for number, unit in parts) if whole else 0.0
