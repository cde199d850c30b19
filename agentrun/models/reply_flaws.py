"""Finds out why a response with a good status is not an answer.

A provider, or a gateway before it, may answer with status 200 and still fail: the body states an
error, is empty, is cut off, is an HTML page, or lacks a field that the API promises. The promised
fields are known for the usual APIs at their usual paths. For any other API only a stated error
counts.

The functions are pure: bytes and values in, a `Flaw` or None out.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from agentrun.core.apis import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    GENERATE_CONTENT,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
    RESPONSES,
    RETRIEVE_RESPONSE,
)
from agentrun.core.events import Json
from agentrun.core.recorder import Flaw, ModelRequest
from agentrun.models.endpoints import locate
from agentrun.models.event_streams import DONE, ServerEvent

__all__ = ["body_flaw", "event_flaw", "has_stop_reasons", "is_gemini_stop", "is_preamble"]

# What a whole reply has, by API: the name of a list that is not empty, and the fields of which each
# item of the list has at least one.
REQUIRED_LISTS = {
    CHAT: ("choices", ("message",)),
    COMPLETIONS: ("choices", ("text", "message")),  # Mistral's have messages
    EMBEDDINGS: ("data", ("embedding",)),
}
# A list that a whole reply has, and that may be empty, because the model may write nothing.
MAY_BE_EMPTY = {RESPONSES: "output", MESSAGES: "content"}
REQUIRED_FIELDS = {
    OLLAMA_CHAT: "message",
    OLLAMA_GENERATE: "response",
    OLLAMA_EMBED: "embeddings",
}
KNOWN = frozenset({*REQUIRED_LISTS, *MAY_BE_EMPTY, *REQUIRED_FIELDS, GENERATE_CONTENT})

# Types of events that hold no content of the answer. This is a tuple, because the type of a garbled
# event may be an object, and a set refuses to look for one.
PREAMBLE = ("response.created", "response.queued", "response.in_progress", "message_start", "ping")
# Names of errors that the same request would get again.
PERMANENT = frozenset(
    {
        "authentication_error", "billing_error", "content_filter", "context_length_exceeded",
        "failed_precondition", "invalid_argument", "model_not_found", "not_found",
        "not_found_error", "permission_denied", "permission_error", "request_too_large",
        "unauthenticated",
    }
)  # fmt: skip
TRANSIENT = frozenset({408, 409, 429})  # the statuses from 400 to 499 that a retry may cure
LONGEST_TEXT = 300  # characters of an error that are kept


def body_flaw(request: ModelRequest, kind: str, raw: bytes, body: Json) -> Flaw | None:
    """Why a whole body is no answer: ``raw`` of content type ``kind``, parsed as ``body``."""
    if request.is_lookup and request.api != RETRIEVE_RESPONSE:
        return None  # it may be the content of any file
    api = _known_api(request)
    if body is None:
        return _json_flaw(raw) if api or _is_page(kind, raw) or "json" in kind else None
    parts = body if isinstance(body, list) and api == GENERATE_CONTENT else [body]
    for part in parts:
        if (error := _find_error(part, alone=not api)) is not None:
            return _error_flaw(error, part)
    missing = _missing_field(api, parts)
    return Flaw(f"the reply has no {missing}") if missing else None


def event_flaw(event: ServerEvent) -> Flaw | None:
    """Why a stream that holds this event is no answer."""
    if event.json is None:
        if not event.data or event.data.startswith(DONE) or event.name == "ping":
            return None
        return Flaw(f"an event of the stream is not JSON: {event.data[:80]!r}")
    if (error := _find_error(event.json, alone=False)) is None and event.name == "error":
        error = event.json
    return None if error is None else _error_flaw(error, event.json)


def is_preamble(event: ServerEvent) -> bool:
    """Whether this event has no content of the answer, so that it may be held back."""
    data = event.json
    if not isinstance(data, dict):
        return False
    if data.get("type") in PREAMBLE:
        response = data.get("response")
        return not (isinstance(response, dict) and response.get("background"))
    choices = data.get("choices")
    return isinstance(choices, list) and not any(_has_content(choice) for choice in choices)


def has_stop_reasons(request: ModelRequest, body: Json) -> bool:
    """Whether a stream, folded into ``body``, gave the reason why it stopped, for each choice.

    Then its text is complete, although its last event is missing.
    """
    if not isinstance(body, dict):
        return False
    if isinstance(body.get("stop_reason"), str):  # Anthropic sends the usage in the same event
        return True
    choices = body.get("choices")
    choice_count = request.body.get("n") if isinstance(request.body, dict) else None
    wanted = choice_count if isinstance(choice_count, int) else 1
    return (
        isinstance(choices, list)
        and len(choices) >= max(1, wanted)
        and all(isinstance(c, dict) and c.get("finish_reason") is not None for c in choices)
    )


def is_gemini_stop(event: ServerEvent) -> bool:
    """Whether this event gives Gemini's reason to stop; its streams have no other end event."""
    blocked = _has(event.json, "promptFeedback")
    candidates = _list(_field(event.json, "candidates"))
    return blocked or any(_has(candidate, "finishReason") for candidate in candidates)


