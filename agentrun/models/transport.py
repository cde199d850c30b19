"""HTTP transports that record model calls, for `httpx` and for `httpx2`.

The two are separate packages with the same API and different classes. Both can be used in one
process: openai >= 3 and anthropic use httpx2, LiteLLM uses httpx. So the classes are created for
the module that the client belongs to, and this file imports neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from agentrun.core import recorder
from agentrun.core.errors import NoRun
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.models.call import ModelCall
from agentrun.models.request import is_model_call, mask_credentials, read_request, redirect
from agentrun.models.response_body import ResponseBody, outside_run
from agentrun.models.retries import RetryPolicy
from agentrun.models.unrecorded_requests import send_unrecorded

__all__ = ["Settings", "Transports", "transports"]

# The event loops that have used an async transport, by the transport.
_loops: WeakKeyDictionary[Any, set[asyncio.AbstractEventLoop]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a wrapped client."""

    strict: bool = False  # refuse model calls outside a run
    sdk: bool = False  # a provider's SDK: see `agentrun.models.endpoints`
    background: bool = False  # use background mode where the provider has it
    policy: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class Transports:
    """The transport classes for one HTTP module; each takes (inner transport, settings)."""

    sync: type[Any]
    asyn: type[Any]


class RecordingBase:
    """The common part of the sync and async transports of the HTTP module ``hx``."""

    hx: Any
    stream: Any  # class: makes a byte stream of a `ResponseBody`
    direct: Any  # class: a plain transport, for requests to a provider double

    def __init__(self, inner: Any, settings: Settings) -> None:
        self.inner = inner
        self.settings = settings
        self._to_double: Any = None

    def call(self, request: Any, send: Callable[[Any], Op[Any]]) -> Flow[Any] | None:
        """The flow that answers ``request``; None if the request is not recorded."""
        line = recorder.current.get()
        if line is None and (not self.settings.strict or request.method in ("GET", "DELETE")):
            return None
        if not is_model_call(self.hx, request, sdk=self.settings.sdk):
            return None
        if line is None:
            model = _model_phrase(self.hx, request)
            raise NoRun(
                f"{request.method} {request.url.path} is a model call{model} outside a run, "
                "by a client wrapped with strict=True: call it from an "
                "@agentrun.agent, or wrap without strict (a new thread has to be given the "
                "context of the run)"
            )
        mask_credentials(request.headers)
        settings = self.settings
        call = ModelCall(
            self.hx, request, send, self.stream, settings.policy, settings.background, settings.sdk
        )
        return call.run(line)

    def pass_on(self, request: Any, send: Callable[[Any], Op[Any]]) -> Flow[Any]:
        """The flow that sends a request that is not recorded."""
        # Only `wrap` switches the retries of a client off, and only that of an SDK has any.
        policy = self.settings.policy if self.settings.sdk else RetryPolicy(retries=None)
        return send_unrecorded(self.hx, request, send, policy)

    def carrier(self, request: Any) -> Any:
        """The transport that sends a model call: the client's own, or one to a provider double."""
        if recorder.stand_in is None:
            return self.inner
        redirect(self.hx, request, recorder.stand_in)
        self._to_double = self._to_double or self.direct(verify=False, trust_env=False)
        return self._to_double

    def carriers(self) -> list[Any]:
        """The transports to close when the client is closed."""
        return [self.inner] if self._to_double is None else [self.inner, self._to_double]


def _model_phrase(hx: Any, request: Any) -> str:
    """The request's model, for an error message; empty if the body is not in memory."""
    read = read_request(hx, request) if isinstance(request.stream, hx.ByteStream) else None
    return f" to {read.model!r}" if read is not None and read.model else ""


@cache
def transports(module: ModuleType) -> Transports:
    """The transport classes for ``module`` (httpx or httpx2)."""
    hx: Any = module
    return Transports(_sync(hx), _async(hx))


def _sync(hx: Any) -> type[Any]:
    class SyncStream(hx.SyncByteStream):  # type: ignore[misc]
        def __init__(self, body: ResponseBody) -> None:
            self._body = body

        def __iter__(self) -> Iterator[bytes]:
            while (piece := run_sync(self._body.piece())) is not None:
                yield piece

        def close(self) -> None:
            run_sync(self._body.close())

    class RecordingTransport(RecordingBase, hx.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            flow = self.call(request, lambda sent: Op(lambda: self._send(sent), _unused))
            if flow is None:
                flow = self.pass_on(request, lambda sent: Op(partial(self._pass, sent), _unused))
            return run_sync(flow)

        def _pass(self, request: Any) -> Any:
            return self.inner.handle_request(request)

        def _send(self, request: Any) -> Any:
            with outside_run():
                return self.carrier(request).handle_request(request)

        def close(self) -> None:
            for carrier in self.carriers():
                carrier.close()

    RecordingTransport.hx, RecordingTransport.stream = hx, SyncStream
    RecordingTransport.direct = hx.HTTPTransport
    return RecordingTransport


def _async(hx: Any) -> type[Any]:
    class AsyncStream(hx.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, body: ResponseBody) -> None:
            self._body = body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while (piece := await run_async(self._body.piece())) is not None:
                yield piece

        async def aclose(self) -> None:
            await run_async(self._body.close())

    class AsyncRecordingTransport(RecordingBase, hx.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            for carrier in self.carriers():
                await _drop_dead_connections(carrier)
            flow = self.call(request, lambda sent: Op(_unused, lambda: self._send(sent)))
            if flow is None:
                flow = self.pass_on(request, lambda sent: Op(_unused, partial(self._apass, sent)))
            return await run_async(flow)

        async def _apass(self, request: Any) -> Any:
            return await self.inner.handle_async_request(request)

        async def _send(self, request: Any) -> Any:
            with outside_run():
                return await self.carrier(request).handle_async_request(request)

        async def aclose(self) -> None:
            for carrier in self.carriers():
                await _drop_dead_connections(carrier)
                await carrier.aclose()

    AsyncRecordingTransport.hx, AsyncRecordingTransport.stream = hx, AsyncStream
    AsyncRecordingTransport.direct = hx.AsyncHTTPTransport
    return AsyncRecordingTransport


async def _drop_dead_connections(carrier: Any) -> None:
    """Close the idle connections of a transport if they may be those of an ended event loop.

    A second `asyncio.run` has another loop. A request on a connection of the first one would be
    sent, and billed, but its response could not be read.
    """
    try:
        loops = _loops.setdefault(carrier, set())
        loops.add(asyncio.get_running_loop())
    except (TypeError, RuntimeError):  # no weak reference to it; no loop of asyncio
        return
    ended = {loop for loop in tuple(loops) if loop.is_closed()}
    if not ended:
        return
    loops -= ended
    for connection in getattr(getattr(carrier, "_pool", None), "connections", ()):
        if connection.is_idle():
            with suppress(RuntimeError):  # it is closed now, but its loop cannot be notified
                await connection.aclose()


def _unused() -> Any:
    raise AssertionError("a sync transport was driven as async, or the other way round")
