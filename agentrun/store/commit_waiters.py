"""How threads and tasks wait for a commit, and how the writer wakes them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

__all__ = ["PendingCommit"]

NAP = 0.1  # seconds after which a sleeping thread looks by itself, in case it was not woken


class PendingCommit:
    """Whether the events of one append are committed. Threads use `Writer.wait`, tasks `wait`.

    This is no Future: a waiter cannot cancel it, and it costs a tenth of a Future, twice a step.
    """

    __slots__ = ("_asleep", "_waiting", "error", "finished")

    def __init__(self) -> None:
        self.finished = False
        self.error: BaseException | None = None
        self._waiting: list[tuple[_LoopWaker, asyncio.Future[None]]] = []
        self._asleep: list[threading.Lock] = []  # each is held while a thread sleeps for this

    def finish(self, error: BaseException | None = None) -> None:
        """Record the outcome and wake all waiters. Called by the flushing thread.

        The first outcome is kept. A second call means that Ctrl-C interrupted the first one, so all
        waiters are woken once more.
        """
        again = self.finished
        if not again:
            self.error, self.finished = error, True
        for waker, task in self._waiting:
            waker.wake(task, surely=again)
        self.wake()

    def sleep(self, busy: Callable[[], bool]) -> None:
        """Block the calling thread until it is woken, unless no thread is ``busy`` flushing."""
        asleep = threading.Lock()
        asleep.acquire()
        self._asleep.append(asleep)
        # Checked after the lock was added: a flusher that ends now finds it and releases it.
        if not self.finished and busy():
            asleep.acquire(timeout=NAP)

    def wake(self) -> bool:
        """Wake the threads that sleep; return False if there is none."""
        woken = False
        with contextlib.suppress(IndexError):  # another thread may empty the list at the same time
            while True:
                self._asleep.pop().release()
                woken = True
        return woken

    async def wait(self) -> None:
        """Wait in a task. Cancelling the task does not affect the writer."""
        if not self.finished:
            loop = asyncio.get_running_loop()
            task = loop.create_future()
            self._waiting.append((_waker_of(loop), task))
            # `finish` sets `finished` before it reads `_waiting`; here the order is the reverse.
            # So one of the two always sees the other.
            if not self.finished:
                await task
        if self.error is not None:
            raise self.error


class _LoopWaker:
    """Wakes the tasks of one event loop from another thread, by one call for a whole batch.

    It refers to the loop only through its tasks. A direct reference would keep every loop that was
    ever used alive in `_wakers`.
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
            except RuntimeError:  # the loop is closed, so no task waits in it
                self._ready.clear()

    def _deliver(self) -> None:
        self._called = False
        while self._ready:
            task = self._ready.popleft()
            if not task.done():
                task.set_result(None)


_wakers: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWaker] = WeakKeyDictionary()


def _waker_of(loop: asyncio.AbstractEventLoop) -> _LoopWaker:
    found = _wakers.get(loop)
    if found is None:
        found = _wakers[loop] = _LoopWaker()
    return found
