"""Turns HTTP responses into recorded replies and back, byte for byte; cookies are not kept."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from agentrun.core.apis import (
    CHAT,
    COMPLETIONS,
    GENERATE_CONTENT,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    RESPONSES,
    RETRIEVE_RESPONSE,
)
from agentrun.core.events import Json
from agentrun.core.naming import SECRET_HEADERS
from agentrun.core.parse import parse_json
from agentrun.core.recorder import Ending, Flaw, ModelReply, ModelRequest
from agentrun.models.event_streams import Parser, ServerEvent, is_stream, is_terminal, parser_of
from agentrun.models.reply_flaws import (
    body_flaw,
    event_flaw,
    has_stop_reasons,
    is_gemini_stop,
    is_preamble,
)
from agentrun.models.stream_fold import StreamFold
from agentrun.models.usage import usage_of

__all__ = [
    "ENCODING_HEADERS",
    "Inflater",
    "ReplyBuilder",
    "build_whole",
    "can_stream",
    "decode_body",
    "error_name",
    "is_event_stream",
    "make_failed_reply",
    "rebuild_error",
]

ENCODING_HEADERS = frozenset({"content-encoding", "content-length"})  # false once decoded
# APIs whose streams have an end event. A stream of any other API is whole when its bytes end.
APIS_WITH_END_EVENT = frozenset(
    {CHAT, COMPLETIONS, RESPONSES, RETRIEVE_RESPONSE, MESSAGES, GENERATE_CONTENT}
    | {OLLAMA_CHAT, OLLAMA_GENERATE}
)
GZIP = frozenset({"gzip", "x-gzip"})


class ReplyBuilder:
    """Builds the recorded reply from a response: its status, headers and content-decoded bytes.

    In a ``stream``, ``has_begun`` becomes true with the first event that has content of the answer.
    ``ended`` becomes true with the end event, or at a clean end of the bytes if only the end event
    is missing. ``flaw`` is set once an event shows that the stream is no answer.
    """

    def __init__(self, request: ModelRequest, response: Any, *, stream: bool) -> None:
        self.has_begun = self.ended = self._stopped = False
        self.flaw: Flaw | None = None
        self._request = request
        self._kind: str = response.headers.get("content-type", "")
        self._status: int = response.status_code
        self._headers = _kept_headers(response.headers)
        self._extensions = response.extensions
        self.stream = stream
        self._pieces: list[bytes] = []

    @cached_property
    def _parser(self) -> Parser:
        return parser_of(self._kind)

    @cached_property
    def _fold(self) -> StreamFold:
        return StreamFold()

    def take(self, piece: bytes) -> None:
        """Add content-decoded bytes."""
        self._pieces.append(piece)
        if self.stream:
            self._read(self._parser.feed(piece))

    def end(self) -> None:
        """The bytes ended without a connection error."""
        if self.stream:
            self._read(self._parser.end())
            self.ended = self.ended or self._is_complete()

    def partial_body(self) -> Json:
        """The stream up to now, as the body of a call without streaming."""
        return self._fold.result()

    def reply(
        self, ending: Ending = "complete", error: tuple[str, str] | None = None
    ) -> ModelReply:
        """The reply as it is recorded."""
        raw = b"".join(self._pieces)
        body = self._fold.result() if self.stream else parse_json(raw)
        named = body.get("model") if isinstance(body, dict) else None
        request, flaw = self._request, self.flaw
        if not self.stream and error is None and 200 <= self._status < 300:
            flaw = body_flaw(request, self._kind, raw, body)
        return ModelReply(
            status=self._status,
            headers=self._headers,
            raw=raw,
            body=body,
            stream=self.stream,
            ending=ending,
            error=error,
            model=named if isinstance(named, str) else request.model,
            usage=usage_of(request, body),
            flaw=flaw,
            reason=_extension(self._extensions, "reason_phrase"),
            http=_extension(self._extensions, "http_version") or "HTTP/1.1",
        )

    def _is_complete(self) -> bool:
        """Whether a stream that has ended without its end event is whole nevertheless.

        It is if it stated an error, if each choice gave a reason to stop, or if the API has no end
        event. A stream of the Responses API is not: it has no such reason, so that its end cannot
        be distinguished from a cut.
        """
        if self.flaw is not None or self._request.api not in APIS_WITH_END_EVENT:
            return True
        return self._stopped or has_stop_reasons(self._request, self._fold.result())

    def _read(self, events: Iterable[ServerEvent]) -> None:
        for event in events:
            if not self.ended:
                self._fold.add(event)
                self.has_begun = self.has_begun or not is_preamble(event)
                self.flaw = self.flaw or event_flaw(event)
                self._stopped = self._stopped or is_gemini_stop(event)
                self.ended = is_terminal(event)


def build_whole(
    request: ModelRequest, response: Any, raw: bytes, *, clean: bool = True
) -> ReplyBuilder:
    """A builder that has taken a whole body of decoded bytes; ``clean``: no error cut it off."""
    stream = is_event_stream(response) or (request.stream and _reads_as_events(raw))
    builder = ReplyBuilder(request, response, stream=stream)
    builder.take(raw)
    if clean:
        builder.end()
    return builder


def _reads_as_events(raw: bytes) -> bool:
    """Whether a body is server-sent events, whatever its content type says: clients read it so."""
    return raw.lstrip().startswith((b"data:", b"event:", b":"))


def can_stream(request: ModelRequest, response: Any) -> bool:
    """Whether the response can be handed on while it arrives.

    Any other response is read to its end first. An error is plain JSON even if the request asked
    for a stream. Encodings other than gzip cannot be decoded piece by piece with the libraries that
    are always installed.
    """
    if not request.stream or response.status_code >= 400:
        return False
    return is_event_stream(response) and _encoding(response) in GZIP | {"", "identity"}


def decode_body(hx: Any, response: Any, wire: bytes) -> bytes:
    """Undo the content encoding of a whole body; raises DecodingError of module ``hx``."""
    encoding = _encoding(response)
    if encoding in ("", "identity"):
        return wire
    copy = hx.Response(200, headers={"content-encoding": encoding}, stream=hx.ByteStream(wire))
    content: bytes = copy.read()
    return content


class Inflater:
    """Undoes the gzip encoding of a stream piece by piece; passes other bytes through."""

    def __init__(self, hx: Any, response: Any) -> None:
        self._hx = hx
        gzip = _encoding(response) in GZIP
        self._undo = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress if gzip else bytes

    def __call__(self, wire: bytes) -> bytes:
        try:
            return self._undo(wire)
        except zlib.error as error:
            raise self._hx.DecodingError(str(error)) from error


def make_failed_reply(hx: Any, request: ModelRequest, error: Exception) -> ModelReply:
    """The recorded reply for a transport error, where no response came."""
    failure = (error_name(hx, error), str(error))
    return ModelReply(0, (), b"", None, stream=request.stream, error=failure, model=request.model)


def error_name(hx: Any, error: BaseException) -> str:
    """The name of the first class of the error's MRO that module ``hx`` exports."""
    names = (kind.__name__ for kind in type(error).__mro__ if _exports(hx, kind))
    return next(names, "TransportError")


