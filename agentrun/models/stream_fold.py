"""Folds the events of a streamed reply into the body that a call without streaming would return.

There is one fold for each API, chosen by the first event. For an unknown API the body is the last
event that states usage, or else the last event. The body is for reading and accounting only: a
resume hands out the recorded bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentrun.core.events import Json
from agentrun.core.json_types import is_array
from agentrun.core.parse import parse_json
from agentrun.models.event_streams import ServerEvent

__all__ = ["StreamFold"]

_MESSAGES_EVENTS = frozenset(
    {
        "message_start", "content_block_start", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop", "ping",
    }
)  # fmt: skip
_CONVERSE_EVENTS = frozenset(
    {
        "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop",
        "messageStop", "metadata",
    }
)  # fmt: skip
_COHERE_EVENTS = frozenset(
    {
        "message-start", "content-start", "content-delta", "content-end", "tool-plan-delta",
        "tool-call-start", "tool-call-delta", "tool-call-end", "citation-start", "message-end",
    }
)  # fmt: skip

# Fields of a delta that replace the old value and do not grow: some servers repeat them in every
# chunk.
WHOLE_FIELDS = frozenset({"id", "type", "role", "name", "index"})


@dataclass(frozen=True, slots=True)
class _GrowingText:
    """A text that still grows, kept in pieces: joining it at each piece would be quadratic."""

    pieces: list[str]


class StreamFold:
    """Takes events one by one; ``result()`` is the body so far, None before the first event."""

    def __init__(self) -> None:
        self._format = ""  # of the first event; events of another format are ignored
        self._body: dict[str, Json] | None = None
        self._parts: dict[int, dict[str, Json]] = {}  # choices, output items, content blocks

    def add(self, event: ServerEvent) -> None:
        """Take the next event; an event that is not understood is ignored."""
        data = event.json
        if not isinstance(data, dict):
            return
        if (error := _error(data)) is not None:
            self._body = {**(self._body or {}), "error": error}
            return
        found = _event_format(event.name, data)
        self._format = self._format or found
        if found != self._format:
            return
        if found == "converse":
            self._add_converse(event.name, data)
        else:
            getattr(self, f"_add_{found}")(data)

    def result(self) -> Json:
        """The body as a JSON value."""
        if self._body is None:
            return None
        body: dict[str, Json] = _join_texts(self._body)
        parts = [_join_texts(self._parts[index]) for index in sorted(self._parts)]
        if self._format == "chat":
            body["choices"] = parts
        elif self._format == "responses":
            body["output"] = body.get("output") or parts
        elif self._format == "messages":
            body["content"] = [_finished_block(part) for part in parts]
        elif self._format == "converse":
            message = {"role": body.pop("role", "assistant"), "content": _converse_blocks(parts)}
            body["output"] = {"message": message}
        elif self._format == "gemini":
            body["candidates"] = parts
        return body

    def _add_chat(self, chunk: dict[str, Json]) -> None:
        if self._body is None:
            self._body = {"object": "chat.completion", "choices": []}
        for name, value in chunk.items():
            if name not in ("object", "choices") and value is not None:
                self._body[name] = value
        for choice in filter(_is_dict, chunk["choices"]):
            part = self._get_part(choice.get("index"), {"message": {}, "finish_reason": None})
            _merge(part["message"], choice.get("delta"))
            if isinstance(choice.get("text"), str):  # legacy completions
                _merge(part, {"text": choice["text"]})
            if isinstance(choice.get("logprobs"), dict):
                _merge(part.setdefault("logprobs", {}), choice["logprobs"])
            if choice.get("finish_reason") is not None:
                part["finish_reason"] = choice["finish_reason"]

    def _add_responses(self, data: dict[str, Json]) -> None:
        if isinstance(data.get("response"), dict):
            self._body = {"object": "response", **data["response"]}
        elif data["type"] == "response.output_item.done" and _is_dict(data.get("item")):
            self._parts[_index(data.get("output_index"))] = data["item"]
        elif data["type"] == "response.output_text.delta" and isinstance(data.get("delta"), str):
            # Needed only until the item's `done` event, which holds all of its text.
            index = _index(data.get("output_index"))
            part = self._parts.setdefault(index, {"type": "message", "role": "assistant"})
            text = {"index": _index(data.get("content_index")), "text": data["delta"]}
            _merge(part, {"content": [{"type": "output_text", **text}]})

    def _add_messages(self, data: dict[str, Json]) -> None:
        type_ = data.get("type")
        if type_ == "message_start" and _is_dict(data.get("message")):
            self._body = dict(data["message"])
        elif type_ == "content_block_start" and _is_dict(data.get("content_block")):
            self._get_part(data.get("index"), {}).update(data["content_block"])
        elif type_ == "content_block_delta" and _is_dict(data.get("delta")):
            _merge(self._get_part(data.get("index"), {}), data["delta"], skip="type")
        elif type_ == "message_delta" and self._body is not None:
            self._body.update(_dict(data.get("delta")))
            self._body["usage"] = {**_dict(self._body.get("usage")), **_dict(data.get("usage"))}

    def _add_gemini(self, data: dict[str, Json]) -> None:
        if self._body is None:
            self._body = {"candidates": []}
        self._body.update({name: v for name, v in data.items() if name != "candidates"})
        candidates = data.get("candidates")
        for candidate in filter(_is_dict, candidates if is_array(candidates) else []):
            part = self._get_part(
                candidate.get("index"), {"content": {"role": "model", "parts": []}}
            )
            content = _dict(candidate.get("content"))
            for piece in filter(_is_dict, content.get("parts") or []):
                _add_piece(part["content"]["parts"], piece)
            part.update({name: v for name, v in candidate.items() if name != "content"})

    def _add_ollama(self, data: dict[str, Json]) -> None:
        if self._body is None:
            self._body = {}
        for name, value in data.items():
            if name == "message":
                _merge(self._body.setdefault("message", {}), value)
            elif name == "response":
                _merge(self._body, {"response": value})
            else:
                self._body[name] = value

    def _add_cohere(self, data: dict[str, Json]) -> None:
        if self._body is None:
            self._body = {"message": {"role": "assistant", "content": []}}
        delta = _dict(data.get("delta"))
        message = _dict(delta.get("message"))
        if data.get("id"):
            self._body["id"] = data["id"]
        index = {"index": _index(data.get("index"))}
        for name in ("content", "tool_calls"):
            if _is_dict(message.get(name)):
                _merge(self._body["message"], {name: [{**index, **message[name]}]})
        if data["type"] == "message-end":
            self._body.update(delta)

    def _add_converse(self, name: str, data: dict[str, Json]) -> None:
        if self._body is None:
            self._body = {}
        if name == "messageStart":
            self._body["role"] = data.get("role")
        elif name == "contentBlockStart":
            self._get_part(data.get("contentBlockIndex"), {}).update(_dict(data.get("start")))
        elif name == "contentBlockDelta":
            _merge(self._get_part(data.get("contentBlockIndex"), {}), data.get("delta"))
        elif name in ("messageStop", "metadata"):
            self._body.update(data)

    def _add_other(self, data: dict[str, Json]) -> None:
        if self._body is None or "usage" in data or "usage" not in self._body:
            self._body = dict(data)

    def _get_part(self, index: Json, new: dict[str, Json]) -> dict[str, Any]:
        return self._parts.setdefault(_index(index), {"index": _index(index), **new})


def _merge(into: dict[str, Json], delta: Json, skip: str = "") -> None:
    """Add a delta: texts grow, lists merge by ``index``, other values are replaced."""
    if not isinstance(delta, dict):
        return
    for name, value in delta.items():
        if name == skip or (value is None and name in into):
            continue
        old = into.get(name)
        if isinstance(value, str) and name not in WHOLE_FIELDS:
            into[name] = _append_text(old, value)
        elif isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value)
        elif isinstance(value, list):
            into[name] = _merge_list(old if isinstance(old, list) else [], value)
        elif name not in WHOLE_FIELDS or not old:
            into[name] = _merge_into({}, value) if isinstance(value, dict) else value


def _merge_list(into: list[Json], items: list[Json]) -> list[Json]:
    for item in items:
        if not isinstance(item, dict) or "index" not in item:
            into.append(item)
            continue
        at = next(
            (old for old in filter(_is_dict, into) if old.get("index") == item["index"]), None
        )
        if at is None:
            into.append(_merge_into({}, item))
        else:
            _merge(at, item)
    return into


def _merge_into(into: dict[str, Json], delta: dict[str, Json]) -> dict[str, Json]:
    _merge(into, delta)
    return into


def _append_text(old: Json, piece: str) -> _GrowingText:
    text = (
        old
        if isinstance(old, _GrowingText)
        else _GrowingText([old] if isinstance(old, str) else [])
    )
    text.pieces.append(piece)
    return text


def _join_texts(value: Json) -> Json:
    """The value with growing texts joined, and without the ``index`` of tool calls."""
    if isinstance(value, _GrowingText):
        return "".join(value.pieces)
    if isinstance(value, list):
        return [_join_texts(item) for item in value]
    if isinstance(value, dict):
        value = {name: _join_texts(item) for name, item in value.items()}
        calls = value.get("tool_calls")
        for call in filter(_is_dict, calls if isinstance(calls, list) else ()):
            call.pop("index", None)
    return value


def _finished_block(block: dict[str, Json]) -> dict[str, Json]:
    """An Anthropic content block as a plain call returns it: its input parsed from JSON."""
    block = {name: value for name, value in block.items() if name != "index"}
    if text := block.pop("partial_json", ""):
        arguments = parse_json(text) if isinstance(text, str) else None
        block["input"] = (
            text if arguments is None else arguments
        )  # a stream that stopped in the middle
    return block


def _converse_blocks(parts: list[dict[str, Json]]) -> list[Json]:
    """Converse's content blocks as a plain call returns them: tool inputs parsed from JSON."""
    blocks = []
    for part in parts:
        block = {name: value for name, value in part.items() if name != "index"}
        use = block.get("toolUse")
        if isinstance(use, dict) and isinstance(use.get("input"), str):
            arguments = parse_json(use["input"])
            block["toolUse"] = {**use, "input": use["input"] if arguments is None else arguments}
        blocks.append(block)
    return blocks


