"""Options that several commands share, and parsers of option values.

The parsers raise ConfigError for a text that they cannot read.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

import agentrun
from agentrun.cli.completion import complete_keys
from agentrun.core.errors import ConfigError

__all__ = [
    "AsJson",
    "By",
    "Fields",
    "Key",
    "Larger",
    "MaybeKey",
    "Once",
    "Reason",
    "RowsAsJson",
    "Status",
    "Written",
    "age_of",
    "budget_of",
    "from_json",
    "json_of",
    "outcome_of",
    "statuses_of",
    "time_of",
]

Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="A run's key, its beginning, or @last.",
        autocompletion=complete_keys,
    ),
]
MaybeKey = Annotated[
    str | None,
    typer.Argument(
        metavar="KEY",
        help="A run's key, its beginning, or @last.",
        autocompletion=complete_keys,
    ),
]
Written = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="As elsewhere, or FILE.jsonl or FILE.html of export.",
        autocompletion=complete_keys,
    ),
]
Fields = Annotated[
    str | None, typer.Option("--fields", hidden=True, help="What `--json FIELDS` becomes.")
]
RowsAsJson = Annotated[
    bool, typer.Option("--json", help="Write JSON; `--json key,status` only these fields.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
By = Annotated[str | None, typer.Option(help="Who decides; default: the user of this process.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the record.")]
Once = Annotated[bool, typer.Option("--once", help="Perform again even what acts once.")]
Larger = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", metavar="LIMIT=AMOUNT", help="Raise the budget to this, as usd=2 in all."
    ),
]


class Status(StrEnum):
    """The values of `--status`: those of `core.events.RunStatus`."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    HELD = "held"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_AGE = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def outcome_of(happened: str | None, not_happened: bool, unknown: bool) -> Any:
    """The outcome that the options of `resolve` name."""
    if (happened is not None) + not_happened + unknown != 1:
        raise ConfigError("say one of --happened JSON, --not-happened and --unknown")
    if happened is None:
        return agentrun.Unknown() if unknown else agentrun.NotHappened()
    return agentrun.Happened(json_of(happened, "--happened"))


def budget_of(options: list[str]) -> agentrun.Budget:
    """The budget that options such as ``usd=2`` and ``turns=50`` name."""
    from agentrun.core.budget import LIMITS

    limits: dict[str, Any] = {}
    for option in options:
        name, _, amount = option.partition("=")
        if name not in LIMITS:
            raise ConfigError(f"--budget {option}: give one of {', '.join(LIMITS)}, as in usd=2")
        limits[name] = json_of(amount, f"--budget {name}=")
    return agentrun.Budget(**limits)


def age_of(text: str | None, option: str) -> timedelta | None:
    """Parse an age such as ``30d`` or ``12h``."""
    if text is None:
        return None
    if (found := _AGE.fullmatch(text)) is None:
        raise ConfigError(f"{option} {text}: give a number of s, m, h, d or w, as in 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def time_of(text: str | None, option: str) -> datetime | None:
    """The moment that an age such as ``2d`` or a date such as ``2026-11-30T08:00`` names.

    A date without a zone is one of this machine's zone.
    """
    if text is None:
        return None
    if _AGE.fullmatch(text):
        age = age_of(text, option)
        return datetime.now(UTC) - age if age is not None else None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ConfigError(
            f"{option} {text}: give an age as 2d or 12h, or a date as 2026-11-30T08:00"
        ) from None


def statuses_of(text: str) -> Any:
    """Split statuses such as ``done,failed``; `prune` checks them."""
    return [name.strip() for name in text.split(",")]


def json_of(text: str, option: str) -> Any:
    """Parse the value of an option that takes JSON."""
    try:
        return from_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} takes JSON, and {text!r} is not JSON ({error}); a text is '\"text\"'"
        ) from None


def from_json(text: str) -> Any:
    """Parse a JSON value. Raises ValueError for anything else, including NaN."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
