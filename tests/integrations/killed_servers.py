"""Servers, and their clients, that are killed at one of their points and started again."""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from crashing import spawn

from agentrun.core import points

PATIENCE = 90.0  # seconds that a case may take


class Process:
    """A forked child that is killed at its point ``at``, and then started again without a kill."""

    def __init__(self, action: Callable[[], object], at: int | None = None) -> None:
        self.action, self.kills = action, 0
        self.passed = mmap.mmap(-1, 8)  # how many points it has passed
        self._start(at)

    def _start(self, at: int | None) -> None:
        numbers = itertools.count()

        def hook(point: str) -> None:
            if point.startswith("beat:"):
                return
            number = next(numbers)
            self.passed[:] = (number + 1).to_bytes(8, "big")
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def live() -> None:
            logging.disable(logging.CRITICAL)
            points.arm(hook)
            self.action()

        self.pid = spawn(live)

    def has_ended(self) -> bool:
        """Whether it has ended by itself. If it was killed, it is started again."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            self.kills += 1
            self._start(None)
            return False
        assert code == 0, f"exit status {code}"
        return True

    @property
    def points(self) -> int:
        """How many points the process that lives, or lived last, has passed."""
        return int.from_bytes(self.passed[:], "big")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextmanager
def listening(serve: Callable[[], object], port: int, at: int | None = None) -> Iterator[Process]:
    """A server, which has begun to listen at the port of this machine."""
    server = Process(serve, at)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            server.has_ended()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
