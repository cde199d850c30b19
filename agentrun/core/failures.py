"""Reads the errors in recorded outputs.

The functions `error_type` and `error_text` of the schema read the same for lists of runs.
"""

from __future__ import annotations

from agentrun.core.entries import Failure
from agentrun.core.events import Json

__all__ = ["error_text", "read_failure"]


def read_failure(output: Json, reason: str | None = None) -> Failure:
    """The error in a recorded output.

    The output may hold a flaw of a reply, an error of agentrun, the pair (type, message) of
    a transport error, or the error body of a provider.
    """
    if (flaw := _get(_get(output, "flaw"), "text")) is not None:
        return Failure("NoAnswer", _text(flaw))
    error = _get(output, "error")
    if error is None and _get(output, "message") is not None:
        error = output
    if isinstance(error, dict):
        kind, trace = _text(error.get("type")) or "Error", error.get("traceback")
        trace = trace if isinstance(trace, str) else None
        passes = _get(output, "control_flow") is True
        return Failure(kind, _text(error.get("message")), trace, control_flow=passes)
    if isinstance(error, list | tuple) and len(error) == 2:
        return Failure(_text(error[0]), _text(error[1]))
    if error is not None:
        return Failure("Error", _text(error))
    status, body = _get(output, "status"), _get(output, "body")
    message = _get(body, "error")
    if not isinstance(message, str):  # as most providers have it, and then Mistral and Cohere
        message = _get(message, "message") or _get(body, "message")
    return Failure(f"HTTP {status}" if status else "Error", _text(message) or reason or "")


def error_text(failure: Failure) -> str:
    """An error in one line."""
    return f"{failure.type}: {failure.message}" if failure.message else failure.type


def _get(value: Json, field: str) -> Json:
    return value.get(field) if isinstance(value, dict) else None


def _text(value: Json) -> str:
    return "" if value is None else str(value)
