"""Response bodies as flows: what is stored, and what arrives and is recorded on its way.

A body gives its next piece with `piece()` and lets go with `close()`. `Live` decides when a
stream's outcome is known: before the last bytes are handed on, never after.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from agentrun.core import points
from agentrun.core.flow import Flow, Op
from agentrun.core.recorder import Ending, ModelStep, current
from agentrun.models.reply import Inflater, Tape, error_name

__all__ = ["NOT_WHOLE", "Body", "Live", "Source", "Stored", "apart", "drained", "sent"]

NOT_WHOLE = "the stream ended without its terminal event: the reply is not whole"


class Body(Protocol):
    """Bytes that come piece by piece; the stream classes of a transport drive one."""

    def piece(self) -> Flow[bytes | None]:
        """The next bytes, None at the end; raises a transport error where one belongs."""

    def close(self) -> Flow[None]:
        """Let go of what is behind it."""


@contextmanager
def apart() -> Iterator[None]:
    """Outside the run: what happens while a request is under way is not recorded by itself."""
    token = current.set(None)
    try:
        yield
    finally:
        current.reset(token)


class Source:
    """The stream of an inner response, sync or async, as it comes over the wire."""

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
        with apart():
            self._iterator = self._iterator or iter(self._stream)
            piece: bytes | None = next(self._iterator, None)
            return piece

    async def _anext(self) -> bytes | None:
        with apart():
            self._iterator = self._iterator or aiter(self._stream)
            piece: bytes | None = await anext(self._iterator, None)
            return piece

    def _close(self) -> None:
        with apart():
            if hasattr(self._iterator, "close"):
                self._iterator.close()
            self._stream.close()

    async def _aclose(self) -> None:
        with apart():
            if hasattr(self._iterator, "aclose"):
                await self._iterator.aclose()
            await self._stream.aclose()


class Stored:
    """Bytes that are all there, followed by the transport error that followed them, if any."""

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
        """Nothing to let go of."""
        yield from ()


def sent(send: Callable[[Any], Op[Any]], request: Any, point: str = "send") -> Flow[Any]:
    """The response to a request, as soon as it begins; raises a transport error."""
    points.reach(point, "before")
    response = yield send(request)
    points.reach(point, "after")
    return response


def drained(source: Body) -> Flow[list[bytes]]:
    """All pieces of a body, which is closed then, also by an error."""
    pieces: list[bytes] = []
    try:
        while (piece := (yield from source.piece())) is not None:
            pieces.append(piece)
    finally:
        yield from source.close()
    return pieces


class Live:
    """A stream on its way to the consumer: bytes pass untouched, the decoded ones are kept.

    Without its terminal event it is ``lenient``ly handed on as it is, else a transport error.
    """

    def __init__(
        self,
        hx: Any,
        step: ModelStep,
        source: Body,
        tape: Tape,
        inflate: Inflater,
        *,
        lenient: bool,
    ) -> None:
        self._hx = hx
        self._step = step
        self._source = source
        self._tape = tape
        self._inflate = inflate
        self._lenient = lenient
        self._first: bytes | None = None
        self._settled = False

    def prime(self) -> Flow[None]:
        """Read the first bytes: until they are handed on, a failure costs the consumer nothing."""
        self._first = yield from self._read()

    def piece(self) -> Flow[bytes | None]:
        """The next bytes; a connection lost now is the step's outcome."""
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            return (yield from self._read())
        except self._hx.RequestError as error:
            self._settle("cut", (error_name(self._hx, error), str(error)))
            raise

    def close(self) -> Flow[None]:
        """The consumer wants no more."""
        if not _interrupted():
            self._settle("abandoned")
        elif not self._settled:
            self._step.left()
        yield from self._source.close()

    def _read(self) -> Flow[bytes | None]:
        """Bytes for the consumer, taken note of; after the marker nothing can fail any more.

        Nor is anything handed on that follows it: the outcome is recorded, and a resume would
        not have it.
        """
        wire: bytes | None = b""
        while wire == b"" or (self._settled and wire is not None):
            try:
                points.reach("chunk", "before")
                wire = yield from self._source.piece()
                points.reach("chunk", "after")
            except self._hx.RequestError:
                if not self._settled:
                    raise
                wire = None
        if not self._settled:
            self._note(wire)
        return wire

    def _note(self, wire: bytes | None) -> None:
        if wire is None:
            self._tape.end()
        else:
            self._tape.take(self._inflate(wire))
        if self._tape.ended:
            self._settle("complete")
        elif wire is not None:
            self._step.tell(self._tape.so_far)
        elif self._lenient:
            self._settle("cut")
        else:
            raise self._hx.RemoteProtocolError(NOT_WHOLE)

    def _settle(self, ending: Ending, error: tuple[str, str] | None = None) -> None:
        if not self._settled:
            self._settled = True
            self._step.finish(self._tape.reply(ending, error))


def _interrupted() -> bool:
    """Whether this is clean-up after an interrupt (Ctrl-C, a cancelled task, a lost lease).

    Then nobody chose to break off, and the half reply must not become the recorded one.
    """
    error = sys.exception()
    return error is not None and not isinstance(error, Exception | GeneratorExit)
