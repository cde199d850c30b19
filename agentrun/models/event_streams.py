"""Parses event streams, and recognises the event that ends a reply.

Most providers send server-sent events. Ollama sends JSON lines, and Bedrock sends frames of
Amazon's event stream. The parsers are pure and incremental: any split of the bytes gives the same
events.

Why the terminal event matters: the end of the bytes proves nothing. An SDK closes a sync chat
stream at ``[DONE]`` without reading to the end, and a stream whose server died simply ends.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Protocol

from agentrun.core.events import Json
from agentrun.core.parse import parse_json

__all__ = ["DONE", "Parser", "ServerEvent", "SseParser", "is_stream", "is_terminal", "parser_of"]

# Types of the last event of a stream: Responses, Anthropic.
TERMINAL_TYPES = ("response.completed", "response.failed", "response.incomplete", "message_stop")
DONE = "[DONE]"  # chat completions
LAST_LINE = "last line"  # our name for Ollama's line with `done`
TERMINAL_NAMES = (*TERMINAL_TYPES, LAST_LINE)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; ``data`` is its text, ``json`` the parsed text, or None if it is not JSON."""

    name: str
    data: str
    json: Json = None


def is_terminal(event: ServerEvent) -> bool:
    """Whether this event ends the reply: the caller needs nothing after it."""
    if event.data.startswith(DONE) or event.name in TERMINAL_NAMES:
        return True
    if not isinstance(event.json, dict):
        return False
    # The SDKs raise an error in this field at once, and read no further.
    return event.json.get("type") in TERMINAL_TYPES or bool(event.json.get("error"))


class Parser(Protocol):
    """Collects bytes into events."""

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that ``piece`` completes."""
        ...

    def end(self) -> list[ServerEvent]:
        """The events that the end of the bytes completes."""
        ...


def parser_of(content_type: str) -> Parser:
    """The parser for a stream of this content type."""
    kind = content_type.partition(";")[0].strip().lower()
    return _PARSERS.get(kind, SseParser)()


def is_stream(content_type: str) -> bool:
    """Whether a reply of this content type is a stream of events."""
    return content_type.partition(";")[0].strip().lower() in _PARSERS


class LineParser:
    """JSON lines, as Ollama sends them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that ``piece`` completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [event for line in lines if (event := self._line(line)) is not None]

    def end(self) -> list[ServerEvent]:
        """The events that the end of the bytes completes."""
        return self.feed(b"\n")

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line.strip():
            return None
        text = line.decode("utf-8", "replace")
        value = parse_json(text)
        done = isinstance(value, dict) and value.get("done") is True
        return ServerEvent(LAST_LINE if done else "", text, value)


class FrameParser:
    """Amazon's event stream, as Bedrock sends it.

    A frame is its length, the length of its headers, a checksum, headers, payload, a checksum. The
    checksums are not verified here, because the SDK verifies them.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that ``piece`` completes."""
        self._rest += piece
        events = []
        while len(self._rest) >= 12:
            length = int.from_bytes(self._rest[:4])
            if length < 16 or len(self._rest) < length:
                break
            frame, self._rest = self._rest[:length], self._rest[length:]
            events.append(self._frame(frame))
        return events

    def end(self) -> list[ServerEvent]:
        """The events that the end of the bytes completes: none."""
        return []

    def _frame(self, frame: bytes) -> ServerEvent:
        behind = 12 + int.from_bytes(frame[4:8])
        headers = _frame_headers(frame[12:behind])
        value = parse_json(frame[behind:-4])
        if isinstance(value, dict) and isinstance(value.get("bytes"), str):
            value = parse_json(_decode_base64(value["bytes"]))
        if headers.get(":message-type") == "exception":
            kind = headers.get(":exception-type", "exception")
            value = {"error": {"type": kind, **(value if isinstance(value, dict) else {})}}
        return ServerEvent(headers.get(":event-type", ""), "", value)


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


def _frame_headers(data: bytes) -> dict[str, str]:
    """The headers of a frame, up to the first that is not a text (type 7); we need only texts."""
    headers = {}
    while len(data) > 4:
        name_ends = 1 + data[0]
        name = data[1:name_ends].decode("utf-8", "replace")
        if data[name_ends : name_ends + 1] != b"\x07":
            break
        value_starts = name_ends + 3
        value_ends = value_starts + int.from_bytes(data[name_ends + 1 : value_starts])
        headers[name] = data[value_starts:value_ends].decode("utf-8", "replace")
        data = data[value_ends:]
    return headers


class SseParser:
    """Server-sent events."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._is_text = True  # the current event is valid UTF-8, which clients require

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that ``piece`` completes."""
        lines = (self._rest + piece).splitlines(keepends=True)
        # A line is complete at its line feed: after a CR, the LF may come in the next piece.
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        return self._take(lines)

    def end(self) -> list[ServerEvent]:
        """The events that the end of the bytes completes."""
        rest, self._rest = self._rest, b""
        return self._take([rest, b"\n"])

    def _take(self, lines: list[bytes]) -> list[ServerEvent]:
        found = (self._line(line.rstrip(b"\r\n")) for line in lines)
        return [event for event in found if event is not None]

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        text = line.decode("utf-8", "replace")
        self._is_text = self._is_text and text.encode() == line
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        name, data = self._name, "\n".join(self._data)
        had_data, is_text = bool(self._data), self._is_text
        self._name, self._data, self._is_text = "", [], True
        return ServerEvent(name, data, parse_json(data) if is_text else None) if had_data else None


_PARSERS: dict[str, type[SseParser] | type[LineParser] | type[FrameParser]] = {
    "text/event-stream": SseParser,
    "application/x-ndjson": LineParser,
    "application/vnd.amazon.eventstream": FrameParser,
}
