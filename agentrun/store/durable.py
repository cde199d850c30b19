"""When events are committed: what threads and tasks wait for, and how a loop is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

__all__ = ["Durable"]

NAP = 0.1  # seconds after which a thread looks for itself, should it not be woken


class Durable:
    """Whether events are committed. A thread waits by `Writer.wait`, a task by `wait`.

    Not a Future: nobody can cancel it, and it costs a tenth of one, twice a step.
    """

    __slots__ = ("_asleep", "_waiting", "error", "settled")

    def __init__(self) -> None:
        self.settled = False
        self.error: BaseException | None = None
        self._waiting: list[tuple[_Loop, asyncio.Future[None]]] = []
        self._asleep: list[threading.Lock] = []  # each held while a thread sleeps for this

    def settle(self, error: BaseException | None = None) -> None:
        """Tell everybody, from the flushing thread. The first word stands."""
        again = self.settled  # Ctrl-C came while this told somebody: it is told all once more
        if not again:
            self.error, self.settled = error, True
        for loop, task in self._waiting:
            loop.wake(task, surely=again)
        self.wake()

    def sleep(self, busy: Callable[[], bool]) -> None:
        """Let the calling thread sleep until it is woken, unless nobody is ``busy`` to do that."""
        asleep = threading.Lock()
        asleep.acquire()
        self._asleep.append(asleep)
        if not self.settled and busy():  # asked after the lock is there to be found
            asleep.acquire(timeout=NAP)

    def wake(self) -> bool:
        """Wake the threads that sleep; False: none does."""
        woken = False
        with contextlib.suppress(IndexError):  # another thread may be at it
            while True:
                self._asleep.pop().release()
                woken = True
        return woken

    async def wait(self) -> None:
        """Wait in a task, which may be cancelled: that is nothing to the writer."""
        if not self.settled:
            loop = asyncio.get_running_loop()
            task = loop.create_future()
            self._waiting.append((_loop_of(loop), task))
            if not self.settled:  # it looks for waiters after it is settled, and we before
                await task
        if self.error is not None:
            raise self.error


class _Loop:
    """Wakes tasks of one event loop from another thread: those of a whole batch by one call.

    It knows the loop by its tasks alone, or `_loops` would keep every loop that ever was.
    """

    def __init__(self) -> None:
        self._ready: deque[asyncio.Future[None]] = deque()
        self._called = False

    def wake(self, task: asyncio.Future[None], *, surely: bool) -> None:
        self._ready.append(task)
        if surely or not self._called:
            self._called = True
            try:
                task.get_loop().call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: nobody waits in it
                self._ready.clear()

    def _deliver(self) -> None:
        self._called = False
        while self._ready:
            task = self._ready.popleft()
            if not task.done():
                task.set_result(None)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


def _loop_of(loop: asyncio.AbstractEventLoop) -> _Loop:
    found = _loops.get(loop)
    if found is None:
        found = _loops[loop] = _Loop()
    return found
