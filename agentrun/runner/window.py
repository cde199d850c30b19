"""What of a conversation still fits into the model's context window.

A conversation is cut between its turns only: a call stays with its results, and the system prompt,
the first question and the latest turn always stay. What is left out was recorded with the requests
that held it, and a transcript tells where it went.

Sizes are told from bytes alone, never from a tokenizer that another machine may lack: a resumed run
has to cut where it did before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.messages import request_messages
from agentrun.runner.replies import jsonable

BYTES_PER_TOKEN = 3.0  # on the safe side of English and code, which have about 4
KEEP = 0.7  # of the limit: each cut changes the beginning, which the provider has cached
_ATTACHMENT = 1_000  # tokens of an image, a file or sound, whose bytes say nothing
_ATTACHMENTS = frozenset(
    {"image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "audio"}
)


@dataclass(frozen=True)
class Cut:
    """A conversation in three: what is left out lies between ``head`` and ``kept``."""

    head: list[Any]
    left_out: list[Any]
    kept: list[Any]


def trim_messages(
    messages: Sequence[Any], *, max_tokens: int, bytes_per_token: float = BYTES_PER_TOKEN
) -> list[Any]:
    """The conversation, less its oldest turns once it comes to ``max_tokens``.

    Then about a third of it goes at once, so that the provider's prompt cache serves the turns
    after. Keep what is returned: ``messages = agentrun.trim_messages(messages, max_tokens=…)``.
    The system prompt, the first question and the latest turn stay, whatever their size, and a tool
    call stays with its result. Works on the messages of chat completions and Anthropic and on the
    items of the Responses API; dicts and objects of the SDKs.

    Args:
        messages: the conversation.
        max_tokens: of the conversation; leave room for tools and for the reply.
        bytes_per_token: how many bytes of JSON are counted as a token. A tokenizer would be more
            exact, and different on another machine, where the resumed run would diverge.

    Raises:
        ConfigError: a number that is not above zero.
    """
    if max_tokens <= 0 or bytes_per_token <= 0:
        raise ConfigError("trim_messages() needs max_tokens and bytes_per_token above zero")
    parts = cut(messages, max_tokens, bytes_per_token)
    return [*parts.head, *parts.kept]


def cut(messages: Sequence[Any], max_tokens: float, bytes_per_token: float) -> Cut:
    """Which turns go; none do while the conversation has less than ``max_tokens``."""
    sizes = [tokens(message, bytes_per_token) for message in messages]
    whole = sum(sizes)
    if whole < max_tokens:
        return Cut(list(messages), [], [])
    begins = _turns([jsonable(message) for message in messages])
    first = start = begins.pop(0)
    for begin in begins:
        if whole < max_tokens * KEEP:
            break
        whole -= sum(sizes[start:begin])
        start = begin
    return Cut(list(messages[:first]), list(messages[first:start]), list(messages[start:]))


def tokens(value: Any, bytes_per_token: float) -> float:
    """About how many tokens a message or any other part of a request has."""
    attachments: list[Json] = []

    def take_out(part: dict[str, Json]) -> Json:
        if part.get("type") not in _ATTACHMENTS:
            return part
        return attachments.append(part)

    text = json.dumps(jsonable(value), ensure_ascii=False, default=str)
    if any(name in text for name in _ATTACHMENTS):
        text = json.dumps(json.loads(text, object_hook=take_out), ensure_ascii=False)
    size = len(text.encode("utf-8", "replace"))
    return size / bytes_per_token + len(attachments) * _ATTACHMENT


def as_text(messages: Sequence[Any]) -> str:
    """A part of a conversation for a reader, who may be a model that is to sum it up."""
    items = [jsonable(message) for message in messages]
    lines = []
    for message in request_messages({"messages": items}):
        if message.text:
            lines.append(f"{message.role}: {message.text}")
        lines += [f"{message.role} calls {call.name}({call.arguments})" for call in message.calls]
    return "\n\n".join(lines)


def _turns(items: Sequence[Json]) -> list[int]:
    """Where the turns behind the head begin, and at last where the conversation ends.

    A turn is something that a person said, or what the model said and called for, with what came
    of it.
    """
    kinds = [_kind(item) for item in items]
    at = 0
    while at < len(kinds) and kinds[at] == "system":
        at += 1
    at += at < len(kinds) and kinds[at] == "user"
    begins = [
        n
        for n in range(at, len(kinds))
        if n == at or (kinds[n] != "result" and (kinds[n - 1], kinds[n]) != ("model", "model"))
    ]
    return begins or [len(kinds)]


def _kind(item: Json) -> str:
    """Who a message is of: system, user, model, or the result of a call."""
    if not isinstance(item, dict):
        return "user"
    role, type_ = item.get("role"), str(item.get("type") or "")
    content = item.get("content")
    if role in ("tool", "function") or type_.endswith("_output"):
        return "result"
    if role in ("system", "developer"):
        return "system"
    if role == "user":
        parts = content if isinstance(content, list) else []
        results = [p for p in parts if isinstance(p, dict) and p.get("type") == "tool_result"]
        return "result" if results else "user"
    return "model"
