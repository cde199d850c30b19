"""What the tests of the room `models` stand on: a recorder in memory.

It is the contract of `agentrun.core.recorder` and no more: steps in a list, found again on a
second pass by what they ask. `tests/steps/test_model_step_contract.py` holds it to the contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agentrun.core.errors import Diverging, RunCancelled
from agentrun.core.flow import Flow, Op
from agentrun.core.recorder import CallFailed, ModelReply, ModelRequest, OpenReply, current
from agentrun.models import background_response


@dataclass
class MemoryStep:
    """One step, with everything that the transport told it, in order."""

    request: ModelRequest
    key: str
    recorded: ModelReply | None = None
    outcome: ModelReply | None = None
    attempts: int = 0
    failures: list[tuple[CallFailed, float]] = field(default_factory=list)
    waits: list[tuple[CallFailed, float]] = field(default_factory=list)
    tries_to_reach: int = 0  # how often an unreached provider is tried again
    prior_failures: int = 0
    cap: int | None = None
    accepted: str | None = None
    cancelled_at: str = ""  # "accepted": as soon as the provider works on it
    late: ModelReply | None = None
    interrupt: BaseException | None = None
    interrupted: bool = False
    age: float = 0.0

    def wait_to_poll(self, seconds: float, identifier: str) -> Flow[None]:
        self.age += seconds
        yield background_response.pause(seconds)

    def attempt(self) -> Flow[ModelReply | None]:
        yield Op(lambda: None, lambda: asyncio.sleep(0))
        if self.interrupt is not None:
            raise self.interrupt
        self.attempts += 1
        return self.late

    @property
    def unwanted(self) -> bool:
        return self.outcome is not None or self._cancelled

    def accept(self, identifier: str) -> Flow[None]:
        yield Op(lambda: None, lambda: asyncio.sleep(0))
        self.accepted = identifier

    def pick_up(self) -> Flow[None]:
        yield Op(self.check, lambda: asyncio.sleep(0))

    @property
    def _cancelled(self) -> bool:
        return self.cancelled_at == "accepted" and self.accepted is not None

    def check(self) -> None:
        if self._cancelled:
            raise RunCancelled("by ada")

    def record_failure(self, failure: CallFailed, retry_in: float) -> None:
        self.accepted = None
        self.failures.append((failure, retry_in))

    def await_provider(self, failure: CallFailed, patience: float) -> Flow[str | None]:
        self.waits.append((failure, patience))
        yield Op(lambda: None, lambda: asyncio.sleep(0))
        return None if len(self.waits) > self.tries_to_reach else "stands"

    def publish_partial(self, so_far: Callable[[], Any]) -> None:
        """Nobody reads along."""

    def begin_stream(self, reply: OpenReply) -> None:
        """No tool is called."""

    def abandon_attempt(self) -> None:
        self.interrupted = True

    def finish(self, reply: ModelReply) -> None:
        assert self.outcome is None, "a step has one outcome"
        self.outcome = reply


class MemoryRecorder:
    """Records model steps; `again()` is the recorder of the process that resumes."""

    in_step = False

    def __init__(self, recorded: tuple[MemoryStep, ...] = (), *, sealed: bool = False) -> None:
        self.steps: list[MemoryStep] = []
        self.next: dict[str, Any] = {}  # what the next new step is made with
        self._left = list(recorded)
        self._sealed = sealed

    def again(self) -> MemoryRecorder:
        return MemoryRecorder(tuple(self.steps), sealed=True)

    def open_model_step(self, request: ModelRequest) -> Flow[MemoryStep]:
        yield Op(lambda: None, lambda: asyncio.sleep(0))
        known = next((s for s in self._left if s.request.canonical == request.canonical), None)
        if known is not None:
            self._left.remove(known)
            step = MemoryStep(request, known.key, recorded=known.outcome or known.recorded)
            step.prior_failures = known.prior_failures + len(known.failures)
            step.accepted = None if step.recorded else known.accepted
        elif self._sealed:
            raise Diverging(f"nothing is recorded for {request.canonical}")
        else:
            step = MemoryStep(request, f"key-{len(self.steps) + 1}", **self.next)
        self.steps.append(step)
        return step

    @contextmanager
    def active(self) -> Iterator[MemoryRecorder]:
        token = current.set(self)
        try:
            yield self
        finally:
            current.reset(token)

    @property
    def step(self) -> MemoryStep:
        """The only step."""
        (step,) = self.steps
        return step

    @property
    def outcome(self) -> ModelReply:
        """The outcome of the only step."""
        assert self.step.outcome is not None, "the step has no outcome"
        return self.step.outcome
