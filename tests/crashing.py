"""Real crashes, quickly: the action runs in a forked child that kills itself with SIGKILL."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path


def die() -> None:
    """What a power cut does to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_recorded() -> None:
    """Die once everything that the current run did is durable."""
    import agentrun

    run = agentrun.current_run()
    assert run is not None
    run.database.writer.wait(run.append())
    die()


def killed(action: Callable[[], object]) -> None:
    """Run ``action`` in a child of its own, which must end by SIGKILL."""
    assert in_child(action) == -signal.SIGKILL, "the child was to be killed"


def in_child(action: Callable[[], object]) -> int:
    """Run ``action`` in a forked child; its exit status, or minus the signal that ended it."""
    return ended(spawn(action))


def spawn(action: Callable[[], object]) -> int:
    """Fork a child for ``action``; its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: we do no more
        pid = os.fork()
    if pid == 0:
        code = 70
        try:
            action()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come, for a minute at the most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute in vain"
        time.sleep(0.01)


class World:
    """Effects, counted outside any process: a line in a file for each, synced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def act(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(what + "\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def effects(self) -> list[str]:
        return self.path.read_text().splitlines()
