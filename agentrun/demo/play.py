"""The play: three kills, each at an exact moment, each followed by a new process.

Every process gets SIGKILL, which nothing can catch. No moment is hit by sleeping: the double of
the model and the carrier hold an answer back, or the agent's process holds still by itself (see
`worker`), and the demo kills when that is so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import agentrun
from agentrun.demo.world import World
from agentrun.testing import Control, Fault

__all__ = ["HELD", "Ended", "Failed", "Moment", "Worker", "play"]

HELD = "@held"  # what a process prints when it holds still
PATIENCE = 180.0  # seconds that one process may take; a real model may think for long
POLL = 0.03  # seconds
WORDS = 8  # of the model's second reply, until the stream is held


class Failed(Exception):
    """A process of the agent ended in an error, or never came to its moment."""


@dataclass(frozen=True)
class Moment:
    """Where a process is to be killed."""

    name: str
    meaning: str
    reached: Callable[[Worker], bool]
    hold: str = ""  # where the process holds still by itself, see `worker`


@dataclass(frozen=True)
class Ended:
    """How one process of the agent ended."""

    number: int  # the first is 1
    moment: Moment | None  # at which it was killed; None for the one that finished
    said: str  # the model's words that it printed last


class Worker:
    """A process that runs the agent; at the end of the ``with`` it gets SIGKILL, and is gone."""

    def __init__(self, world: World, key: str, hold: str = "") -> None:
        self._command = [sys.executable, "-P", "-m", "agentrun.demo.worker"]
        self._command += [key, world.message, world.model, hold]
        self._environment = world.environment()
        # Known once it has ended:
        self.killed = False
        self.said = ""  # the model's words that it printed last

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # Files without a name: they hold any amount, and go when the last process goes.
            self._out = stack.enter_context(tempfile.TemporaryFile())
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            # A session of its own: Ctrl-C is for the demo, which then ends the process.
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=self._out,
                stderr=self._errors,
                start_new_session=True,
            )
            stack.callback(self._kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _kill(self) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipe and reaps
        self.killed = self.process.returncode == -signal.SIGKILL
        self.said = self.output().replace(HELD, "").strip().rpartition("\n")[2]

    def comes_to(self, reached: Callable[[Worker], bool]) -> bool:
        """Wait for a moment; false if the process finished its work before.

        Raises Failed if it ended in an error, or takes longer than `PATIENCE`.
        """
        patience = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if reached(self):
                return True
            if time.monotonic() > patience:
                raise Failed(f"the agent is still not done after {PATIENCE:g} s\n{self.errors()}")
            time.sleep(POLL)
        if self.process.returncode != 0:
            raise Failed(f"the agent ended with {self.process.returncode}\n{self.errors()}")
        return False

    def output(self) -> str:
        """What it printed."""
        return _text(self._out)

    def errors(self) -> str:
        """The end of what it printed on standard error."""
        return _text(self._errors).strip()[-2000:]


def _text(file: IO[bytes]) -> str:
    # By pread, as the position in the file is shared with the process that writes.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode("utf-8", "replace")


def play(world: World, key: str) -> Iterator[Ended]:
    """Run the agent, killing it at each moment and resuming it, until it is done."""
    number = 0
    for number, moment in enumerate(_moments(world, key), 1):
        with Worker(world, key, moment.hold) as worker:
            worker.comes_to(moment.reached)
        yield Ended(number, moment if worker.killed else None, worker.said)
        if not worker.killed:
            return  # a real model may be done before it comes to every moment
    with Worker(world, key) as worker:
        worker.comes_to(_never)
    yield Ended(number + 1, None, worker.said)


def _moments(world: World, key: str) -> Iterator[Moment]:
    stream = "inside a streaming model call"
    lost = "The answer is lost: asked for again, perhaps billed twice."
    if world.provider is not None:
        # The first chunk names the role, each further one is a word.
        world.provider.arm(Fault.hold(at=1 + WORDS, when={"turn": 1}))
        yield Moment(stream, lost, _talking(world.provider))
    else:
        yield Moment(stream, lost, _still, hold="answer:2")
    world.carrier.arm(Fault.hold(at="effect", when={"method": "POST"}))
    yield Moment(
        "between a tool's effect and its record",
        "A van is booked, unrecorded: the carrier will be asked.",
        _held_by(world.carrier),
    )
    calls = sum(step.kind == "model" and step.status == "ok" for step in _steps(key))
    yield Moment(
        "between turns",
        "All tools are recorded, the model is not asked yet.",
        _still_and_recorded(key),
        hold=f"request:{calls + 1}",
    )


def _talking(provider: Control) -> Callable[[Worker], bool]:
    """The stream is held, and the words so far have arrived."""
    held = _held_by(provider)
    return lambda worker: held(worker) and not worker.output().endswith("\n")


def _held_by(double: Control) -> Callable[[Worker], bool]:
    def reached(_: Worker) -> bool:
        try:
            double.wait_for("held", timeout=POLL)
        except TimeoutError:
            return False
        return True

    return reached


def _still(worker: Worker) -> bool:
    return HELD in worker.output()


def _still_and_recorded(key: str) -> Callable[[Worker], bool]:
    """The process holds still, and the outcomes of the turn before are in the journal."""

    def reached(worker: Worker) -> bool:
        return _still(worker) and all(step.finished_at for step in _steps(key))

    return reached


def _never(_: Worker) -> bool:
    return False


def _steps(key: str) -> tuple[Any, ...]:
    return agentrun.transcript(key).steps
