"""Masks the tool arguments in a reply that must never be stored (``masked=`` of a tool).

The reply is masked before the agent's code or the journal gets it. A stream is therefore read to
its end first: an argument comes in pieces, and one piece alone may hold part of a secret. The whole
masked text is then put where the first piece was, and the other pieces become empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from agentrun.core.covered import known_names, mask_arguments, mask_calls
from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.recorder import ModelRequest

__all__ = ["mask_reply", "may_hold_masked"]

_OFFERS = ("tools", "functions", "toolConfig")  # where a request lists its tools
_EVENT_END = re.compile(rb"(\r?\n\r?\n|\r\r)")  # between two events of a stream
_EVENTS = "text/event-stream"
_FRAMES = "application/vnd.amazon.eventstream"


def may_hold_masked(request: ModelRequest) -> bool:
    """Whether the reply may call a tool with arguments that are never stored."""
    known = known_names()
    if not known or not isinstance(request.body, dict):
        return bool(known) and request.is_lookup
    offers = [request.body[name] for name in _OFFERS if request.body.get(name)]
    if not offers:  # the tools may be stored at the provider
        return request.is_lookup or isinstance(request.body.get("prompt"), dict)
    return not known.isdisjoint(_tool_names(offers))


def mask_reply(content_type: str, content: bytes) -> bytes:
    """The bytes of a reply with such arguments masked; the same object if it has none.

    Raises ConfigError for a stream in a format that cannot be rewritten.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _FRAMES:
        raise ConfigError(
            "a tool with masked= parameters was offered in a stream of Amazon's binary events, "
            "which agentrun cannot mask. Make the call without streaming, or mask only what people "
            "are shown, with agentrun.mask(names=[…])"
        )
    if kind == _EVENTS or content.lstrip().startswith((b"data:", b"event:", b":")):
        return _EventStream(content).rewrite()
    if kind == "application/x-ndjson":
        return b"".join(_mask_json(line) for line in content.splitlines(keepends=True))
    return _mask_json(content)


def _mask_json(content: bytes) -> bytes:
    try:
        value = json.loads(content)
        masked = mask_calls(value, known_names())
    except (ValueError, RecursionError):
        return content  # not JSON, so no client reads tool calls from it
    if masked is value:
        return content
    return _dump(masked) + (b"\n" if content.endswith(b"\n") else b"")


def _dump(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def _tool_names(value: Json) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("name"), str):
            yield value["name"]
        value = [*value.values()]
    if isinstance(value, list):
        for item in value:
            yield from _tool_names(item)


class _EventStream:
    """Server-sent events, in which the pieces of each call's arguments are joined."""

    def __init__(self, content: bytes) -> None:
        self._content, self._tool_names = content, known_names()
        self._blocks = _EVENT_END.split(content)  # events, and the separators between them
        self._events = [_event_json(block) for block in self._blocks]
        self._tools: dict[tuple[Any, ...], str] = {}
        self._pieces: dict[tuple[Any, ...], list[tuple[dict[str, Json], str]]] = {}

    def rewrite(self) -> bytes:
        before = [json.dumps(event) for event in self._events]
        for event in self._events:
            self._read(event)
        for at, pieces in self._pieces.items():
            self._mask_pieces(self._tools.get(at, ""), pieces)
        masked = [mask_calls(event, self._tool_names) for event in self._events]
        changed = [json.dumps(new) != old for new, old in zip(masked, before, strict=True)]
        if not any(changed):
            return self._content
        return b"".join(
            _rewrite_event(block, event) if new else block
            for block, event, new in zip(self._blocks, masked, changed, strict=True)
        )

    def _read(self, event: Json) -> None:
        if not isinstance(event, dict):
            return
        for choice in _dicts(event.get("choices")):  # chat completions
            delta = choice.get("delta")
            if isinstance(delta, dict):
                for call in _dicts(delta.get("tool_calls")):
                    self._add_function(
                        (choice.get("index"), call.get("index")), call.get("function")
                    )
                self._add_function(
                    (choice.get("index"), "function_call"), delta.get("function_call")
                )
        for item in ("item", "content_block"):  # Responses; Anthropic
            if isinstance(opened := event.get(item), dict) and isinstance(opened.get("name"), str):
                self._tools[event.get("output_index", event.get("index")), None] = opened["name"]
        at = (event.get("output_index", event.get("index")), None)
        if event.get("type") == "response.function_call_arguments.delta":
            self._add(at, event, "delta")
        elif event.get("type") == "response.function_call_arguments.done":
            self._mask_pieces(self._tools.get(at, ""), [(event, "arguments")])
        elif isinstance(delta := event.get("delta"), dict) and "partial_json" in delta:
            self._add(at, delta, "partial_json")

    def _add_function(self, at: tuple[Any, ...], function: Json) -> None:
        if isinstance(function, dict):
            named = isinstance(function.get("name"), str) and function["name"]
            # Some providers give all calls the same index. Their pieces are then joined, and masked
            # if one of the calls is of a tool with masked parameters.
            if named and self._tools.get(at) not in self._tool_names:
                self._tools[at] = function["name"]
            if isinstance(function.get("arguments"), str):
                self._add(at, function, "arguments")

    def _add(self, at: tuple[Any, ...], holder: dict[str, Json], name: str) -> None:
        if isinstance(holder.get(name), str):
            self._pieces.setdefault(at, []).append((holder, name))

    def _mask_pieces(self, tool: str, pieces: list[tuple[dict[str, Json], str]]) -> None:
        if tool in self._tool_names:
            whole = "".join(str(holder.get(name, "")) for holder, name in pieces)
            masked = mask_arguments(tool, whole)
            for holder, name in pieces:
                holder[name], masked = masked, ""


def _dicts(value: Json) -> list[dict[str, Json]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _event_json(block: bytes) -> Json:
    """The JSON data of an event; None if it has none."""
    data = [line[5:].strip() for line in block.splitlines() if line.startswith(b"data:")]
    try:
        return json.loads(b"\n".join(data)) if data else None
    except (ValueError, RecursionError):
        return None


def _rewrite_event(block: bytes, event: Json) -> bytes:
    """The bytes of an event with its data replaced."""
    kept = [line for line in block.splitlines() if line and not line.startswith(b"data:")]
    return b"\n".join([*kept, b"data: " + _dump(event)])