def _known_api(request: ModelRequest) -> str:
    """The API, if its replies are known and the path is a usual one; else ""."""
    usual = locate(urlsplit(request.url).path).is_known
    return request.api if usual and request.api in KNOWN else ""


def _missing_field(api: str, parts: list[Json]) -> str:
    """The field that the API promises and the bodies lack; "" if none."""
    if api in REQUIRED_LISTS:
        name, inside = REQUIRED_LISTS[api]
        items = _field(parts[0], name)
        found = [any(_has(item, one) for one in inside) for item in _list(items)]
        return "" if found and all(found) else name
    if api in MAY_BE_EMPTY:
        name = MAY_BE_EMPTY[api]
        return "" if isinstance(_field(parts[0], name), list) else name
    if api == GENERATE_CONTENT:
        whole = any(_field(part, "candidates") or _has(part, "promptFeedback") for part in parts)
        return "" if whole else "candidates"
    if api in REQUIRED_FIELDS:
        return "" if _has(parts[0], REQUIRED_FIELDS[api]) else REQUIRED_FIELDS[api]
    return ""


def _find_error(body: Json, *, alone: bool) -> Json:
    """The error that a body or an event states; None if it states none.

    ``alone``: a body with an ``id`` or ``object`` is not searched. It is an object of an unknown
    API, and its field ``error`` may be ordinary content.
    """
    if not isinstance(body, dict) or (alone and ("id" in body or "object" in body)):
        return None
    response = body.get("response")
    if isinstance(response, dict) and body.get("type") == "response.failed":
        return response.get("error") or "the response failed"
    for error in (body.get("error"), *map(_choice_error, _list(body.get("choices")))):
        if error and (not isinstance(error, dict) or any(error.values())):
            return error
    if body.get("type") == "error":
        return body
    if (body.get("object"), body.get("status")) == ("response", "failed"):
        return "the response failed"
    return None


def _choice_error(choice: Json) -> Json:
    broke_off = _field(choice, "finish_reason") == "error"
    return _field(choice, "error") or ("the provider broke off" if broke_off else None)


def _error_flaw(error: Json, body: Json) -> Flaw:
    """The flaw for an error that the provider states; billed only if the reply counts tokens."""
    response = _field(body, "response")
    used = _field(body, "usage") or _field(response, "usage")
    billed = isinstance(used, dict) and any(isinstance(n, int) and n > 0 for n in used.values())
    message = _field(error, "message") if isinstance(error, dict) else error
    text = str(message or error)[:LONGEST_TEXT]
    return Flaw(f"the reply states an error: {text}", again=not _is_permanent(error), billed=billed)


def _is_permanent(error: Json) -> bool:
    """Whether the same request would get this error again, judged by the error's own fields."""
    values = [_field(error, name) for name in ("code", "status", "status_code", "type")]
    numbers = [int(value) for value in values if str(value).isdigit()]
    if numbers:
        return all(400 <= number < 500 and number not in TRANSIENT for number in numbers)
    names = [value.lower() for value in values if isinstance(value, str)]
    return any(name in PERMANENT or name.startswith("invalid_") for name in names)


def _json_flaw(raw: bytes) -> Flaw:
    if not raw.strip():
        return Flaw("the body is empty")
    if _is_page("", raw):
        return Flaw("the body is an HTML page")
    return Flaw(f"the body is not complete JSON: {raw[:80]!r}")


def _is_page(kind: str, raw: bytes) -> bool:
    return kind.startswith("text/html") or raw.lstrip()[:1] == b"<"


def _has_content(choice: Json) -> bool:
    """Whether a choice of a chunk has more than its role."""
    if _field(choice, "finish_reason") is not None or _field(choice, "text"):
        return True
    delta = _field(choice, "delta")
    fields = delta.items() if isinstance(delta, dict) else ()
    return any(value not in (None, "", [], {}) for name, value in fields if name != "role")


def _has(value: Json, name: str) -> bool:
    return _field(value, name) is not None


def _field(value: Json, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _list(value: Json) -> list[Any]:
    return value if isinstance(value, list) else []
