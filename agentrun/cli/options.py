"""Options whose text means more than a text. All raise ConfigError for what they cannot read."""

from __future__ import annotations

from typing import Any

import agentrun
from agentrun.cli.executing import from_json
from agentrun.core.budget import LIMITS
from agentrun.core.errors import ConfigError

__all__ = ["budget_of", "json_of", "outcome_of"]


def outcome_of(happened: str | None, not_happened: bool, unknown: bool) -> Any:
    """What `resolve` was told."""
    if (happened is not None) + not_happened + unknown != 1:
        raise ConfigError("say one of --happened JSON, --not-happened and --unknown")
    if happened is None:
        return agentrun.Unknown() if unknown else agentrun.NotHappened()
    return agentrun.Happened(json_of(happened, "--happened"))


def budget_of(given: list[str]) -> agentrun.Budget:
    """The limits named by options such as ``usd=2`` and ``turns=50``."""
    limits: dict[str, Any] = {}
    for option in given:
        name, _, amount = option.partition("=")
        if name not in LIMITS:
            raise ConfigError(f"--budget {option}: give one of {', '.join(LIMITS)}, as in usd=2")
        limits[name] = json_of(amount, f"--budget {name}=")
    return agentrun.Budget(**limits)


def json_of(text: str, option: str) -> Any:
    """The value of an option that takes JSON."""
    try:
        return from_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} takes JSON, and {text!r} is none ({error}); a text is '\"text\"'"
        ) from None
