"""An answer that is arriving: one writer, and any number of readers, each at its own pace."""

from __future__ import annotations

import asyncio
import tempfile
import weakref
from collections.abc import AsyncIterator, Sequence

__all__ = ["AnswerHead", "AnswerInProgress", "BrokenAnswer", "GatewayRefusal"]

IN_MEMORY = 1 << 20  # bytes; a longer answer is moved to a file without a name
PIECE = 1 << 16  # bytes that a reader receives at once


class GatewayRefusal(Exception):
    """The gateway refuses a request, or cannot get an answer to it.

    ``lost`` means that the call was sent and is possibly billed. It is sent as a response that
    breaks off, because a client would take a whole error response for an unbilled refusal.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry: bool = True, lost: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry, self.lost = status, code, retry, lost


class BrokenAnswer(Exception):
    """The answer has ended before it was whole."""


class AnswerHead:
    """The status and headers of an answer."""

    def __init__(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        self.status, self.headers = status, headers


class AnswerInProgress:
    """The bytes of one answer so far. It belongs to one event loop.

    ``is_whole`` says whether later requests can receive the answer too. ``closed`` is set when the
    call has ended and its end is recorded.
    """

    def __init__(self) -> None:
        self.stored = False  # whether it was read from the database
        self.doubts = 0  # how many earlier calls under the key are possibly billed
        self.size = 0
        self.is_whole = False
        self.closed = asyncio.Event()
        self._head: AnswerHead | None = None
        self._refusal: GatewayRefusal | None = None
        self._ended = self._broken = False
        self._changed = asyncio.Event()
        self._bytes = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._bytes.close)

    # -- the writer ------------------------------------------------------------------------------

    def begin(self, head: AnswerHead) -> None:
        """Set the status and headers."""
        self._head = head
        self._wake_readers()

    def add(self, piece: bytes) -> None:
        """Append a piece of the body."""
        self._bytes.seek(self.size)
        self._bytes.write(piece)
        self.size += len(piece)
        self._wake_readers()

    def end(self, *, whole: bool, broken: bool = False) -> None:
        """End the body; ``broken`` if it is not whole."""
        self.is_whole, self._broken, self._ended = whole, broken, True
        self._wake_readers()

    def refuse(self, refusal: GatewayRefusal) -> None:
        """End without an answer. Readers that already have the head see a broken answer."""
        self._refusal = refusal
        self.end(whole=False, broken=True)

    def _wake_readers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- readers -----------------------------------------------------------------------------------

    @property
    def is_unusable(self) -> bool:
        """Whether it has ended without a whole answer, so that a new request needs a new call."""
        return self._ended and not self.is_whole

    async def head(self) -> AnswerHead:
        """Wait for the status and headers. Raises GatewayRefusal."""
        while self._head is None:
            if self._refusal is not None:
                raise self._refusal
            await self._changed.wait()
        return self._head

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body from its beginning, as it arrives. Ends with BrokenAnswer if it is not whole."""
        at = 0
        while True:
            while at < self.size:
                piece = self.read(at, PIECE)
                at += len(piece)
                yield piece
            if self._ended:
                break
            await self._changed.wait()
        if self._broken:
            raise BrokenAnswer

    def read(self, at: int = 0, size: int = -1) -> bytes:
        """Read bytes that have arrived."""
        self._bytes.seek(at)
        return self._bytes.read(size)
