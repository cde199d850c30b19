"""What the dialects of the model double share: ids, pieces of text, token counts, one way to send.

A dialect is a module with three functions: ``describe`` the conversation in a request, name the
``problem`` for which the real API would refuse it, and ``answer`` it with a `Reply`. Its ``LIMITS``
are the fields of a request that say how many tokens the reply may have.
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
from agentrun.testing.wire import Answer

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
    """A fresh id that looks like the provider's."""
    alphabet = string.ascii_letters + string.digits
    return prefix + "".join(secrets.choice(alphabet) for _ in range(length))


def call_id(call: Call, prefix: str) -> str | None:
    """The id that a tool call is sent with; None leaves the field out."""
    return mint(prefix, 24) if call.id == AUTO else call.id


def call_arguments(call: Call) -> str:
    """The arguments of a tool call as text, malformed if they were given so."""
    given = call.arguments
    return given if isinstance(given, str) else json.dumps(given)


def pieces(text: str, count: int | None) -> list[str]:
    """The text in ``count`` parts of about one length, or with None by words."""
    if count is None:
        return re.findall(r"\s*\S+|\s+$", text)
    size = max(1, math.ceil(len(text) / count))
    return [text[at : at + size] for at in range(0, len(text), size)]


def tokens(text: str) -> int:
    """How many tokens a text counts for: four characters each."""
    return math.ceil(len(text) / 4)


def cut(reply: Reply, limit: int | None) -> Reply:
    """The reply, broken off where it is longer than the ``limit`` of the request, in tokens."""
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
) -> Answer:
    """A reply on its way, streamed if that was asked for; its effect is the bill.

    ``plain`` is the whole body, ``events`` the same as a stream.
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
    return Answer(
        chunks,
        {"content-type": kind},
        streamed=streamed,
        effect=bill,
        delay_s=reply.delay_s,
        pace_s=reply.pace_s,
    )
