"""Malformed replies, as bytes: what a broken or hostile provider may send, for each API.

A name leads to what is sent. What is malformed is a change to a reply that is well-formed and asks
for two tool calls; a stream is broken in its frame, its events, or what they hold.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from sayings import Saying

__all__ = ["BODIES", "STREAMS"]

Path = tuple[str | int, ...]

MISSING = object()
DEEP = {levels: "[" * levels + "]" * levels for levels in (150, 199, 200, 250, 900, 5_000)}
LONG = 9_999
ASTRAL = "😀".encode()


def _call(number: int, arguments: str) -> dict[str, Any]:
    function = {"name": "look", "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-5-mini",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [_call(1, '{"at": "a"}'), _call(2, '{"at": "b"}')],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-5-mini",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look",
         "arguments": '{"at": "a"}', "status": "completed"},
        {"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "look",
         "arguments": '{"at": "b"}', "status": "completed"},
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-double",
    "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "a"}},
        {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {"at": "b"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 5},
}

# -- a value in another's place ------------------------------------------------------------------

# What stands where something else belongs, as JSON text, so that it need not be a Python value.
OTHERS = {
    "null": "null",
    "number": "7",
    "true": "true",
    "text": '"text"',
    "empty text": '""',
    "object": '{"odd": 1}',
    "empty object": "{}",
    "list": "[1, null, {}]",
    "empty list": "[]",
    "NaN": "NaN",
    "infinity": "1e999",
    "a number of 5000 digits": "1" + "0" * 5_000,
    "a number of 4300 digits": "9" * 4_300,
    "NUL": r'"a\u0000b"',
    "a lone surrogate": r'"a\ud800b"',
    "200 levels": DEEP[200],
    "900 levels": DEEP[900],
}
# Where it is put, in each API: what agentrun or an SDK reads.
PLACES: dict[str, tuple[dict[str, Any], tuple[Path, ...]]] = {
    "chat": (
        CHAT,
        (
            (),
            ("id",),
            ("model",),
            ("usage",),
            ("usage", "prompt_tokens"),
            ("choices",),
            ("choices", 0),
            ("choices", 0, "finish_reason"),
            ("choices", 0, "message"),
            ("choices", 0, "message", "role"),
            ("choices", 0, "message", "content"),
            ("choices", 0, "message", "tool_calls"),
            ("choices", 0, "message", "tool_calls", 0),
            ("choices", 0, "message", "tool_calls", 0, "id"),
            ("choices", 0, "message", "tool_calls", 0, "type"),
            ("choices", 0, "message", "tool_calls", 0, "function"),
            ("choices", 0, "message", "tool_calls", 0, "function", "name"),
            ("choices", 0, "message", "tool_calls", 0, "function", "arguments"),
            ("unknown",),
        ),
    ),
    "responses": (
        RESPONSE,
        (
            (),
            ("id",),
            ("status",),
            ("usage",),
            ("usage", "input_tokens"),
            ("output",),
            ("output", 0),
            ("output", 0, "type"),
            ("output", 0, "content"),
            ("output", 0, "content", 0),
            ("output", 0, "content", 0, "text"),
            ("output", 1),
            ("output", 1, "call_id"),
            ("output", 1, "name"),
            ("output", 1, "arguments"),
            ("unknown",),
        ),
    ),
    "messages": (
        MESSAGE,
        (
            (),
            ("id",),
            ("role",),
            ("usage",),
            ("usage", "input_tokens"),
            ("stop_reason",),
            ("content",),
            ("content", 0),
            ("content", 0, "type"),
            ("content", 0, "text"),
            ("content", 1),
            ("content", 1, "id"),
            ("content", 1, "name"),
            ("content", 1, "input"),
            ("content", 1, "input", "at"),
            ("unknown",),
        ),
    ),
}
_HOLE = "\ue000"


def _with(body: Any, path: Path, other: str | None) -> bytes:
    """The JSON text of ``body`` with ``other`` at ``path``; None: without what is there."""
    if not path:
        return (other or "").encode()
    changed = deepcopy(body)
    inside = changed
    for part in path[:-1]:
        inside = inside[part]
    if other is None:
        del inside[path[-1]]
        return json.dumps(changed).encode()
    inside[path[-1]] = _HOLE
    return json.dumps(changed).replace(json.dumps(_HOLE), other).encode()


def _plain(raw: bytes, status: int = 200, **headers: str) -> Saying:
    every = {"content-type": "application/json", **headers}
    pairs = tuple((name.replace("_", "-"), value) for name, value in every.items())
    return Saying((raw,) if raw else (), status, pairs)


# -- bodies --------------------------------------------------------------------------------------


def _texts(body: dict[str, Any]) -> dict[str, bytes]:
    """Whole bodies that are wrong as text."""
    text = json.dumps(body)
    return {
        "blanks": b" \n ",
        "no JSON": b"{not json",
        "half a body": text[: len(text) // 2].encode(),
        "something after it": text.encode() + b"}garbage",
        "two bodies": text.encode() * 2,
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "invalid UTF-8": text.replace("I look.", "\udcff\udc80", 1).encode(
            errors="surrogateescape"
        ),
        "half a character": text.replace("I look.", "@").encode().replace(b"@", ASTRAL[:2]),
        "NUL bytes": text.encode().replace(b" ", b"\0"),
        "blanks and line ends": json.dumps(body, indent=7).replace("\n", "\r\n").encode(),
        "duplicate keys": text.replace('"id"', '"model": "other", "model": 7, "id"', 1).encode(),
        "three megabytes": text.replace("I look.", "look " * 600_000, 1).encode(),
        "an error": b'{"error": {"message": "no", "type": 7, "code": []}}',
        "an error that is text": b'{"error": "no"}',
        "a page": b"<html><script>alert(1)</script></html>",
    }


def _asks(api: str, body: dict[str, Any]) -> dict[str, bytes]:
    """Tool calls that cannot be made, in a body that is well-formed otherwise."""
    place: dict[str, Path] = {
        "chat": ("choices", 0, "message", "tool_calls", 0, "function", "arguments"),
        "responses": ("output", 1, "arguments"),
        "messages": ("content", 1, "input"),
    }
    name: Path = (*place[api][:-1], "name")
    inside = {
        "cut off": '{"at": "a',
        "no JSON": "at=a",
        "not an object": "[1]",
        "NaN": '{"at": NaN}',
        "infinity": '{"at": 1e999}',
        "of wrong type": '{"at": {"x": []}}',
        "with one too many": '{"at": "a", "much": 1}',
        "a number of 4300 digits": '{"at": %s}' % ("9" * 4_300),
        "a number of 5000 digits": '{"at": %s}' % ("9" * 5_000),
        "NUL": r'{"at": "\u0000"}',
        "a lone surrogate": r'{"at": "\ud800", "\udfff": 1}',
        "empty": "",
        "blank": "  ",
        **{f"{levels} levels": f'{{"at": {text}}}' for levels, text in DEEP.items()},
    }
    as_text = api != "messages"
    asked = {
        f"arguments {what}": _with(body, place[api], json.dumps(text) if as_text else text)
        for what, text in inside.items()
        if as_text or _is_json(text)
    }
    names = {
        "unknown": "nobody",
        "hostile": "\x1b[2J<b>%s{}'\";--",
        "100,000 characters": "x" * 100_000,
    }
    asked |= {f"name {what}": _with(body, name, json.dumps(text)) for what, text in names.items()}
    return asked


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _bodies(api: str) -> dict[str, Saying]:
    body, places = PLACES[api]
    said = {
        f"{'.'.join(map(str, path)) or 'the body'}: {what}": _plain(_with(body, path, other))
        for path in places
        for what, other in OTHERS.items()
    }
    said |= {
        f"{'.'.join(map(str, path))}: missing": _plain(_with(body, path, None))
        for path in places
        if path and path != ("unknown",)
    }
    said |= {what: _plain(raw) for what, raw in (_texts(body) | _asks(api, body)).items()}
    whole = json.dumps(body).encode()
    squeezed = zlib.compress(whole, wbits=16 + zlib.MAX_WBITS)
    said |= {
        "no body": _plain(b""),
        "204 and no body": _plain(b"", 204),
        "told to be text": _plain(whole, content_type="text/plain"),
        "told to be a page": _plain(whole, content_type="text/html; charset=utf-8"),
        "told to be events": _plain(whole, content_type="text/event-stream"),
        "told to be nothing": _plain(whole, content_type=""),
        "told to be UTF-16": _plain(whole, content_type="application/json; charset=utf-16"),
        "told to be of no known charset": _plain(whole, content_type="application/json; charset=x"),
        "told to be gzip": _plain(whole, content_encoding="gzip"),
        "told to be deflate": _plain(whole, content_encoding="deflate"),
        "told to be of no known encoding": _plain(whole, content_encoding="rot13"),
        "half of a gzip": _plain(squeezed[: len(squeezed) // 2], content_encoding="gzip"),
        "gzip": _plain(squeezed, content_encoding="gzip"),
        "a header that is not ASCII": _plain(whole, x_odd="caf\xe9 \x7f"),
    }
    for status in (400, 401, 409, 418, 429, 500, 599):
        said |= {
            f"{status}: {what}": _plain(raw, status)
            for what, raw in {
                "empty": b"",
                "a page": b"<html>busy</html>",
                "no object": b'["no"]',
                "an odd error": b'{"error": {"message": {"a": [1]}, "code": null}}',
                "NaN": b'{"error": NaN}',
                "deep": b'{"error": %s}' % DEEP[900].encode(),
                "invalid UTF-8": b'{"error": {"message": "\xff"}}',
            }.items()
        }
    return said


# -- streams -------------------------------------------------------------------------------------


def _chunk(delta: Any = MISSING, finish: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {} if delta is MISSING else delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": "gpt-5-mini", "choices": [choice], **more}  # fmt: skip


def _streamed_chat() -> list[dict[str, Any]]:
    asked = [{"index": n, **_call(n, "")} for n in (0, 1)]
    parts = [{"index": n, "function": {"arguments": f'{{"at": "{n}"}}'}} for n in (0, 1)]
    return [
        _chunk({"role": "assistant", "content": "I "}),
        _chunk({"content": "look."}),
        _chunk({"tool_calls": asked}),
        _chunk({"tool_calls": parts}),
        _chunk({}, "tool_calls"),
    ]


def _streamed_response() -> list[dict[str, Any]]:
    begun = {**RESPONSE, "status": "in_progress", "output": []}
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0,
             "content_index": 0, "delta": "I look.", "logprobs": []}  # fmt: skip
    items = [
        {"type": "response.output_item.done", "output_index": n, "item": item}
        for n, item in enumerate(RESPONSE["output"])
    ]
    done = {"type": "response.completed", "response": RESPONSE}
    events = [{"type": "response.created", "response": begun}, delta, *items, done]
    return [{**event, "sequence_number": n} for n, event in enumerate(events)]


def _streamed_message() -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}}
    ]
    for index, block in enumerate(MESSAGE["content"]):
        if block["type"] == "text":
            begun, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            begun = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events += [
            {"type": "content_block_start", "index": index, "content_block": begun},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    stopped = {"stop_reason": "tool_use", "stop_sequence": None}
    return [
        *events,
        {"type": "message_delta", "delta": stopped, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


EVENTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "chat": _streamed_chat,
    "responses": _streamed_response,
    "messages": _streamed_message,
}
# Which event is changed, and where in it.
EVENT_PLACES: dict[str, tuple[tuple[int, tuple[Path, ...]], ...]] = {
    "chat": (
        (1, ((), ("id",), ("choices",), ("choices", 0), ("choices", 0, "index"),
             ("choices", 0, "delta"), ("choices", 0, "delta", "content"), ("unknown",),
             ("choices", 0, "finish_reason"), ("usage",), ("type",), ("error",))),
        (3, (("choices", 0, "delta", "tool_calls"), ("choices", 0, "delta", "tool_calls", 0),
             ("choices", 0, "delta", "tool_calls", 0, "index"),
             ("choices", 0, "delta", "tool_calls", 0, "function"),
             ("choices", 0, "delta", "tool_calls", 0, "function", "arguments"))),
    ),
    "responses": (
        (1, ((), ("type",), ("delta",), ("output_index",), ("content_index",), ("item_id",),
             ("error",))),
        (3, (("item",), ("item", "arguments"), ("item", "name"), ("output_index",))),
        (5, (("response",), ("response", "output"), ("response", "usage"))),
    ),
    "messages": (
        (0, ((), ("message",), ("message", "usage"), ("message", "content"))),
        (2, ((), ("type",), ("index",), ("delta",), ("delta", "type"), ("delta", "text"))),
        (5, (("delta", "partial_json"), ("index",))),
        (10, (("delta",), ("usage",), ("delta", "stop_reason"))),
    ),
}  # fmt: skip


def _framed(data: bytes, name: str = "") -> bytes:
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"


def _frames(api: str, events: Iterable[dict[str, Any]]) -> list[bytes]:
    named = api != "chat"
    frames = [_framed(json.dumps(e).encode(), e["type"] if named else "") for e in events]
    return frames if named else [*frames, _framed(b"[DONE]")]


def _stream(*pieces: bytes, broken: bool = False, **headers: str) -> Saying:
    every = {"content-type": "text/event-stream", **headers}
    pairs = tuple((name.replace("_", "-"), value) for name, value in every.items())
    return Saying(tuple(piece for piece in pieces if piece), 200, pairs, broken)


def _changed_events(api: str) -> dict[str, Saying]:
    """Each stream with one event that holds something else somewhere."""
    said = {}
    for number, places in EVENT_PLACES[api]:
        event = EVENTS[api]()[number]
        name = "" if api == "chat" else event["type"]
        for path in places:
            for what, other in OTHERS.items():
                frames = _frames(api, EVENTS[api]())
                frames[number] = _framed(_with(event, path, other), name)
                where = ".".join(map(str, path)) or "the event"
                said[f"event {number}, {where}: {what}"] = _stream(*frames)
    return said


def _broken_frames(api: str) -> dict[str, Saying]:
    """Streams that are wrong as bytes, or in the order of their events."""
    frames = _frames(api, EVENTS[api]())
    whole = b"".join(frames)
    astral = whole.replace(b"I look.", ASTRAL).replace(b"look.", ASTRAL)
    first, rest = frames[0], frames[1:]
    error = {"type": "error", "error": {"type": "overloaded", "message": "busy"}}
    bare = {"type": "error", "code": "busy", "message": "busy", "param": None}
    name = "" if api == "chat" else "error"
    other = "messages" if api == "chat" else "chat"
    return {
        "nothing": _stream(),
        "only its end": _stream(frames[-1]),
        "its end first": _stream(frames[-1], *frames),
        "its end twice": _stream(*frames, frames[-1]),
        "more after its end": _stream(*frames, first, frames[1]),
        "more after its end, in one piece": _stream(whole + first + frames[1]),
        "[DONE] after its end": _stream(*frames, _framed(b"[DONE]")),
        "no end": _stream(*frames[:-1]),
        "no end and no first event": _stream(*frames[1:-1]),
        "broken off": _stream(*frames[:2], broken=True),
        "broken off in a frame": _stream(first, frames[1][:20], broken=True),
        "broken off after its end": _stream(*frames, broken=True),
        "no blank line at the end": _stream(whole.rstrip(b"\n")),
        "comments": _stream(b": hello\n\n", *[frame + b": ping\n\n" for frame in frames]),
        "CRLF": _stream(whole.replace(b"\n", b"\r\n")),
        "CR": _stream(whole.replace(b"\n", b"\r")),
        "line ends cut in two": _stream(*_cut(whole.replace(b"\n", b"\r\n"), 1)),
        "bytes one by one": _stream(*_cut(astral, 1)),
        "three bytes at a time": _stream(*_cut(astral, 3)),
        "in one piece": _stream(whole),
        "no blank after the colon": _stream(whole.replace(b"data: ", b"data:")),
        "unknown fields": _stream(*[b"id: 7\nretry: x\nodd: 1\n" + frame for frame in frames]),
        "lines that are no fields": _stream(first, b"garbage\n\nmore: garbage\x00\xff\n\n", *rest),
        "events without data": _stream(first, b"event: ping\n\n", b"\n\n\n", *rest),
        "empty data": _stream(first, _framed(b""), *rest),
        "data in two lines": _stream(*[_in_two(frame) for frame in frames]),
        "data that is no JSON": _stream(first, _framed(b"{half"), *rest),
        "data that is no object": _stream(first, _framed(b'[1, "x", null]'), *rest),
        "invalid UTF-8": _stream(whole.replace(b"look.", b"\xff\x80")),
        "half a character": _stream(whole.replace(b"look.", ASTRAL[:2])),
        "NUL bytes": _stream(whole.replace(b"look.", b"lo\0ok")),
        "a byte order mark": _stream(b"\xef\xbb\xbf" + whole),
        "a line of three megabytes": _stream(whole.replace(b"look.", b"look " * 600_000)),
        "an error": _stream(first, _framed(json.dumps(error).encode(), name)),
        "an error and more": _stream(first, _framed(json.dumps(error).encode(), name), *rest),
        "an error without its field": _stream(first, _framed(json.dumps(bare).encode(), name)),
        "an error without its field, and more": _stream(
            first, _framed(json.dumps(bare).encode(), name), *rest
        ),
        "an unknown event": _stream(first, _framed(b'{"type": "odd.event"}', "odd.event"), *rest),
        "a name in place of its end": _stream(first, _framed(b"{}", "message_stop"), *rest),
        "events of another API": _stream(
            first, *_frames(other, EVENTS[other]()), *rest
        ),
        "told to be JSON": _stream(*frames, content_type="application/json"),
        "told to be text": _stream(*frames, content_type="text/plain"),
        "told in capitals": _stream(*frames, content_type="Text/Event-Stream; charset=UTF-8"),
        "told to be gzip": _stream(*frames, content_encoding="gzip"),
        "told to be of no known encoding": _stream(*frames, content_encoding="rot13"),
    }  # fmt: skip


def _cut(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def _in_two(frame: bytes) -> bytes:
    """A frame whose data stands in two lines, which a line feed joins: JSON does not mind."""
    return frame.replace(b", ", b",\ndata: ", 1)


BODIES: dict[str, dict[str, Saying]] = {api: _bodies(api) for api in PLACES}
STREAMS: dict[str, dict[str, Saying]] = {
    api: {**_broken_frames(api), **_changed_events(api)} for api in EVENTS
}
