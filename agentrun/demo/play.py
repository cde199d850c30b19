"""The three kills of the demo, each at an exact moment, each followed by a new process.

Every process is killed by SIGKILL, which a process cannot catch. The demo does not rely on sleeping
to hit a moment. Either a double holds an answer back, or the agent's process stops by itself (see
`worker`); then the demo kills the process.
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

__all__ = ["HELD", "DemoFailed", "Moment", "ProcessEnd", "WorkerProcess", "play"]

HELD = "@held"  # a process prints this when it stops by itself
PATIENCE = 180.0  # seconds that one process may take; a real model may be slow
POLL = 0.03  # seconds
WORDS = 8  # words of the model's second reply before its stream is held


class DemoFailed(Exception):
    """A process of the agent ended in an error, or never reached its moment."""


@dataclass(frozen=True)
class Moment:
    """A moment at which a process is killed."""

    name: str
    meaning: str
    reached: Callable[[WorkerProcess], bool]
    hold: str = ""  # where the process stops by itself, see `worker`


@dataclass(frozen=True)
class ProcessEnd:
    """How one process of the agent ended."""

    number: int  # the first is 1
    moment: Moment | None  # at which it was killed; None for the one that finished
    last_words: str  # the model's words that it printed last


class WorkerProcess:
    """A process that runs the agent; it is killed by SIGKILL at the end of the ``with`` block."""

    def __init__(self, world: World, key: str, hold: str = "") -> None:
        self._command = [sys.executable, "-P", "-m", "agentrun.demo.worker"]
        self._command += [key, world.message, world.model, hold]
        self._environment = world.environment()
        # Set when the process has ended:
        self.killed = False
        self.last_words = ""  # the model's words that it printed last

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # Files without a name take any amount of output, and vanish with the last process.
            self._out = stack.enter_context(tempfile.TemporaryFile())
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            # In its own session, Ctrl-C does not reach the process: the demo ends it.
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
        self.last_words = self.output().replace(HELD, "").strip().rpartition("\n")[2]

    def wait_for(self, reached: Callable[[WorkerProcess], bool]) -> bool:
        """Wait for a moment; return false if the process finished its work first.

        Raises DemoFailed if the process ends in an error, or takes longer than `PATIENCE`.
        """
        patience = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if reached(self):
                return True
            if time.monotonic() > patience:
                raise DemoFailed(
                    f"the agent is still not done after {PATIENCE:g} s\n{self.errors()}"
                )
            time.sleep(POLL)
        if self.process.returncode != 0:
            raise DemoFailed(f"the agent ended with {self.process.returncode}\n{self.errors()}")
        return False

    def output(self) -> str:
        """The output of the process so far."""
        return _text(self._out)

    def errors(self) -> str:
        """The end of what the process printed on stderr."""
        return _text(self._errors).strip()[-2000:]


def _text(file: IO[bytes]) -> str:
    # By pread: the writing process shares the file position, so a seek would disturb it.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode("utf-8", "replace")


def play(world: World, key: str) -> Iterator[ProcessEnd]:
    """Run the agent, kill it at each moment and resume it, until it is done."""
    number = 0
    for number, moment in enumerate(_moments(world, key), 1):
        with WorkerProcess(world, key, moment.hold) as worker:
            worker.wait_for(moment.reached)
        yield ProcessEnd(number, moment if worker.killed else None, worker.last_words)
        if not worker.killed:
            return  # with a real model, the agent may be done before it reaches every moment
    with WorkerProcess(world, key) as worker:
        worker.wait_for(_never)
    yield ProcessEnd(number + 1, None, worker.last_words)


def _moments(world: World, key: str) -> Iterator[Moment]:
    stream = "inside a streaming model call"
    lost = "The answer is lost: asked for again, perhaps billed twice."
    if world.provider is not None:
        # The first chunk names the role; each further chunk is a word.
        world.provider.arm(Fault.hold(at=1 + WORDS, when={"turn": 1}))
        yield Moment(stream, lost, _stream_is_held(world.provider))
    else:
        yield Moment(stream, lost, _is_still, hold="answer:2")
    world.carrier.arm(Fault.hold(at="effect", when={"method": "POST"}))
    yield Moment(
        "between a tool's effect and its record",
        "A van is booked, unrecorded: the carrier will be asked.",
        _holds_request(world.carrier),
    )
    calls = sum(step.kind == "model" and step.status == "ok" for step in _steps(key))
    yield Moment(
        "between turns",
        "All tools are recorded, the model is not asked yet.",
        _is_still_and_recorded(key),
        hold=f"request:{calls + 1}",
    )


def _stream_is_held(provider: Control) -> Callable[[WorkerProcess], bool]:
    """Whether the stream is held, and its words so far have arrived."""
    held = _holds_request(provider)
    return lambda worker: held(worker) and not worker.output().endswith("\n")


def _holds_request(double: Control) -> Callable[[WorkerProcess], bool]:
    def reached(_: WorkerProcess) -> bool:
        try:
            double.wait_for("held", timeout=POLL)
        except TimeoutError:
            return False
        return True

    return reached


def _is_still(worker: WorkerProcess) -> bool:
    return HELD in worker.output()


def _is_still_and_recorded(key: str) -> Callable[[WorkerProcess], bool]:
    """Whether the process has stopped, and the outcomes of the turn before are in the journal."""

    def reached(worker: WorkerProcess) -> bool:
        return _is_still(worker) and all(step.finished_at for step in _steps(key))

    return reached


def _never(_: WorkerProcess) -> bool:
    return False


def _steps(key: str) -> tuple[Any, ...]:
    return agentrun.transcript(key).steps
