"""Reads the messages in model requests and replies, for all APIs that agentrun supports.

These are OpenAI's chat completions, Responses and completions, Anthropic's messages, Gemini,
Bedrock's Converse, Ollama and Cohere.

A provider may send anything: an object instead of a list, a number instead of a text, or too few
fields. So reading never raises and never guesses: an item that is not a message is skipped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentrun.core.events import Json

__all__ = [
    "Image",
    "Message",
    "ToolRequest",
    "arguments_of",
    "identity_of",
    "item_messages",
    "omitted_messages",
    "reply_messages",
    "request_messages",
    "request_parts",
    "without",
]


_ROLES = {"model": "assistant"}  # Gemini's name of the role


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A tool call as the model wrote it. ``arguments`` is text that may be invalid JSON.

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.NewMessage):
        ...         print(entry.message.role, [call.name for call in entry.message.calls])
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a message: its address, which is a ``data:`` URI if the message holds it.

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.NewMessage):
        ...         print([image.address[:40] for image in entry.message.images])
    """

    address: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in one form for all APIs.

    Two messages with the same content are equal, whichever API or client wrote them.

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.NewMessage):
        ...         print(entry.message.role, entry.message.text)
    """

    role: str
    text: str = ""
    calls: tuple[ToolRequest, ...] = ()
    call_id: str = ""  # which tool call a tool message answers
    name: str = ""
    images: tuple[Image, ...] = ()


def request_messages(body: Json) -> list[Message]:
    """All messages in a request body."""
    found, lists = request_parts(body)
    return [*found, *(message for items in lists for message in item_messages(items))]


def request_parts(body: Json) -> tuple[list[Message], list[Json]]:
    """The messages in the short fields of a request body, and its lists of further messages."""
    body = _dict(body)
    found = []
    for field in ("system", "instructions", "systemInstruction"):  # Anthropic; Responses; Gemini
        content = _dict(body.get(field)).get("parts", body.get(field))
        if text := text_of(content):
            found.append(Message("system", text))
    for field in ("input", "prompt", "message"):  # short forms: Responses, completions, Cohere
        if isinstance(body.get(field), str):
            found.append(Message("user", body[field]))
    return found, [body.get("messages"), body.get("input"), body.get("contents")]


def reply_messages(body: Json) -> list[Message]:
    """The messages in a reply body."""
    body = _dict(body)
    found = [
        message
        for choice in _list(body.get("choices"))
        for message in item_messages([_dict(choice).get("message") or _completion(choice)])
    ]
    found += [
        message
        for candidate in _list(body.get("candidates"))  # Gemini
        for message in item_messages([_dict(candidate).get("content")])
    ]
    if isinstance(body.get("message"), dict):  # Ollama, Cohere
        found += item_messages([body["message"]])
    if isinstance(body.get("response"), str):  # Ollama's short form
        found.append(Message("assistant", body["response"]))
    if isinstance(body.get("output"), dict):  # Converse
        found += item_messages([body["output"].get("message")])
    if isinstance(body.get("output"), list):  # Responses
        found += item_messages(body["output"])
    if isinstance(body.get("content"), list):  # Anthropic
        found += item_messages([{"role": "assistant", "content": body["content"]}])
    return found


def without(messages: Sequence[Message], others: Sequence[Message]) -> list[Message]:
    """The messages that ``others`` does not have, in order.

    A message that occurs more often than in ``others`` is returned that many times.
    """
    known = Counter(map(identity_of, others))
    rest = []
    for message in messages:
        if known[identity_of(message)] > 0:
            known[identity_of(message)] -= 1
        else:
            rest.append(message)
    return rest


def omitted_messages(messages: Sequence[Message], before: Sequence[Message]) -> list[Message]:
    """The messages of ``before`` that ``messages`` has left out, except system messages.

    Empty if the last message of ``before`` is missing: then it is another conversation.
    """
    lost = without(before, messages)
    return [] if before and before[-1] in lost else [m for m in lost if m.role != "system"]


def text_of(content: Json) -> str:
    """The readable text of a message's content: a string, or the text of its parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    return "\n".join(part for part in map(_part, _list(content)) if part)


def item_messages(items: Json) -> list[Message]:
    """The messages in the items of a conversation. An item that is none is skipped."""
    return [m for item in _list(items) if isinstance(item, dict) for m in _read(item)]


