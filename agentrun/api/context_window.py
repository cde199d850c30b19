"""Cut a conversation so that it fits into the model's context window.

A conversation is cut only between its turns: a tool call stays with its results. The system prompt,
the first question and the latest turn always stay. The turns that are left out were recorded with
earlier requests, so a transcript still shows them.

A resumed run has to cut where the first execution did. So sizes are computed from bytes alone: a
tokenizer may be missing on another machine, or count differently there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentrun.api.reply_formats import jsonable
from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.json_types import is_array, is_object
from agentrun.core.messages import request_messages

BYTES_PER_TOKEN = 3.0  # on the safe side of English and code, which have about 4
KEEP = 0.7  # of the limit. A cut changes the beginning, which the provider caches: cut rarely
_ATTACHMENT = 1_000  # tokens of an image, a file or sound; its bytes do not show its tokens
_ATTACHMENTS = frozenset(
    {"image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "audio"}
)


@dataclass(frozen=True)
class Cut:
    """A conversation in three parts, in order: ``head``, ``middle``, ``tail``."""

    head: list[Any]
    middle: list[Any]
    tail: list[Any]


def trim_messages(
    messages: Sequence[Any], *, max_tokens: int, bytes_per_token: float = BYTES_PER_TOKEN
) -> list[Any]:
    """Return the conversation without its oldest turns, once it reaches ``max_tokens``.

    A cut removes about a third at once, so that the provider's prompt cache serves the turns that
    follow. The system prompt, the first question and the latest turn stay, whatever their size. A
    tool call stays with its result. A shorter conversation is returned whole.

    Args:
        messages: messages of chat completions or of Anthropic, or items of the Responses API; as
            dicts or as objects of the SDKs.
        max_tokens: the largest size of the conversation in tokens. Leave room for the tools and
            for the reply.
        bytes_per_token: how many bytes of JSON count as one token. A tokenizer would be more
            exact, but may differ on another machine, where a resumed run would then diverge.

    Raises:
        ConfigError: a number is not above zero.

    Example:
        >>> messages = agentrun.trim_messages(messages, max_tokens=100_000)
    """
    if max_tokens <= 0 or bytes_per_token <= 0:
        raise ConfigError("trim_messages() needs max_tokens and bytes_per_token above zero")
    parts = cut(messages, max_tokens, bytes_per_token)
    return [*parts.head, *parts.tail]


def cut(messages: Sequence[Any], max_tokens: float, bytes_per_token: float) -> Cut:
    """Choose the turns to leave out; none, if the conversation has less than ``max_tokens``."""
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
    """Estimate the tokens of a message, or of any other part of a request."""
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
    """A part of a conversation as plain text, for a person or for a model that sums it up."""
    items = [jsonable(message) for message in messages]
    lines: list[str] = []
    for message in request_messages({"messages": items}):
        if message.text:
            lines.append(f"{message.role}: {message.text}")
        lines += [f"{message.role} calls {call.name}({call.arguments})" for call in message.calls]
    return "\n\n".join(lines)


def _turns(items: Sequence[Json]) -> list[int]:
    """The index at which each turn after the head begins. Without any turn: the length.

    A turn is a message of a person, or a reply of the model with the results of its tool calls.
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
    """The kind of a message: "system", "user", "model", or "result" of a tool call."""
    if not is_object(item):
        return "user"
    role, type_ = item.get("role"), str(item.get("type") or "")
    content = item.get("content")
    if role in ("tool", "function") or type_.endswith("_output"):
        return "result"
    if role in ("system", "developer"):
        return "system"
    if role == "user":
        parts = content if is_array(content) else []
        results = [p for p in parts if is_object(p) and p.get("type") == "tool_result"]
        return "result" if results else "user"
    return "model"
