"""Functions that the dialects of the model double share: ids, pieces of text, tokens, answers.

A dialect is a module with three functions. ``describe`` returns the facts of a request. ``problem``
returns the reason for which the real API would refuse the request. ``answer`` answers it with a
`Reply`. The ``LIMITS`` of a dialect are the request fields that limit the tokens of the reply.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from agentrun.testing.replies import AUTO, Call, Reply
from agentrun.testing.wire import HttpAnswer

__all__ = [
    "ARGUMENT_CHUNKS",
    "call_arguments",
    "call_id",
    "cut",
    "event",
    "mint",
    "pieces",
    "say",
    "text_of",
    "tokens",
]

ARGUMENT_CHUNKS = 3


def mint(prefix: str, length: int) -> str:
    """Make a new id in the provider's format."""
    alphabet = string.ascii_letters + string.digits
    return prefix + "".join(secrets.choice(alphabet) for _ in range(length))


def call_id(call: Call, prefix: str) -> str | None:
    """The id with which a tool call is sent; None leaves the field out."""
    return mint(prefix, 24) if call.id == AUTO else call.id


def call_arguments(call: Call) -> str:
    """The arguments of a tool call as text; a string, malformed or not, stays unchanged."""
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


def pieces(text: str, count: int | None) -> list[str]:
    """Split a text into ``count`` parts of about equal length; with None, into words."""
    if count is None:
        return re.findall(r"\s*\S+|\s+$", text)
    size = max(1, math.ceil(len(text) / count))
    return [text[at : at + size] for at in range(0, len(text), size)]


def tokens(text: str) -> int:
    """The token count of a text: one for every four characters."""
    return math.ceil(len(text) / 4)


def cut(reply: Reply, limit: int | None) -> Reply:
    """Cut the reply to the ``limit`` of the request, in tokens."""
    size = tokens(reply.text or "") if reply.output_tokens is None else reply.output_tokens
    if limit is None or size <= limit:
        return reply
    text = (reply.text or "")[: 4 * limit]
    return replace(reply, text=text, tool_calls=(), finish_reason="length", output_tokens=limit)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or the texts of its parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event, named by its ``type`` where it has one."""
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def say(
    reply: Reply,
    facts: Mapping[str, Any],
    plain: Mapping[str, Any],
    events: Iterable[bytes],
) -> HttpAnswer:
    """Make the answer of a reply, as a stream if the request asks for one; its effect is the bill.

    ``plain`` is the whole body, ``events`` are the same reply as a stream.
    """
    streamed = facts["stream"]
    if reply.raw is not None:
        raw = reply.raw if isinstance(reply.raw, str) else json.dumps(reply.raw)
        chunks: tuple[bytes, ...] = (raw.encode(),)
    else:
        chunks = tuple(events) if streamed else (json.dumps(plain).encode(),)
    kind = "text/event-stream; charset=utf-8" if streamed else "application/json"
    bill = {
        "response_id": plain["id"],
        "model": plain["model"],
        "turn": facts["turn"],
        "stream": streamed,
        "usage": plain["usage"],
    }
    return HttpAnswer(
        chunks,
        {"content-type": kind},
        streamed=streamed,
        effect=bill,
        delay_s=reply.delay_s,
        pace_s=reply.pace_s,
    )
