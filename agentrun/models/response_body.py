"""Response bodies as flows: bytes from the network, stored bytes, and streams that are recorded.

A body gives its next bytes with `piece()` and frees its connection with `close()`. The rule of
`LiveBody`: nothing acts on a reply that is not recorded. So the outcome of a stream is recorded
before its last bytes are handed on; and if the code makes a tool call of a reply whose stream it
is still reading, the rest is read first and kept for the code (`LiveBody.read_rest`). Otherwise a
crash in between would lose a reply that the agent has already acted on.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from agentrun.core import points
from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.core.recorder import Ending, Flaw, ModelStep, current
from agentrun.models.reply import Inflater, ReplyBuilder, error_name

__all__ = [
    "STREAM_CUT",
    "LiveBody",
    "ResponseBody",
    "StoredBody",
    "WireBody",
    "outside_run",
    "read_all",
    "send_request",
]

STREAM_CUT = "the stream ended without its terminal event: the reply is not whole"


class ResponseBody(Protocol):
    """Bytes that come piece by piece, read by the stream classes of a transport."""

    def piece(self) -> Flow[bytes | None]:
        """The next bytes, None at the end; raises a transport error."""
        ...

    def close(self) -> Flow[None]:
        """Free the connection."""
        ...


@contextmanager
def outside_run() -> Iterator[None]:
    """Leave the run for a while, so that requests made by a transport are not recorded too."""
    token = current.set(None)
    try:
        yield
    finally:
        current.reset(token)


class WireBody:
    """The bytes of an inner response as the network delivers them, sync or async."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._iterator: Any = None

    def piece(self) -> Flow[bytes | None]:
        """The next bytes."""
        piece: bytes | None = yield Op(self._next, self._anext)
        return piece

    def close(self) -> Flow[None]:
        """Give the connection back."""
        yield Op(self._close, self._aclose)

    def _next(self) -> bytes | None:
        with outside_run():
            self._iterator = self._iterator or iter(self._stream)
            piece: bytes | None = next(self._iterator, None)
            return piece

    async def _anext(self) -> bytes | None:
        with outside_run():
            self._iterator = self._iterator or aiter(self._stream)
            piece: bytes | None = await anext(self._iterator, None)
            return piece

    def _close(self) -> None:
        with outside_run():
            if hasattr(self._iterator, "close"):
                self._iterator.close()
            self._stream.close()

    async def _aclose(self) -> None:
        with outside_run():
            if hasattr(self._iterator, "aclose"):
                await self._iterator.aclose()
            await self._stream.aclose()


class StoredBody:
    """Stored bytes, followed by the recorded transport error, if there was one."""

    def __init__(self, pieces: Iterable[bytes], error: Exception | None = None) -> None:
        self._pieces = iter(pieces)
        self._error = error

    def piece(self) -> Flow[bytes | None]:
        """The next bytes."""
        yield from ()
        piece = next(self._pieces, None)
        if piece is None and self._error is not None:
            raise self._error
        return piece

    def close(self) -> Flow[None]:
        """Does nothing: there is no connection."""
        yield from ()


def send_request(send: Callable[[Any], Op[Any]], request: Any, point: str = "send") -> Flow[Any]:
    """Send a request: the response, once its headers are there; raises a transport error."""
    points.reach(point, "before")
    response = yield send(request)
    points.reach(point, "after")
    return response


def read_all(source: ResponseBody) -> Flow[list[bytes]]:
    """Read a body to its end, and close it, after an error too."""
    pieces: list[bytes] = []
    try:
        while (piece := (yield from source.piece())) is not None:
            pieces.append(piece)
    finally:
        yield from source.close()
    return pieces


class _FlowLock:
    """A lock that one flow holds at a time. All flows that share it are driven the same way."""

    def __init__(self) -> None:
        self._threads, self._tasks = threading.Lock(), asyncio.Lock()

    def acquire(self) -> Op[bool]:
        """The operation that waits for the lock."""
        return Op(self._threads.acquire, self._tasks.acquire)

    def release(self) -> None:
        """Let the next flow have the lock."""
        (self._threads if self._threads.locked() else self._tasks).release()


