"""Real crashes, quickly: the action runs in a forked child that kills itself with SIGKILL."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import agentrun
from agentrun.steps.execution_point import current_context
from agentrun.testing.crash.child import fork_child as spawn
from agentrun.testing.crash.child import run_in_child as in_child
from agentrun.testing.crash.child import wait_for_exit as ended

__all__ = [
    "World",
    "die",
    "die_once",
    "die_recorded",
    "ended",
    "in_child",
    "killed",
    "spawn",
    "until",
]


def die() -> None:
    """What a power cut does to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_recorded() -> None:
    """Die once everything that the current run did is durable."""
    run = current_context()
    assert run is not None
    run.database.writer.wait(run.append())
    die()


def killed(action: Callable[[], object]) -> None:
    """Run ``action`` in a child of its own, which must end by SIGKILL."""
    assert in_child(action) == -signal.SIGKILL, "the child was to be killed"


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


@agentrun.step(effect="idempotent")
def die_once(world: str) -> None:
    """Die at the first call, once everything that the run did is durable."""
    place = World(Path(world))
    if "died" not in place.effects:
        place.act("died")
        die_recorded()
