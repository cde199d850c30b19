"""How long to wait for a database that is away: for ever, unless the process is about to end.

A run survives an outage because every call of the database waits until it succeeds. But SIGTERM,
Ctrl-C and the end of the interpreter must end the process within seconds, with or without a
database. So each wait checks a `Patience`. There is one for the process, which a signal or the end
of the interpreter hurries. A run or a task may have one of its own, below that of the process.

A hurried wait gives up after GRACE seconds: a statement in flight is cut off, and `Parking` is
raised, which hands the run back to the queue. Once a wait has given up, later waits with the same
patience give up at their first failure.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import Context, ContextVar
from itertools import count
from random import random
from typing import Any, TypeVar

import psycopg

from agentrun.core.errors import Parking
from agentrun.core.log import logger, should_log_again
from agentrun.core.pauses import Backoff

__all__ = [
    "GRACE",
    "PROCESS",
    "Patience",
    "at_exit",
    "current",
    "in_thread",
    "log_waiting",
    "retry_attempts",
    "use_patience",
    "wait_until_done",
]

T = TypeVar("T")

GRACE = 2.0  # seconds that an impatient wait goes on
_BACKOFF = Backoff(0.01, 1.0)  # before a database call is made again
_POLL = 0.1  # seconds between two checks for statements that have to be cut off
_CUT_FOR = 60.0  # seconds after which an interrupted run certainly has no statement in flight
_JOIN_POLL = 0.5  # seconds between two checks while a thread is joined


class Patience:
    """Decides whether a wait may go on. ``hurry`` may be called in a signal handler."""

    def __init__(self, above: Patience | None = None) -> None:
        self._above = above  # a wait gives up when this patience or the one above is over
        self._hurried: float | None = None  # when `hurry` was called, on the monotonic clock
        self._calls: dict[psycopg.BaseConnection[Any], float] = {}  # statements and their starts
        self._cutting = False  # a thread executes `_cut`
        self._gone = False  # a wait has given up
        self._closed = False

    @property
    def hurried(self) -> bool:
        """Whether waits give up."""
        above = self._above is not None and self._above.hurried
        return self._hurried is not None or above

    def hurry(self) -> None:
        """Make waits give up once they have lasted GRACE seconds from now."""
        if self._hurried is None:
            self._hurried = time.monotonic()
        # `close` sets `_closed` first and then resets `_hurried`. Here the order is the reverse, so
        # that a patience closed at the same time does not stay hurried.
        if self._closed:
            self._hurried = None
        elif not self._cutting:
            self._cutting = True
            with contextlib.suppress(RuntimeError):  # the interpreter starts no thread any more
                # Not `threading.Thread`: the interrupted thread may hold its locks.
                _thread.start_new_thread(self._cut, ())

    def relax(self) -> None:
        """Let waits go on for ever again, because the process does not end."""
        self._hurried, self._gone = None, False

    def close(self) -> None:
        """End this patience: no wait uses it any more, and a later `hurry` has no effect."""
        self._closed = True
        self.relax()

    @contextlib.contextmanager
    def hurrying(self) -> Iterator[None]:
        """Hurry during the block. If it was hurried before, it stays so afterwards."""
        before = self._hurried
        self.hurry()
        try:
            yield
        finally:
            if before is None:
                self.relax()

    def is_over(self, began: float) -> bool:
        """Whether a wait that began at this time, on the monotonic clock, has to give up."""
        hurried = self._hurried
        if hurried is None:
            return False
        return self._gone or time.monotonic() - max(began, hurried) > GRACE

    def check(self, began: float) -> None:
        """Raise Parking if a wait that began at this time has to give up."""
        if self.is_over(began):
            raise self.give_up()
        if self._above is not None:
            self._above.check(began)

    def give_up(self) -> Parking:
        """Record that a wait gives up, and return the exception to raise."""
        self._gone = True
        return Parking("the database is away and the process is stopping")

    def begin(self, conn: psycopg.BaseConnection[Any]) -> None:
        """Record that a statement is in flight on the connection, until `end`."""
        self._calls[conn] = time.monotonic()

    def end(self, conn: psycopg.BaseConnection[Any]) -> None:
        """Record that the statement has ended."""
        self._calls.pop(conn, None)

    def join(self, thread: threading.Thread) -> bool:
        """Wait for a thread to end; return False if the wait gave up and the thread goes on."""
        began = time.monotonic()
        thread.join(_JOIN_POLL)
        while thread.is_alive() and not self.is_over(began):
            thread.join(_JOIN_POLL)
        return not thread.is_alive()

    def _cut(self) -> None:
        """Shut the sockets of statements without an answer, so that their calls fail at once."""
        try:
            until = time.monotonic() + (_CUT_FOR if self._above else math.inf)
            while (hurried := self._hurried) is not None and time.monotonic() < until:
                for conn, began in list(self._calls.items()):
                    if time.monotonic() - max(began, hurried) > GRACE:
                        _shut(conn)
                time.sleep(_POLL)
        finally:
            self._cutting = False


def _shut(conn: psycopg.BaseConnection[Any]) -> None:
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(conn.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)


PROCESS = Patience()
current: ContextVar[Patience] = ContextVar("agentrun_patience", default=PROCESS)


@contextlib.contextmanager
def use_patience(patience: Patience) -> Iterator[None]:
    """Use this patience for the waits of the calling thread or task, and of those it starts."""
    token = current.set(patience)
    try:
        yield
    finally:
        current.reset(token)


def log_waiting(what: str, error: Exception, attempt: int) -> None:
    """Log that a call waits for the database or the blob store; not at every attempt."""
    if should_log_again(attempt):
        logger.warning("waiting for the %s: %s", what, str(error).strip() or type(error))


def retry_attempts() -> Iterable[int]:
    """Yield the numbers of attempts, and sleep between them: longer each time, up to a second.

    The sleep has jitter, so that processes do not return to a restarted server in step. Raises
    Parking instead of a further attempt when the wait has to give up.
    """
    began = time.monotonic()
    for attempt in count():
        if attempt:
            current.get().check(began)
        yield attempt
        time.sleep(_BACKOFF.pause_after(attempt, random()))


async def in_thread(call: Callable[[], T]) -> T:
    """Call in a thread. If the awaiting task is cancelled, the thread's waits give up soon."""
    if current.get() is not PROCESS:
        return await asyncio.to_thread(call)
    own = Patience(PROCESS)

    def call_and_close() -> T:
        try:
            return call()
        finally:
            own.close()

    try:
        with use_patience(own):
            return await asyncio.to_thread(call_and_close)
    except asyncio.CancelledError:
        own.hurry()
        raise


async def wait_until_done(done: Awaitable[T]) -> T:
    """Await ``done``. Raises Parking when the patience of the calling task is over."""
    own = current.get()
    if own is PROCESS or not own.hurried:
        return await done  # if the process ends, the journal writer fails all its waiters
    try:
        return await asyncio.wait_for(done, GRACE)
    except TimeoutError:
        raise own.give_up() from None


def at_exit(is_idle: Callable[[], bool]) -> None:
    """Hurry the process once its main thread has ended and it ``is_idle``.

    An `atexit` handler would run too late: the interpreter first joins the threads of executors,
    and these may be waiting for the database.
    """

    def watch() -> None:
        threading.main_thread().join()
        while not is_idle():
            time.sleep(_POLL)
        PROCESS.hurry()

    Context().run(threading.Thread(target=watch, name="agentrun-exit", daemon=True).start)