class LiveBody:
    """A stream that is recorded while it is read: bytes pass unchanged, decoded ones are kept.

    A stream that ends without its terminal event raises a transport error; with ``lenient``, it
    ends as it came.
    """

    def __init__(
        self,
        hx: Any,
        step: ModelStep,
        source: ResponseBody,
        builder: ReplyBuilder,
        inflate: Inflater,
        *,
        lenient: bool,
    ) -> None:
        self._hx = hx
        self._step = step
        self._source = source
        self._builder = builder
        self._inflate = inflate
        self._lenient = lenient
        self._held_back: deque[bytes] = deque()  # recorded, and not handed on yet
        self._lost: Exception | None = None  # the transport error that follows them
        self._finished = False
        self._reading = _FlowLock()
        self._loop: asyncio.AbstractEventLoop | None = None  # None: sync code reads this stream

    def begin(self) -> Flow[None]:
        """Note who reads this stream, before anybody does."""
        self._loop = yield Op(lambda: None, _loop_here_async)
        self._step.begin_stream(self)

    def prime(self) -> Flow[Flaw | None]:
        """Read until an event has content of the answer, or shows that there is none.

        Nothing is handed on before that, so an earlier failure can be retried unnoticed.
        """
        builder = self._builder
        while not (builder.has_begun or builder.ended or builder.flaw):
            wire = yield from self._receive()
            if wire is None:
                self._end_reply()
                break
            self._held_back.append(wire)
            builder.take(self._inflate(wire))
            self._step.publish_partial(builder.partial_body)
        return builder.flaw

    def piece(self) -> Flow[bytes | None]:
        """The next bytes; a connection that is lost from now on is the step's outcome."""
        yield self._reading.acquire()
        try:
            if self._builder.ended:
                self._finish_step("complete")
            if self._held_back:
                return self._held_back.popleft()
            if self._lost is not None:
                raise self._lost
            return (yield from self._read_next())
        finally:
            self._reading.release()

    def partial_body(self) -> Json:
        """The part of the reply that has arrived."""
        return self._builder.partial_body()

    def read_rest(self, asks: str) -> Op[None]:
        """Read the rest of the reply, which is recorded then; the consumer gets it later.

        The stream belongs to the event loop that reads it, or to sync code. So it is read there,
        whichever code needs the reply.
        """
        return Op(partial(self._read_rest, asks), self._read_rest_async)

    def _read_rest(self, asks: str) -> None:
        if self._loop is None:
            run_sync(self._keep_rest())
        elif self._loop is _loop_here():
            raise ConfigError(
                f"{asks}: the reply that asks for this call is still being streamed, and sync code "
                "in its event loop cannot wait for the rest. Read the stream to its end before the "
                "call, or make the tool async"
            )
        else:
            asyncio.run_coroutine_threadsafe(run_async(self._keep_rest()), self._loop).result()

    async def _read_rest_async(self) -> None:
        if self._loop is None:
            await asyncio.to_thread(run_sync, self._keep_rest())
        elif self._loop is asyncio.get_running_loop():
            await run_async(self._keep_rest())
        else:
            rest = asyncio.run_coroutine_threadsafe(run_async(self._keep_rest()), self._loop)
            await asyncio.wrap_future(rest)

    def _keep_rest(self) -> Flow[None]:
        yield self._reading.acquire()
        try:
            if self._builder.ended:
                self._finish_step("complete")
            while not self._finished:
                wire = yield from self._read_next()
                if wire is not None:
                    self._held_back.append(wire)
        except self._hx.RequestError as error:
            self._lost = error
        finally:
            self._reading.release()

    def close(self) -> Flow[None]:
        """The consumer stops reading: the step's outcome is the part read so far."""
        if not _interrupted():
            self._finish_step("cut" if self._builder.flaw else "abandoned")
        elif not self._finished:
            self._step.abandon_attempt()
        yield from self._source.close()

    def _read_next(self) -> Flow[bytes | None]:
        try:
            return (yield from self._read())
        except self._hx.RequestError as error:
            self._finish_step("cut", (error_name(self._hx, error), str(error)))
            raise

    def _read(self) -> Flow[bytes | None]:
        """The next bytes for the consumer, recorded first.

        After the terminal event the outcome is recorded. An error after it is ignored, and bytes
        after it are dropped, because a resume could give neither again.
        """
        wire: bytes | None = b""
        while wire == b"" or (self._finished and wire is not None):
            try:
                wire = yield from self._receive()
            except self._hx.RequestError:
                if not self._finished:
                    raise
                wire = None
        if not self._finished:
            self._record(wire)
        return wire

    def _receive(self) -> Flow[bytes | None]:
        points.reach("chunk", "before")
        wire = yield from self._source.piece()
        points.reach("chunk", "after")
        return wire

    def _record(self, wire: bytes | None) -> None:
        if wire is None:
            self._end_reply()
        else:
            self._builder.take(self._inflate(wire))
        if self._builder.ended:
            self._finish_step("complete")
        elif wire is None:
            self._finish_step("cut")
        else:
            self._step.publish_partial(self._builder.partial_body)

    def _end_reply(self) -> None:
        """The connection ended cleanly."""
        self._builder.end()
        if not (self._builder.ended or self._lenient):
            raise self._hx.RemoteProtocolError(STREAM_CUT)

    def _finish_step(self, ending: Ending, error: tuple[str, str] | None = None) -> None:
        if not self._finished:
            self._finished = True
            self._step.finish(self._builder.reply(ending, error))


def _loop_here() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _loop_here_async() -> asyncio.AbstractEventLoop | None:
    return _loop_here()


def _interrupted() -> bool:
    """Whether this is clean-up after an interrupt (Ctrl-C, a cancelled task, a lost lease).

    Then the agent did not choose to stop reading, and the partial reply must not be recorded as
    the outcome.
    """
    error = sys.exception()
    return error is not None and not isinstance(error, Exception | GeneratorExit)
