"""An answer on its way: one writer, and any number of readers, each at its own pace."""

from __future__ import annotations

import asyncio
import tempfile
import weakref
from collections.abc import AsyncIterator, Sequence

__all__ = ["Broken", "Head", "Held", "Refusal"]

IN_MEMORY = 1 << 20  # bytes of an answer; what is longer goes to a file, which has no name
PIECE = 1 << 16  # bytes handed to a reader at once


class Refusal(Exception):
    """There is no answer to read: the gateway itself has this to say.

    ``lost`` tells of an answer that may be on the bill. It is told as a response that breaks off,
    which no client takes for a refusal by the provider.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry: bool = True, lost: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry, self.lost = status, code, retry, lost


class Broken(Exception):
    """The answer ends here, and is not whole."""


class Head:
    """Status and headers of an answer."""

    def __init__(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        self.status, self.headers = status, headers


class Held:
    """The bytes of one answer so far. Lives in one event loop.

    ``settled`` is set when nothing more will be known of it; ``kept`` tells whether it is whole,
    and so the answer for whoever asks again.
    """

    def __init__(self) -> None:
        self.stored = False  # it comes from the database
        self.doubts = 0  # earlier calls under the key that are possibly billed
        self.size = 0
        self.kept = False
        self.settled = asyncio.Event()
        self._head: Head | None = None
        self._refusal: Refusal | None = None
        self._ended = self._broken = False
        self._changed = asyncio.Event()
        self._bytes = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._bytes.close)

    # -- the writer ------------------------------------------------------------------------------

    def begin(self, head: Head) -> None:
        """The head is there."""
        self._head = head
        self._tell()

    def add(self, piece: bytes) -> None:
        """More of the body."""
        self._bytes.seek(self.size)
        self._bytes.write(piece)
        self.size += len(piece)
        self._tell()

    def end(self, *, kept: bool, broken: bool = False) -> None:
        """The body is at its end; ``broken`` before it was whole."""
        self.kept, self._broken, self._ended = kept, broken, True
        self._tell()

    def refuse(self, refusal: Refusal) -> None:
        """Nothing will come. Readers that have a head already see a broken answer."""
        self._refusal = refusal
        self.end(kept=False, broken=True)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- readers -----------------------------------------------------------------------------------

    @property
    def spent(self) -> bool:
        """Whether it has ended as nobody's answer: who asks now needs another call."""
        return self._ended and not self.kept

    async def head(self) -> Head:
        """Status and headers, once they are there. Raises Refusal."""
        while self._head is None:
            if self._refusal is not None:
                raise self._refusal
            await self._changed.wait()
        return self._head

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body from its beginning, as it comes. Raises Broken at the end of half an answer."""
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
            raise Broken

    def read(self, at: int = 0, size: int = -1) -> bytes:
        """Bytes that are there."""
        self._bytes.seek(at)
        return self._bytes.read(size)