def _read(item: dict[str, Json]) -> Iterator[Message]:
    """The messages in one item of a conversation. A user item of Anthropic can have several."""
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
    if "role" not in item and "parts" not in item:
        return
    content = item.get("content", item.get("parts"))
    parts = [part for part in _list(content) if isinstance(part, dict)]
    for part in parts:
        if (result := _result(part)) is not None:
            yield result
    message = Message(
        _ROLES.get(_str(item.get("role", "user")), _str(item.get("role", "user"))),
        text_of(content) or text_of(item.get("refusal")),
        calls=(*_chat_calls(item), *_tool_uses(parts)),
        call_id=_str(item.get("tool_call_id")),
        name=_str(item.get("name")),
        images=tuple(Image(address) for address in map(_image_address, parts) if address),
    )
    if message.text or message.calls or not parts:
        yield message


def _chat_calls(item: dict[str, Json]) -> Iterator[ToolRequest]:
    for call in _list(item.get("tool_calls")):
        function = _dict(call).get("function") or _dict(call).get("custom")
        yield _request({**_dict(function), "id": _dict(call).get("id")}, "id", "name", "arguments")


def _completion(choice: Json) -> Json:
    """A choice of legacy completions as a message."""
    text = _dict(choice).get("text")
    return {"role": "assistant", "content": text} if isinstance(text, str) else None


def _result(part: dict[str, Json]) -> Message | None:
    """The tool message in a part of a user message, as in Anthropic, Converse and Gemini."""
    if part.get("type") == "tool_result":
        return Message("tool", text_of(part.get("content")), call_id=_str(part.get("tool_use_id")))
    if isinstance(result := part.get("toolResult"), dict):
        content = [c.get("text", c.get("json")) for c in _list(result.get("content")) if _dict(c)]
        text = "\n".join(_str(piece) for piece in content)
        return Message("tool", text, call_id=_str(result.get("toolUseId")))
    if isinstance(result := part.get("functionResponse"), dict):
        return Message("tool", _str(result.get("response")), call_id=_str(result.get("id")))
    return None


def _tool_uses(parts: list[dict[str, Json]]) -> Iterator[ToolRequest]:
    for part in parts:
        if part.get("type") == "tool_use":
            yield _request(part, "id", "name", "input")
        elif isinstance(use := part.get("toolUse"), dict):  # Converse
            yield _request(use, "toolUseId", "name", "input")
        elif isinstance(use := part.get("functionCall"), dict):  # Gemini
            yield _request(use, "id", "name", "args")


def arguments_of(sent: Json) -> Json:
    """The arguments of a tool call as a value. An empty text and ``null`` mean ``{}``.

    Raises ValueError or RecursionError for a text that is not JSON.
    """
    arguments = json.loads(sent.strip() or "null") if isinstance(sent, str) else sent
    return {} if arguments is None else arguments


def _request(item: dict[str, Json], id_: str, name: str, arguments: str) -> ToolRequest:
    text = item.get(arguments, item.get("input", ""))
    return ToolRequest(_str(item.get(id_)), _str(item.get(name)), _str(text))


def _part(part: Json) -> str:
    """The text of a content part, or else its type in brackets, such as ``[image]``."""
    if isinstance(part, str):
        return part
    part = _dict(part)
    for field in ("text", "refusal", "thinking"):
        if isinstance(part.get(field), str):
            return _str(part[field])
    if part.get("type") in (None, "tool_use", "tool_result"):
        return ""
    return f"[{_str(part['type'])}]"


def _image_address(part: dict[str, Json]) -> str:
    """The address of the image in a content part; empty if it has none.

    These are the forms of chat completions, Responses, Anthropic and Gemini.
    """
    url = part.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    if isinstance(url, str):
        return url
    source = _dict(part.get("source")) or _dict(part.get("inlineData"))
    if isinstance(source.get("url"), str) and part.get("type") == "image":
        return _str(source["url"])
    kind, data = source.get("media_type", source.get("mimeType")), source.get("data")
    if isinstance(kind, str) and isinstance(data, str) and kind.startswith("image/"):
        return f"data:{kind};base64,{data}"
    return ""


def identity_of(message: Message) -> tuple[object, ...]:
    """Equal for messages with the same content, whichever client wrote them."""
    calls = tuple((c.id, c.name, _canonical(c.arguments)) for c in message.calls)
    return (message.role, message.text, calls, message.call_id, message.images)


def _canonical(arguments: str) -> str:
    """Arguments as canonical JSON, because clients that parse and dump them change the spacing."""
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
