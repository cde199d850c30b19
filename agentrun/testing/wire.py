"""The server side of HTTP/1.1, with two abilities that fault injection needs.

A `Link` notices at once when its client disconnects, and it can stop anywhere: after the head, in
the middle of a chunk, with or without a proper end. `http.server` and the usual frameworks offer
neither.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

__all__ = ["HttpAnswer", "HttpRequest", "Link", "json_answer", "read_request"]

HEAD_LIMIT = 1 << 20  # bytes
PHRASES = {int(status): status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. ``target`` is the path and query as sent; header names are in lower case."""

    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body as JSON. Raises ValueError."""
        return json.loads(self.body)

    def content(self) -> Any:
        """The body as JSON, or as text if it is not JSON; None without a body."""
        if not self.body:
            return None
        try:
            return self.json()
        except ValueError:
            return self.body.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer to be sent: in HTTP chunks if ``streamed``, else with its length.

    The ledger records ``effect`` before the first byte is sent; None means no effect.
    """

    chunks: tuple[bytes, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    streamed: bool = False
    effect: Mapping[str, Any] | None = None
    delay_s: float = 0.0  # before anything happens
    pace_s: float = 0.0  # before each chunk
    due: tuple[float, ...] = ()  # the earliest time of each chunk, by the monotonic clock

    def wait(self, sent: int) -> float:
        """Seconds to wait before the next chunk, if ``sent`` chunks were sent."""
        return max(self.pace_s, self.due[sent] - time.monotonic() if self.due else 0.0)

    def head(self) -> bytes:
        """Status line and headers."""
        framing = (
            ("transfer-encoding", "chunked")
            if self.streamed
            else ("content-length", str(sum(map(len, self.chunks))))
        )
        # Providers use statuses that are not registered, such as Anthropic's 529.
        lines = [f"HTTP/1.1 {self.status} {PHRASES.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in (*self.headers.items(), framing)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def with_malformed_chunk(self) -> HttpAnswer:
        """A copy without half of the middle chunk, in proper framing."""
        middle = len(self.chunks) // 2
        chunk = self.chunks[middle]
        text = chunk.rstrip(b"\n")
        broken = text[: len(text) // 2] + chunk[len(text) :]
        return replace(self, chunks=(*self.chunks[:middle], broken, *self.chunks[middle + 1 :]))

    def with_headers(self, headers: Mapping[str, str]) -> HttpAnswer:
        """A copy with these headers added."""
        return replace(self, headers={**self.headers, **headers})

    def with_pace(self, seconds: float) -> HttpAnswer:
        """A copy that waits so many seconds before each chunk."""
        return replace(self, pace_s=seconds)


def json_answer(
    value: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    effect: Mapping[str, Any] | None = None,
) -> HttpAnswer:
    """Make an answer with a JSON body."""
    every = {"content-type": "application/json", **(headers or {})}
    return HttpAnswer((json.dumps(value).encode(),), every, status, effect=effect)


class _WatchedReader(asyncio.StreamReader):
    """Sets ``disconnected`` as soon as the client disconnects, and not only at the next read."""

    def __init__(self, disconnected: asyncio.Event) -> None:
        super().__init__(limit=HEAD_LIMIT)
        self._disconnected = disconnected

    def feed_eof(self) -> None:
        super().feed_eof()
        self._disconnected.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._disconnected.set()


class Link:
    """One connection of a client. ``disconnected`` is set once the client has disconnected."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        disconnected: asyncio.Event,
    ) -> None:
        self.reader = reader
        self.disconnected = disconnected
        self._writer = writer
        self.chunked = False
        # Without a buffer, `drain` returns once the operating system has the bytes.
        writer.transport.set_write_buffer_limits(high=0)

    @classmethod
    def protocol(cls, accepted: Callable[[Link], None]) -> asyncio.StreamReaderProtocol:
        """A protocol for `loop.create_server` that passes each connection to ``accepted``."""
        disconnected = asyncio.Event()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted(cls(reader, writer, disconnected))

        return asyncio.StreamReaderProtocol(_WatchedReader(disconnected), connected)

    async def write(self, data: bytes) -> None:
        """Send bytes. Does not yield if the socket accepts them at once. Raises ConnectionError."""
        if self._writer.is_closing():
            raise ConnectionResetError("the client has disconnected")
        self._writer.write(data)
        await self._writer.drain()

    async def send_head(self, answer: HttpAnswer) -> None:
        """Send the head of an answer."""
        self.chunked = answer.streamed
        await self.write(answer.head())

    async def send_chunk(self, chunk: bytes) -> None:
        """Send the next chunk of the answer."""
        await self.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self.chunked else chunk)

    async def send_half(self, chunk: bytes) -> None:
        """Announce a whole chunk and send half of it."""
        size = b"%x\r\n" % len(chunk) if self.chunked else b""
        await self.write(size + chunk[: len(chunk) // 2])

    async def finish(self) -> None:
        """End the answer properly."""
        if self.chunked:
            await self.write(b"0\r\n\r\n")

    async def answer(self, answer: HttpAnswer) -> None:
        """Send a whole answer."""
        await self.send_head(answer)
        for chunk in answer.chunks:
            await self.send_chunk(chunk)
        await self.finish()

    def close(self) -> None:
        """Close the connection once all written bytes are sent."""
        self._writer.close()


async def read_request(link: Link) -> HttpRequest | None:
    """Read the next request of a connection; None if the client has disconnected."""
    try:
        head = await link.reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    url = urlsplit(target)
    body = await _read_body(link.reader, headers)
    return HttpRequest(method, target, url.path, dict(parse_qsl(url.query)), headers, body)


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body
