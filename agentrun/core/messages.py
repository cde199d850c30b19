"""The messages inside model requests and replies, for the three APIs that agentrun records.

A reply is whatever a provider sent: lists may be objects, texts numbers, fields missing. Reading
never raises and never guesses; what is no message is left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentrun.core.events import Json

__all__ = [
    "Message",
    "ToolRequest",
    "left_out",
    "new_messages",
    "reply_messages",
    "request_messages",
]


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A tool call as the model wrote it; ``arguments`` is its text, valid JSON or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, the same shape for every API.

    Two messages are equal when they say the same, whichever API or client wrote them.
    """

    role: str
    text: str = ""
    calls: tuple[ToolRequest, ...] = ()
    call_id: str = ""  # which tool call a tool message answers
    name: str = ""


def request_messages(body: Json) -> list[Message]:
    """The whole conversation that a request body holds."""
    body = _dict(body)
    found = []
    for field in ("system", "instructions"):  # Anthropic; Responses
        if text := text_of(body.get(field)):
            found.append(Message("system", text))
    if isinstance(body.get("input"), str):  # Responses' short form
        found.append(Message("user", body["input"]))
    return [*found, *_messages(body.get("messages")), *_messages(body.get("input"))]


def reply_messages(body: Json) -> list[Message]:
    """What the model answered: the messages of a reply body."""
    body = _dict(body)
    found = [
        message
        for choice in _list(body.get("choices"))
        for message in _messages([_dict(choice).get("message")])
    ]
    if isinstance(body.get("output"), list):  # Responses
        found += _messages(body["output"])
    if isinstance(body.get("content"), list):  # Anthropic
        found += _messages([{"role": "assistant", "content": body["content"]}])
    return found


def new_messages(conversation: Sequence[Message], before: Sequence[Message]) -> list[Message]:
    """What ``conversation`` holds beyond ``before``, in order, counting repetitions."""
    start = _in_common(conversation, before)
    return _without(conversation[start:], before[start:])


def left_out(conversation: Sequence[Message], before: Sequence[Message]) -> list[Message]:
    """What ``conversation`` holds no more of ``before``, if it goes on with that: with its end."""
    start = _in_common(conversation, before)
    lost = _without(before[start:], conversation[start:])
    return [] if before and before[-1] in lost else [m for m in lost if m.role != "system"]


def _in_common(ours: Sequence[Message], theirs: Sequence[Message]) -> int:
    """How many messages both begin with: nearly always the one continues the other."""
    for n, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        if our != their and _identity(our) != _identity(their):
            return n
    return min(len(ours), len(theirs))


def _without(messages: Sequence[Message], others: Sequence[Message]) -> list[Message]:
    known = Counter(map(_identity, others))
    rest = []
    for message in messages:
        if known[_identity(message)] > 0:
            known[_identity(message)] -= 1
        else:
            rest.append(message)
    return rest


def text_of(content: Json) -> str:
    """The readable text of a message's content: a string, or the text of its parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    return "\n".join(part for part in map(_part, _list(content)) if part)


def _messages(items: Json) -> list[Message]:
    return [m for item in _list(items) if isinstance(item, dict) for m in _read(item)]


def _read(item: dict[str, Json]) -> Iterator[Message]:
    """The messages in one item of a conversation: an Anthropic user item can hold several."""
    kind = item.get("type")
    if kind in ("function_call", "custom_tool_call"):
        yield Message("assistant", calls=(_request(item, "call_id", "name", "arguments"),))
        return
    if kind in ("function_call_output", "custom_tool_call_output"):
        yield Message("tool", text_of(item.get("output")), call_id=_str(item.get("call_id")))
        return
    if kind == "reasoning":
        if text := text_of(item.get("summary")):
            yield Message("reasoning", text)
        return
    if "role" not in item:
        return
    parts = [part for part in _list(item.get("content")) if isinstance(part, dict)]
    for part in parts:
        if part.get("type") == "tool_result":
            text = text_of(part.get("content"))
            yield Message("tool", text, call_id=_str(part.get("tool_use_id")))
    message = Message(
        _str(item["role"]),
        text_of(item.get("content")) or text_of(item.get("refusal")),
        calls=(*_chat_calls(item), *_tool_uses(parts)),
        call_id=_str(item.get("tool_call_id")),
        name=_str(item.get("name")),
    )
    if message.text or message.calls or not parts:
        yield message


def _chat_calls(item: dict[str, Json]) -> Iterator[ToolRequest]:
    for call in _list(item.get("tool_calls")):
        function = _dict(call).get("function") or _dict(call).get("custom")
        yield _request({**_dict(function), "id": _dict(call).get("id")}, "id", "name", "arguments")


def _tool_uses(parts: list[dict[str, Json]]) -> Iterator[ToolRequest]:
    for part in parts:
        if part.get("type") == "tool_use":
            yield _request(part, "id", "name", "input")


def _request(item: dict[str, Json], id_: str, name: str, arguments: str) -> ToolRequest:
    given = item.get(arguments, item.get("input", ""))
    return ToolRequest(_str(item.get(id_)), _str(item.get(name)), _str(given))


def _part(part: Json) -> str:
    """One content part: its text, or in brackets what it is (an image, a file)."""
    if isinstance(part, str):
        return part
    part = _dict(part)
    for field in ("text", "refusal", "thinking"):
        if isinstance(part.get(field), str):
            return _str(part[field])
    if part.get("type") in (None, "tool_use", "tool_result"):
        return ""
    return f"[{_str(part['type'])}]"


def _identity(message: Message) -> tuple[object, ...]:
    calls = tuple((c.id, c.name, _canonical(c.arguments)) for c in message.calls)
    return (message.role, message.text, calls, message.call_id)


def _canonical(arguments: str) -> str:
    """Arguments without the spacing that clients change when they parse and dump them."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _str(value: Json) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return str(type(value).__name__)
