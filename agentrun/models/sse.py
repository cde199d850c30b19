"""Server-sent events: bytes in, events out, and whether the provider said its last word.

Pure and incremental: any split of the bytes gives the same events. The terminal marker matters
because the end of the bytes is no proof of anything: a sync chat stream is closed by its SDK at
``[DONE]`` without reaching the end, and a stream that lost its server just ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrun.core.events import Json
from agentrun.core.parse import parsed

__all__ = ["ServerEvent", "SseParser", "is_terminal"]

# The last event of a stream: Responses, Anthropic.
TERMINAL_TYPES = ("response.completed", "response.failed", "response.incomplete", "message_stop")
DONE = "[DONE]"  # chat completions


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; ``data`` is its text, ``json`` the parsed text or None."""

    name: str
    data: str
    json: Json = None


def is_terminal(event: ServerEvent) -> bool:
    """Whether nothing the caller needs follows this event."""
    if event.data.startswith(DONE) or event.name in TERMINAL_TYPES:
        return True
    if not isinstance(event.json, dict):
        return False
    # An error that stands in a field is raised by the SDKs at once.
    return event.json.get("type") in TERMINAL_TYPES or bool(event.json.get("error"))


def is_error(event: ServerEvent) -> bool:
    """Whether this event may be the last: it tells of an error, and sometimes more follows."""
    said = event.json.get("type") if isinstance(event.json, dict) else None
    return "error" in (event.name, said)


class SseParser:
    """Collects bytes into events."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that ``piece`` completes."""
        lines = (self._rest + piece).splitlines(keepends=True)
        # A line is whole at its line feed; after a lone CR the LF may be in the next piece.
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
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        name, data = self._name, "\n".join(self._data)
        had_data = bool(self._data)
        self._name, self._data = "", []
        return ServerEvent(name, data, parsed(data)) if had_data else None
