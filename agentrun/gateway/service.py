"""The gateway as an ASGI application: which request is whose, and what its caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from agentrun.core.errors import ConfigError
from agentrun.gateway.desk import Desk, draining
from agentrun.gateway.held import Broken, Held, Refusal
from agentrun.gateway.upstream import Ask, headers_for, headers_from, timeouts, written

__all__ = ["Service", "upstreams"]

PROVIDERS = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}
LARGEST = 64 << 20  # bytes of a request with a key
LONGEST_KEY = 512  # characters

Headers = Iterable[tuple[str, str]]


def upstreams(given: Iterable[str]) -> dict[str, httpx.URL]:
    """The providers by name: the two that are known, and those ``given`` as ``NAME=URL``.

    Raises ConfigError.
    """
    return {name: httpx.URL(address) for name, address in PROVIDERS.items()} | dict(
        map(_upstream, given)
    )


def _upstream(option: str) -> tuple[str, httpx.URL]:
    name, _, address = option.partition("=")
    try:
        url = httpx.URL(address.rstrip("/"))
    except httpx.InvalidURL:
        url = httpx.URL()
    if not name or "/" in name or url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"--upstream {name}: give NAME=URL, as in local=http://127.0.0.1:1234")
    if url.userinfo or url.query:
        raise ConfigError(
            f"--upstream {name}: the address holds a credential or a query; credentials come with "
            "each request"
        )
    return name, url


class Service:
    """Takes requests to ``/NAME/…``. ``timeout``: seconds that an upstream may be silent."""

    def __init__(
        self,
        desk: Desk,
        client: httpx.AsyncClient,
        upstreams: Mapping[str, httpx.URL],
        *,
        timeout: float,
    ) -> None:
        self._desk = desk
        self._client = client
        self._upstreams = upstreams
        self._timeout = timeout
        self._passing: set[asyncio.Future[Any]] = set()  # tasks of requests without a key

    async def drain(self) -> None:
        """Make no new calls; return when those under way have ended."""
        await self._desk.drain()
        while self._passing:
            await asyncio.wait(self._passing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. To return before the end of the body breaks the connection."""
        if scope["type"] != "http":
            return
        async with AsyncExitStack() as stack:
            try:
                response = await self._response(Request(scope, receive), stack)
            except Refusal as refusal:
                response = _told(refusal)
            except ClientDisconnect:
                return
            with suppress(Broken, httpx.HTTPError):
                await response(scope, receive, send)

    async def _response(self, request: Request, stack: AsyncExitStack) -> Response:
        """What to answer; ``stack`` is closed when that is done."""
        if request.url.path == "/":
            in_flight = self._desk.under_way + len(self._passing)
            return JSONResponse({"upstreams": sorted(self._upstreams), "in_flight": in_flight})
        upstream, url = self._target(request)
        key = request.headers.get("idempotency-key", "")
        if not key or request.method != "POST":
            return await self._passed_through(request, url, stack)
        if len(key) > LONGEST_KEY:
            raise _wrong("key_too_long", f"an Idempotency-Key has at most {LONGEST_KEY} characters")
        ask = Ask(
            key,
            upstream,
            url,
            request.method,
            request.headers.items(),
            await _whole_body(request),
            fail_in_doubt=_fail_in_doubt(request),
            timeout=self._timeout,
        )
        held, shared = await self._desk.hold(ask)
        head = await held.head()
        noted = [*head.headers, *_notes(held, shared)]
        return _streamed(held.pieces(), head.status, noted)

    def _target(self, request: Request) -> tuple[str, httpx.URL]:
        """The name of the upstream, and the address there."""
        raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
        name, _, rest = raw.decode("latin-1").removeprefix("/").partition("/")
        base = self._upstreams.get(name)
        if base is None:
            known = ", ".join(f"/{name}" for name in sorted(self._upstreams))
            raise Refusal(404, "no_upstream", f"no upstream /{name}; there is {known}", retry=False)
        query = request.scope.get("query_string", b"")
        path = f"{base.raw_path.decode('ascii').rstrip('/')}/{rest}".encode("latin-1")
        try:
            return name, base.copy_with(raw_path=path + (b"?" + query if query else b""))
        except (httpx.InvalidURL, UnicodeError):
            raise _wrong("bad_path", "the path is no part of an address") from None

    async def _passed_through(
        self, request: Request, url: httpx.URL, stack: AsyncExitStack
    ) -> Response:
        """The upstream's own answer, piece by piece; a caller that goes away ends the call."""
        if self._desk.draining:
            raise draining()
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        stack.callback(self._passing.discard, task)
        has_body = not {"content-length", "transfer-encoding"}.isdisjoint(request.headers.keys())
        sent = httpx.Request(
            request.method,
            url,
            headers=headers_for(request.headers.items()),
            content=request.stream() if has_body else None,
            extensions={"timeout": timeouts(self._timeout)},
        )
        try:
            response = await self._client.send(sent, stream=True)
        except httpx.HTTPError as error:
            told = f"the upstream did not answer ({type(error).__name__}: {error})"
            raise Refusal(502, "upstream_failed", told) from error
        stack.push_async_callback(response.aclose)
        return _streamed(response.aiter_raw(), response.status_code, headers_from(response))


async def _whole_body(request: Request) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > LARGEST:
            raise _wrong("too_large", f"a request with a key has at most {LARGEST} bytes", 413)
        pieces.append(piece)
    return b"".join(pieces)


def _fail_in_doubt(request: Request) -> bool:
    told = request.headers.get("agentrun-on-doubt", "retry")
    if told not in ("retry", "fail"):
        raise _wrong("on_doubt", f"Agentrun-On-Doubt is retry or fail, not {told}")
    return told == "fail"


def _notes(held: Held, shared: bool) -> Headers:
    """What the gateway says of an answer: whose call it is, and what else may be on the bill."""
    yield "agentrun-answer", "stored" if held.stored else "shared" if shared else "new"
    if held.doubts:
        yield "agentrun-possibly-billed", str(held.doubts)


def _streamed(pieces: AsyncIterator[bytes], status: int, headers: Headers) -> Response:
    response = StreamingResponse(pieces, status)
    response.raw_headers = written((name.lower(), value) for name, value in headers)
    return response


def _wrong(code: str, message: str, status: int = 400) -> Refusal:
    return Refusal(status, code, message, retry=False)


def _told(refusal: Refusal) -> Response:
    """A refusal in the shape that the SDKs of both providers read."""
    error = {"type": "gateway_error", "code": refusal.code, "message": str(refusal), "param": None}
    should_retry = {} if refusal.retry else {"x-should-retry": "false"}
    headers = {"agentrun-answer": "lost" if refusal.lost else "none"} | should_retry
    told = JSONResponse({"type": "error", "error": error}, refusal.status, headers=headers)
    return _breaking_off(told) if refusal.lost else told


def _breaking_off(response: Response) -> Response:
    """The same, its body followed by what a broken connection looks like."""

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(response.body)
        raise Broken

    headers = [(k, v) for k, v in response.headers.items() if k != "content-length"]
    return _streamed(pieces(), response.status_code, headers)