def rebuild_error(hx: Any, error: tuple[str, str]) -> Exception:
    """The recorded transport error as an exception of module ``hx``."""
    name, message = error
    kind = getattr(hx, name, None)
    if not (isinstance(kind, type) and issubclass(kind, hx.RequestError)):
        kind = hx.TransportError
    rebuilt: Exception = kind(message)
    return rebuilt


def _exports(hx: Any, kind: type) -> bool:
    return getattr(hx, kind.__name__, None) is kind


def _extension(extensions: Any, name: str) -> str | None:
    value = extensions.get(name)
    return value.decode("latin-1") if isinstance(value, bytes) else None


def _kept_headers(headers: Any) -> tuple[tuple[str, str], ...]:
    """The headers without secrets, and without those that are false for decoded bytes."""
    dropped = SECRET_HEADERS
    if "content-encoding" in headers:
        dropped |= ENCODING_HEADERS
    pairs = ((k.decode("latin-1"), v.decode("latin-1")) for k, v in headers.raw)
    return tuple((name, value) for name, value in pairs if name.lower() not in dropped)


def _encoding(response: Any) -> str:
    encoding: str = response.headers.get("content-encoding", "")
    return encoding.strip().lower()


def is_event_stream(response: Any) -> bool:
    """Whether a response is a stream of events."""
    return is_stream(response.headers.get("content-type", ""))
