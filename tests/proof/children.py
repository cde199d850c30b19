"""Children that are struck at a point of `core.points`, and many of their stories at once.

A story is a generator that yields the child it waits for, and is sent how that ended: its exit
status, minus the signal that ended it, or `STOPPED`. `play` keeps several stories going in one
process without a thread, for whoever forks should have none.
"""

from __future__ import annotations

import faulthandler
import itertools
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Self

from crashing import spawn

from agentrun.core import points

STOPPED = -signal.SIGSTOP
PATIENCE = 120.0  # seconds after which a child shows where its threads stand, and ends
SLOT = 32  # bytes that the name of a point takes
LOOK = 0.001  # seconds between looks at children

At = int | str | None
Story = Generator["Child", int, None]


class Child:
    """A forked child that does ``action``, struck by a signal at one of its points.

    ``at`` is a number, counted from 0 over all threads, or a name, meant is its first time.
    """

    def __init__(
        self,
        action: Callable[[], object],
        at: At = None,
        strike: signal.Signals = signal.SIGKILL,
    ) -> None:
        self._trace = mmap.mmap(-1, SLOT * 4096)  # shared with the child
        self.over = False

        def live() -> None:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            points.arm(_striker(self._trace, at, strike))
            action()

        self.pid = spawn(live)

    def passed(self) -> list[str]:
        """The points that the child has passed, the one that it was struck at included."""
        if not self._trace.closed:
            self._passed = self._trace[:].replace(b"\0", b" ").decode().split()
        return self._passed

    def look(self) -> int | None:
        """How it ended, or STOPPED; None while it goes on. Each is told once."""
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            return STOPPED
        self.passed()
        self._trace.close()
        self.over = True
        return os.waitstatus_to_exitcode(status)

    def wait(self) -> int:
        """Wait for what `look` tells."""
        while (status := self.look()) is None:
            time.sleep(LOOK)
        return status

    def go_on(self) -> None:
        """Wake a stopped child."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it, unless it has ended."""
        if not self.over:
            os.kill(self.pid, signal.SIGKILL)
            while self.wait() == STOPPED:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def _striker(trace: mmap.mmap, at: At, strike: signal.Signals) -> Callable[[str], None]:
    """A hook that notes each point and strikes at one, in whichever thread passes it.

    It writes to memory, for a system call would let another thread go on between note and strike.
    """
    passed = itertools.count()
    named = itertools.count()

    def hook(point: str) -> None:
        number = next(passed)
        trace[number * SLOT : (number + 1) * SLOT] = point.encode().ljust(SLOT, b"\0")
        if number == at or (point == at and next(named) == 0):
            # Aimed at this thread: another would leave it a moment to go on.
            signal.pthread_kill(threading.get_ident(), strike)

    return hook


def play(stories: Iterable[Story], lanes: int) -> None:
    """Play all stories, up to ``lanes`` of them at a time."""
    left = iter(stories)
    under_way: dict[Story, Child] = {}
    try:
        while True:
            while len(under_way) < lanes and (story := next(left, None)) is not None:
                _go_on(under_way, story, None)
            if not under_way:
                return
            for story, child in list(under_way.items()):
                if (status := child.look()) is not None:
                    _go_on(under_way, story, status)
            time.sleep(LOOK)
    finally:
        for story, child in under_way.items():
            child.kill()
            story.close()


def _go_on(under_way: dict[Story, Child], story: Story, status: Any) -> None:
    child = under_way.pop(story, None)
    try:
        under_way[story] = story.send(status)
    except StopIteration:
        pass
    except Exception as error:
        if child is not None:
            passed = [point for point in child.passed() if not point.startswith("beat")]
            error.add_note(f"the child that it waited for passed {' '.join(passed)}")
        raise
