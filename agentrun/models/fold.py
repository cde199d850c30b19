"""Folds the events of a streamed reply into the body that a plain call would have given.

One fold for each of the three APIs; which one it is shows in the events themselves. The result is
for reading and accounting; what is handed out again on a resume are the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentrun.core.events import Json
from agentrun.core.parse import parsed
from agentrun.models.sse import ServerEvent

__all__ = ["StreamFold"]

# Fields of a delta that are said, not spelled: some servers repeat them with every chunk.
WHOLE_FIELDS = frozenset({"id", "type", "role", "name", "index"})


@dataclass(frozen=True, slots=True)
class _Text:
    """A text under way, kept as its pieces: joining at each would be quadratic."""

    pieces: list[str]


class StreamFold:
    """Takes events one by one; ``result()`` is the reply so far, None before the first."""

    def __init__(self) -> None:
        self._api = ""  # the one that the first event shows; events of another are left out
        self._body: dict[str, Json] | None = None
        self._parts: dict[int, dict[str, Json]] = {}  # choices, output items, content blocks

    def add(self, event: ServerEvent) -> None:
        """Take the next event; what is not understood is left out."""
        data = event.json
        if not isinstance(data, dict):
            return
        if (error := _error(data)) is not None:
            self._body = {**(self._body or {}), "error": error}
            return
        api = _api(data)
        self._api = self._api or api
        if api == self._api:
            {"chat": self._chat, "responses": self._responses, "messages": self._messages}[api](
                data
            )

    def result(self) -> Json:
        """The reply as a JSON value."""
        if self._body is None:
            return None
        body: dict[str, Json] = _joined(self._body)
        parts = [_joined(self._parts[index]) for index in sorted(self._parts)]
        if self._api == "chat":
            body["choices"] = parts
        elif self._api == "responses":
            body["output"] = body.get("output") or parts
        elif self._api == "messages":
            body["content"] = [_finished_block(part) for part in parts]
        return body

    def _chat(self, chunk: dict[str, Json]) -> None:
        if self._body is None:
            self._body = {"object": "chat.completion", "choices": []}
        for name, value in chunk.items():
            if name not in ("object", "choices") and value is not None:
                self._body[name] = value
        for choice in filter(_is_dict, chunk["choices"]):
            part = self._part(choice.get("index"), {"message": {}, "finish_reason": None})
            _merge(part["message"], choice.get("delta"))
            if isinstance(choice.get("logprobs"), dict):
                _merge(part.setdefault("logprobs", {}), choice["logprobs"])
            if choice.get("finish_reason") is not None:
                part["finish_reason"] = choice["finish_reason"]

    def _responses(self, data: dict[str, Json]) -> None:
        if isinstance(data.get("response"), dict):
            self._body = {"object": "response", **data["response"]}
        elif data["type"] == "response.output_item.done" and _is_dict(data.get("item")):
            self._parts[_index(data.get("output_index"))] = data["item"]
        elif data["type"] == "response.output_text.delta" and isinstance(data.get("delta"), str):
            # Until the item is whole: it comes with all its text then.
            index = _index(data.get("output_index"))
            part = self._parts.setdefault(index, {"type": "message", "role": "assistant"})
            text = {"index": _index(data.get("content_index")), "text": data["delta"]}
            _merge(part, {"content": [{"type": "output_text", **text}]})

    def _messages(self, data: dict[str, Json]) -> None:
        type_ = data.get("type")
        if type_ == "message_start" and _is_dict(data.get("message")):
            self._body = dict(data["message"])
        elif type_ == "content_block_start" and _is_dict(data.get("content_block")):
            self._part(data.get("index"), {}).update(data["content_block"])
        elif type_ == "content_block_delta" and _is_dict(data.get("delta")):
            _merge(self._part(data.get("index"), {}), data["delta"], skip="type")
        elif type_ == "message_delta" and self._body is not None:
            self._body.update(_dict(data.get("delta")))
            self._body["usage"] = {**_dict(self._body.get("usage")), **_dict(data.get("usage"))}

    def _part(self, index: Json, new: dict[str, Json]) -> dict[str, Any]:
        return self._parts.setdefault(_index(index), {"index": _index(index), **new})


def _merge(into: dict[str, Json], delta: Json, skip: str = "") -> None:
    """Add a delta: texts grow, lists merge by ``index``, anything else is replaced."""
    if not isinstance(delta, dict):
        return
    for name, value in delta.items():
        if name == skip or (value is None and name in into):
            continue
        old = into.get(name)
        if isinstance(value, str) and name not in WHOLE_FIELDS:
            into[name] = _text(old, value)
        elif isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value)
        elif isinstance(value, list):
            into[name] = _merge_list(old if isinstance(old, list) else [], value)
        elif name not in WHOLE_FIELDS or not old:
            into[name] = _merged({}, value) if isinstance(value, dict) else value


def _merge_list(into: list[Json], items: list[Json]) -> list[Json]:
    for item in items:
        if not isinstance(item, dict) or "index" not in item:
            into.append(item)
            continue
        at = next(
            (old for old in filter(_is_dict, into) if old.get("index") == item["index"]), None
        )
        if at is None:
            into.append(_merged({}, item))
        else:
            _merge(at, item)
    return into


def _merged(into: dict[str, Json], delta: dict[str, Json]) -> dict[str, Json]:
    _merge(into, delta)
    return into


def _text(old: Json, piece: str) -> _Text:
    text = old if isinstance(old, _Text) else _Text([old] if isinstance(old, str) else [])
    text.pieces.append(piece)
    return text


def _joined(value: Json) -> Json:
    """The value with its texts under way written out; the index of tool calls goes with them."""
    if isinstance(value, _Text):
        return "".join(value.pieces)
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, dict):
        value = {name: _joined(item) for name, item in value.items()}
        calls = value.get("tool_calls")
        for call in filter(_is_dict, calls if isinstance(calls, list) else ()):
            call.pop("index", None)
    return value


def _finished_block(block: dict[str, Json]) -> dict[str, Json]:
    """An Anthropic content block as the plain API gives it: the JSON of its input parsed."""
    block = {name: value for name, value in block.items() if name != "index"}
    if text := block.pop("partial_json", ""):
        given = parsed(text) if isinstance(text, str) else None
        block["input"] = text if given is None else given  # a stream that stopped in the middle
    return block


def _api(data: dict[str, Json]) -> str:
    """Which API's event this is."""
    if isinstance(data.get("choices"), list):
        return "chat"
    return "responses" if str(data.get("type")).startswith("response.") else "messages"


def _error(data: dict[str, Json]) -> Json:
    """What went wrong, if that is what this event tells; Responses tells it without a field."""
    return data if data.get("type") == "error" and "error" not in data else data.get("error")


def _index(value: Json) -> int:
    return value if isinstance(value, int) else 0


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _is_dict(value: Json) -> bool:
    return isinstance(value, dict)
