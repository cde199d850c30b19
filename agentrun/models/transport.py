"""HTTP transports that record model calls, for `httpx` and for `httpx2`.

The two are separate packages with separate classes and one API; both can live in one process
(openai >= 3 and anthropic use httpx2, LiteLLM httpx). The classes are written once, and made for
the module of the client at hand: neither is imported here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

from agentrun.core import recorder
from agentrun.core.errors import NoRun
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.models.body import Body, apart
from agentrun.models.call import Call, repeated_error
from agentrun.models.request import read_request, redirect
from agentrun.models.retry import RetryPolicy

__all__ = ["Settings", "Transports", "transports"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a wrapped client was told."""

    strict: bool = False  # refuse model calls outside a run
    background: bool = False  # have the provider finish calls whether or not we listen
    policy: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class Transports:
    """The transport classes for one HTTP module; each takes (inner transport, settings)."""

    sync: type[Any]
    asyn: type[Any]


class Recording:
    """What the transports have in common; ``hx`` is the HTTP module they belong to."""

    hx: Any
    stream: Any  # the class that makes a byte stream of a `Body`
    direct: Any  # the class of a plain transport, to a double on this machine

    def __init__(self, inner: Any, settings: Settings) -> None:
        self.inner = inner
        self.settings = settings
        self._to_double: Any = None

    def call(self, request: Any, send: Callable[[Any], Op[Any]]) -> Flow[Any] | None:
        """The flow that answers ``request``; None if it is none of ours."""
        line = recorder.current.get()
        if line is None and not self.settings.strict:
            return None
        asked = read_request(self.hx, request)
        if asked is None:
            return None
        if line is None:
            raise NoRun(
                f"a call to model {asked.model!r} outside a run, by a client wrapped with "
                "strict=True: call it from an @agentrun.agent, or wrap without strict (in a new "
                "thread, the run has to be carried along)"
            )
        if error := repeated_error(self.hx, request):
            raise error
        told = self.settings
        call = Call(self.hx, asked, request, send, self.stream, told.policy, told.background)
        return call.run(line)

    def carrier(self, request: Any) -> Any:
        """What carries a model call: the client's own transport, unless a double stands in."""
        if recorder.stand_in is None:
            return self.inner
        redirect(self.hx, request, recorder.stand_in)
        self._to_double = self._to_double or self.direct(verify=False, trust_env=False)
        return self._to_double

    def carriers(self) -> list[Any]:
        """What is to be closed with the client."""
        return [self.inner] if self._to_double is None else [self.inner, self._to_double]


@cache
def transports(module: ModuleType) -> Transports:
    """The transport classes made of the types of ``module`` (httpx or httpx2)."""
    hx: Any = module
    return Transports(_sync(hx), _async(hx))


def _sync(hx: Any) -> type[Any]:
    class Stream(hx.SyncByteStream):  # type: ignore[misc]
        def __init__(self, body: Body) -> None:
            self._body = body

        def __iter__(self) -> Iterator[bytes]:
            while (piece := run_sync(self._body.piece())) is not None:
                yield piece

        def close(self) -> None:
            run_sync(self._body.close())

    class RecordingTransport(Recording, hx.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            flow = self.call(request, lambda sent: Op(lambda: self._send(sent), _unused))
            return self.inner.handle_request(request) if flow is None else run_sync(flow)

        def _send(self, request: Any) -> Any:
            with apart():
                return self.carrier(request).handle_request(request)

        def close(self) -> None:
            for carrier in self.carriers():
                carrier.close()

    RecordingTransport.hx, RecordingTransport.stream = hx, Stream
    RecordingTransport.direct = hx.HTTPTransport
    return RecordingTransport


def _async(hx: Any) -> type[Any]:
    class Stream(hx.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, body: Body) -> None:
            self._body = body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while (piece := await run_async(self._body.piece())) is not None:
                yield piece

        async def aclose(self) -> None:
            await run_async(self._body.close())

    class AsyncRecordingTransport(Recording, hx.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            flow = self.call(request, lambda sent: Op(_unused, lambda: self._send(sent)))
            if flow is None:
                return await self.inner.handle_async_request(request)
            return await run_async(flow)

        async def _send(self, request: Any) -> Any:
            with apart():
                return await self.carrier(request).handle_async_request(request)

        async def aclose(self) -> None:
            for carrier in self.carriers():
                await carrier.aclose()

    AsyncRecordingTransport.hx, AsyncRecordingTransport.stream = hx, Stream
    AsyncRecordingTransport.direct = hx.AsyncHTTPTransport
    return AsyncRecordingTransport


def _unused() -> Any:
    raise AssertionError("a sync transport was driven as async, or the other way round")
