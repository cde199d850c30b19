"""Which calls can use background mode; for others a warning is logged once a process."""

from __future__ import annotations

import json

from agentrun.core.apis import RESPONSES
from agentrun.core.events import Json
from agentrun.core.log import logger
from agentrun.core.recorder import ModelRequest
from agentrun.models.endpoints import FREE

__all__ = ["BACKGROUND_FIELDS", "can_run_in_background", "is_mode_refused", "mark_unsupported"]

BACKGROUND_FIELDS = {"background": True, "store": True}  # added to the body of a request

_warned: set[tuple[str, str | None, str]] = set()  # (url, model, reason) of logged warnings
_unsupported: set[tuple[str, str | None]] = set()  # (url, model) that refused the mode


def can_run_in_background(request: ModelRequest) -> bool:
    """Whether a call can use background mode, as far as this process knows."""
    if request.is_lookup or FREE.fullmatch(request.api):
        return False
    if request.api != RESPONSES:
        _warn_once(request, f"{request.api} has no background mode")
        return False
    if request.body.get("background") is not None:  # the agent's code handles the mode itself
        return False
    if request.body.get("store") is False:
        _warn_once(request, "the code says store=False, and what is not stored cannot be picked up")
        return False
    return (request.url, request.model) not in _unsupported


def is_mode_refused(request: ModelRequest, status: int, body: Json) -> bool:
    """Whether an error response refuses the mode; then later calls do not try it again."""
    error = body.get("error", body) if isinstance(body, dict) else None
    text = json.dumps(error)
    parameter = error.get("param") if isinstance(error, dict) else None
    # The error's text is searched only where the error names no parameter: a tool may have a
    # parameter called "background" too, and an error about it does not refuse the mode.
    if parameter in BACKGROUND_FIELDS if parameter else "background" in text.lower():
        mark_unsupported(request, f"the provider answered {status}: {text}")
        return True
    return False


def mark_unsupported(request: ModelRequest, why: str) -> None:
    """Send later calls to this URL and model as plain ones."""
    _unsupported.add((request.url, request.model))
    _warn_once(request, why)


def _warn_once(request: ModelRequest, why: str) -> None:
    if (warning := (request.url, request.model, why)) not in _warned:
        _warned.add(warning)
        logger.warning(
            "inflight='background': calls of model %s at %s are sent without background mode, so "
            "a call that is in flight at a crash may be paid twice: %s",
            request.model,
            request.url,
            why,
        )
