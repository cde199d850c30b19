"""The gateway as an ASGI application: reads a request, finds its upstream and answer, responds."""

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
from agentrun.gateway.call_registry import CallRegistry, draining_refusal
from agentrun.gateway.guard import Buffer, Door, GatewayLimits, bind_key, check_path
from agentrun.gateway.shared_answer import AnswerInProgress, BrokenAnswer, GatewayRefusal
from agentrun.gateway.upstream import (
    GatewayRequest,
    encode_headers,
    headers_for,
    headers_from,
    timeouts,
)

__all__ = ["GatewayService", "upstreams"]

PROVIDERS = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}
LARGEST = 64 << 20  # bytes of a request with a key
LONGEST_KEY = 512  # characters

Headers = Iterable[tuple[str, str]]


def upstreams(options: Iterable[str]) -> dict[str, httpx.URL]:
    """The upstreams by name: the two known providers, and those of ``NAME=URL`` options.

    Raises ConfigError.
    """
    return {name: httpx.URL(address) for name, address in PROVIDERS.items()} | dict(
        map(_upstream, options)
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
            f"--upstream {name}: the address holds a credential or a query; each request must "
            "bring its own credential"
        )
    return name, url


class GatewayService:
    """Serves requests to ``/NAME/…``. ``timeout``: seconds that an upstream may be silent."""

    def __init__(
        self,
        registry: CallRegistry,
        client: httpx.AsyncClient,
        upstreams: Mapping[str, httpx.URL],
        *,
        timeout: float,
        secret: bytes,
        door: Door,
        limits: GatewayLimits,
    ) -> None:
        self._registry = registry
        self._client = client
        self._upstreams = upstreams
        self._timeout = timeout
        self._secret = secret
        self._door = door
        self._limits = limits
        self._buffer = Buffer(limits.buffered)
        self._passing: set[asyncio.Future[Any]] = set()  # tasks of requests without a key

    async def drain(self) -> None:
        """Accept no new calls, and return when all calls under way have ended."""
        await self._registry.drain()
        while self._passing:
            await asyncio.wait(self._passing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Returning before the end of the body breaks the connection."""
        if scope["type"] != "http":
            return
        async with AsyncExitStack() as stack:
            try:
                request = Request(scope, receive)
                self._door.check(request.headers)
                response = await self._respond(request, stack)
            except GatewayRefusal as refusal:
                response = _refusal_response(refusal)
            except ClientDisconnect:
                return
            with suppress(BrokenAnswer, httpx.HTTPError):
                await response(scope, receive, send)

    async def _respond(self, request: Request, stack: AsyncExitStack) -> Response:
        """Make the response to a request; ``stack`` is closed once it is sent."""
        if request.url.path == "/":
            in_flight = self._registry.under_way + len(self._passing)
            return JSONResponse({"upstreams": sorted(self._upstreams), "in_flight": in_flight})
        upstream, url = self._target(request)
        key = request.headers.get("idempotency-key", "")
        if not key or request.method != "POST":
            return await self._pass_through(request, url, stack)
        if len(key) > LONGEST_KEY:
            raise _bad_request(
                "key_too_long", f"an Idempotency-Key has at most {LONGEST_KEY} characters"
            )
        headers = request.headers.items()
        ask = GatewayRequest(
            key,
            bind_key(self._secret, key, upstream, url.query, headers),
            upstream,
            url,
            request.method,
            headers,
            await self._whole_body(request, stack),
            fail_in_doubt=_fail_in_doubt(request),
            timeout=self._timeout,
        )
        answer, shared = await self._registry.find_or_begin(ask)
        head = await answer.head()
        headers = [*head.headers, *_gateway_headers(answer, shared)]
        return _stream_response(answer.pieces(), head.status, headers)

    async def _whole_body(self, request: Request, stack: AsyncExitStack) -> bytes:
        pieces, size = [], 0
        async for piece in _pieces(request, self._limits):
            size += len(piece)
            if size > LARGEST:
                raise _bad_request(
                    "too_large", f"a request with a key has at most {LARGEST} bytes", 413
                )
            self._buffer.take(len(piece), stack)
            pieces.append(piece)
        return b"".join(pieces)

    def _target(self, request: Request) -> tuple[str, httpx.URL]:
        """The name of the upstream, and the URL there."""
        raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
        name, _, rest = raw.decode("latin-1").removeprefix("/").partition("/")
        check_path(rest)
        base = self._upstreams.get(name)
        if base is None:
            known = ", ".join(f"/{name}" for name in sorted(self._upstreams))
            raise GatewayRefusal(
                404, "no_upstream", f"no upstream /{name}; there is {known}", retry=False
            )
        query = request.scope.get("query_string", b"")
        path = f"{base.raw_path.decode('ascii').rstrip('/')}/{rest}".encode("latin-1")
        try:
            return name, base.copy_with(raw_path=path + (b"?" + query if query else b""))
        except (httpx.InvalidURL, UnicodeError):
            raise _bad_request("bad_path", "the path does not make a valid URL") from None

    async def _pass_through(
        self, request: Request, url: httpx.URL, stack: AsyncExitStack
    ) -> Response:
        """Pass a request without a key through. The call ends if its caller disconnects."""
        if self._registry.draining:
            raise draining_refusal()
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        stack.callback(self._passing.discard, task)
        has_body = not {"content-length", "transfer-encoding"}.isdisjoint(request.headers.keys())
        sent = httpx.Request(
            request.method,
            url,
            headers=headers_for(request.headers.items()),
            content=_pieces(request, self._limits) if has_body else None,
            extensions={"timeout": timeouts(self._timeout)},
        )
        try:
            response = await self._client.send(sent, stream=True)
        except httpx.LocalProtocolError as error:
            raise _bad_request("protocol", f"the request cannot be passed on: {error}") from error
        except httpx.HTTPError as error:
            message = f"the upstream did not answer ({type(error).__name__}: {error})"
            raise GatewayRefusal(502, "upstream_failed", message) from error
        stack.push_async_callback(response.aclose)
        return _stream_response(response.aiter_raw(), response.status_code, headers_from(response))


async def _pieces(request: Request, limits: GatewayLimits) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece. Raises GatewayRefusal if it comes too slowly."""
    body = aiter(request.stream())
    try:
        async with asyncio.timeout(limits.sending):
            while True:
                async with asyncio.timeout(limits.silence):
                    piece = await anext(body, None)
                if piece is None:
                    return
                yield piece
    except TimeoutError:
        raise _bad_request("too_slow", "the rest of the request did not arrive", 408) from None


def _fail_in_doubt(request: Request) -> bool:
    on_doubt = request.headers.get("agentrun-on-doubt", "retry")
    if on_doubt not in ("retry", "fail"):
        raise _bad_request("on_doubt", f"Agentrun-On-Doubt is retry or fail, not {on_doubt}")
    return on_doubt == "fail"


def _gateway_headers(answer: AnswerInProgress, shared: bool) -> Headers:
    """The headers that the gateway adds: where the answer is from, and possibly billed calls."""
    yield "agentrun-answer", "stored" if answer.stored else "shared" if shared else "new"
    if answer.doubts:
        yield "agentrun-possibly-billed", str(answer.doubts)


def _stream_response(pieces: AsyncIterator[bytes], status: int, headers: Headers) -> Response:
    response = StreamingResponse(pieces, status)
    response.raw_headers = encode_headers((name.lower(), value) for name, value in headers)
    return response


def _bad_request(code: str, message: str, status: int = 400) -> GatewayRefusal:
    return GatewayRefusal(status, code, message, retry=False)


def _refusal_response(refusal: GatewayRefusal) -> Response:
    """The response of a refusal, in a shape that the SDKs of both providers can read."""
    error = {"type": "gateway_error", "code": refusal.code, "message": str(refusal), "param": None}
    should_retry = {} if refusal.retry else {"x-should-retry": "false"}
    headers = {"agentrun-answer": "lost" if refusal.lost else "none"} | should_retry
    response = JSONResponse({"type": "error", "error": error}, refusal.status, headers=headers)
    return _break_off(response) if refusal.lost else response


def _break_off(response: Response) -> Response:
    """A copy of the response whose connection breaks after the body."""

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(response.body)
        raise BrokenAnswer

    headers = [(k, v) for k, v in response.headers.items() if k != "content-length"]
    return _stream_response(pieces(), response.status_code, headers)