def _add_piece(parts: list[Json], piece: dict[str, Json]) -> None:
    """Add a part of a Gemini reply; a text is appended to a text part before it."""
    last: dict[str, Json] = parts[-1] if parts else {}
    grows = set(last) == set(piece) and "text" in piece
    if grows and all(last[name] == piece[name] for name in piece if name != "text"):
        _merge(last, {"text": piece["text"]})
    else:
        parts.append(_merge_into({}, piece))


def _event_format(name: str, data: dict[str, Json]) -> str:
    """The format of an event, which several APIs may share."""
    if isinstance(data.get("choices"), list):
        return "chat"
    if name in _CONVERSE_EVENTS:
        return "converse"
    if isinstance(data.get("candidates"), list) or "usageMetadata" in data:
        return "gemini"
    if isinstance(data.get("done"), bool) and ("message" in data or "response" in data):
        return "ollama"
    kind = str(data.get("type"))
    if kind.startswith("response."):
        return "responses"
    if kind in _MESSAGES_EVENTS:
        return "messages"
    return "cohere" if kind in _COHERE_EVENTS else "other"


def _error(data: dict[str, Json]) -> Json:
    """The error that an event states. An error event of Responses has no field ``error``."""
    return data if data.get("type") == "error" and "error" not in data else data.get("error")


def _index(value: Json) -> int:
    return value if isinstance(value, int) else 0


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _is_dict(value: Json) -> bool:
    return isinstance(value, dict)
