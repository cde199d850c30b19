"""Turns HTTP responses into recorded replies and back, byte for byte, without cookies."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from agentrun.core.events import Json
from agentrun.core.parse import parsed
from agentrun.core.recorder import Ending, ModelReply, ModelRequest
from agentrun.models.fold import StreamFold
from agentrun.models.sse import ServerEvent, SseParser, is_error, is_terminal
from agentrun.models.usage import usage_of

__all__ = [
    "Inflater",
    "Tape",
    "decoded",
    "error_name",
    "failed_reply",
    "flows",
    "is_event_stream",
    "rebuilt_error",
    "tape_all",
]

SECRET_HEADERS = frozenset(
    {"set-cookie", "cookie", "authorization", "proxy-authorization", "api-key", "x-api-key"}
)
ENCODED_ONLY = frozenset({"content-encoding", "content-length"})  # not true of decoded bytes
GZIP = frozenset({"gzip", "x-gzip"})


class Tape:
    """Everything of one response that is kept: its status, headers and content-decoded bytes.

    ``stream`` tells server-sent events; ``ended`` becomes true with their terminal marker, or at
    the end of the bytes where their last word was an error.
    """

    def __init__(self, request: ModelRequest, response: Any, *, stream: bool) -> None:
        self.ended = self._failed = False
        self._request = request
        self._status: int = response.status_code
        self._headers = _kept_headers(response.headers)
        self.stream = stream
        self._pieces: list[bytes] = []
        self._parser, self._fold = SseParser(), StreamFold()

    def take(self, piece: bytes) -> None:
        """Add content-decoded bytes."""
        self._pieces.append(piece)
        if self.stream:
            self._read(self._parser.feed(piece))

    def end(self) -> None:
        """The bytes are at their end."""
        if self.stream:
            self._read(self._parser.end())
            self.ended = self.ended or self._failed

    def so_far(self) -> Json:
        """What a stream has said until now, as the body of a plain call."""
        return self._fold.result()

    def reply(
        self, ending: Ending = "complete", error: tuple[str, str] | None = None
    ) -> ModelReply:
        """The reply as it is recorded."""
        raw = b"".join(self._pieces)
        body = self._fold.result() if self.stream else parsed(raw)
        named = body.get("model") if isinstance(body, dict) else None
        asked = self._request
        return ModelReply(
            status=self._status,
            headers=self._headers,
            raw=raw,
            body=body,
            stream=self.stream,
            ending=ending,
            error=error,
            model=named if isinstance(named, str) else asked.model,
            usage=usage_of(asked.api, asked.url, asked.model, body),
        )

    def _read(self, events: Iterable[ServerEvent]) -> None:
        for event in events:
            if not self.ended:
                self._fold.add(event)
                self.ended, self._failed = is_terminal(event), is_error(event)


def tape_all(request: ModelRequest, response: Any, raw: bytes) -> Tape:
    """The tape of a response whose (decoded) bytes are all there."""
    tape = Tape(request, response, stream=is_event_stream(response))
    tape.take(raw)
    tape.end()
    return tape


def flows(request: ModelRequest, response: Any) -> bool:
    """Whether the response is handed on as it arrives: the streams that can be read so.

    Anything else is read to its end first. An error is plain JSON, also when a stream was asked
    for; encodings other than gzip cannot be undone piece by piece with what is always installed.
    """
    if not request.stream or response.status_code >= 400:
        return False
    return is_event_stream(response) and _encoding(response) in GZIP | {"", "identity"}


def decoded(hx: Any, response: Any, wire: bytes) -> bytes:
    """The content of a whole body as it came over the wire; raises the client's DecodingError."""
    encoding = _encoding(response)
    if encoding in ("", "identity"):
        return wire
    copy = hx.Response(200, headers={"content-encoding": encoding}, stream=hx.ByteStream(wire))
    content: bytes = copy.read()
    return content


class Inflater:
    """Undoes the gzip of a flowing response; passes other bytes through."""

    def __init__(self, hx: Any, response: Any) -> None:
        self._hx = hx
        gzip = _encoding(response) in GZIP
        self._undo = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress if gzip else bytes

    def __call__(self, wire: bytes) -> bytes:
        try:
            return self._undo(wire)
        except zlib.error as error:
            raise self._hx.DecodingError(str(error)) from error


def failed_reply(hx: Any, request: ModelRequest, error: Exception) -> ModelReply:
    """The reply that says: no response, this transport error instead."""
    told = (error_name(hx, error), str(error))
    return ModelReply(0, (), b"", None, stream=request.stream, error=told, model=request.model)


def error_name(hx: Any, error: BaseException) -> str:
    """The name of the nearest class that module ``hx`` exports."""
    names = (kind.__name__ for kind in type(error).__mro__ if _exports(hx, kind))
    return next(names, "TransportError")


def rebuilt_error(hx: Any, error: tuple[str, str]) -> Exception:
    """The recorded transport error as an exception of module ``hx``."""
    name, message = error
    kind = getattr(hx, name, None)
    if not (isinstance(kind, type) and issubclass(kind, hx.RequestError)):
        kind = hx.TransportError
    rebuilt: Exception = kind(message)
    return rebuilt


def _exports(hx: Any, kind: type) -> bool:
    return getattr(hx, kind.__name__, None) is kind


def _kept_headers(headers: Any) -> tuple[tuple[str, str], ...]:
    """The headers as they came, less secrets, and less what is not true once decoded."""
    dropped = SECRET_HEADERS
    if "content-encoding" in headers:
        dropped |= ENCODED_ONLY
    pairs = ((k.decode("latin-1"), v.decode("latin-1")) for k, v in headers.raw)
    return tuple((name, value) for name, value in pairs if name.lower() not in dropped)


def _encoding(response: Any) -> str:
    encoding: str = response.headers.get("content-encoding", "")
    return encoding.strip().lower()


def is_event_stream(response: Any) -> bool:
    """Whether a response is server-sent events."""
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("text/event-stream")
