"""Which calls can be made in the background; of others a warning says so, once a process."""

from __future__ import annotations

import json

from agentrun.core.events import Json
from agentrun.core.log import logger
from agentrun.core.recorder import ModelRequest
from agentrun.models.quote import FREE

__all__ = ["BACKGROUND", "lacks", "refused", "suits"]

BACKGROUND = {"background": True, "store": True}  # what such a request says

_told: set[tuple[str, str | None, str]] = set()  # url, model, and why: it has been said
_lacking: set[tuple[str, str | None]] = set()  # url and model that turned out to have no such mode


def suits(asked: ModelRequest) -> bool:
    """Whether a call can be made in the background, as far as is known."""
    if asked.api in FREE:
        return False
    if asked.api != "responses":
        _tell(asked, f"{asked.api} has no background mode")
        return False
    if asked.body.get("background") is not None:  # the code sees to it itself
        return False
    if asked.body.get("store") is False:
        _tell(asked, "the code says store=False, and what is not stored cannot be picked up")
        return False
    return (asked.url, asked.model) not in _lacking


def refused(asked: ModelRequest, status: int, body: Json) -> bool:
    """Whether an error speaks of the mode; then no more calls like this one are made in it."""
    error = body.get("error", body) if isinstance(body, dict) else None
    said = json.dumps(error)
    named = error.get("param") if isinstance(error, dict) else None
    # Where no parameter is named, it may be any; tools have one of this name, too.
    if named in BACKGROUND if named else "background" in said.lower():
        lacks(asked, f"the provider answered {status}: {said}")
        return True
    return False


def lacks(asked: ModelRequest, why: str) -> None:
    """No more calls like this one are made in the background."""
    _lacking.add((asked.url, asked.model))
    _tell(asked, why)


def _tell(asked: ModelRequest, why: str) -> None:
    if (said := (asked.url, asked.model, why)) not in _told:
        _told.add(said)
        logger.warning(
            "inflight='background': calls of model %s at %s go as plain ones, so one that is in "
            "flight at a crash may be paid twice: %s",
            asked.model,
            asked.url,
            why,
        )
