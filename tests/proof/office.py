"""The people around the runs: they submit, send, decide, cancel and resume; nobody kills them."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nursery import Nursery
from programs import Kit, Program, approved

import agentrun


class Office:
    """What is done for the runs of these programs from outside, on the process's default database.

    A letter is sent once; an answer is given as often as the inbox asks.
    """

    def __init__(self, kit: Kit, programs: Mapping[str, Program], nursery: Nursery) -> None:
        self.kit, self.programs, self.nursery = kit, programs, nursery
        self.waiting = list(programs)  # keys of programs that are not submitted yet
        self.due: list[tuple[float, Callable[[], object]]] = []  # what to do, and when
        self.resuming: dict[str, int] = {}  # key: the process that resumes it
        self.counts: Counter[str] = Counter()

    def open_for(self, more: int) -> None:
        """One round: submit so many more, send what is due, answer what the inbox asks."""
        for key in self.waiting[: max(0, more)]:
            self.submit(key, self.programs[key])
        del self.waiting[: max(0, more)]
        now = time.monotonic()
        for at, act in [task for task in self.due if task[0] <= now]:
            self.due.remove((at, act))
            act()
        for asks in agentrun.inbox():
            self.answer(asks)

    def submit(self, key: str, wanted: Program) -> None:
        """A program begins; what is to happen to it is noted."""
        agent = self.kit.agent(wanted.is_async).with_options(key=key)
        agent.submit(wanted.body, wanted.fails)
        now = time.monotonic()
        for number, after in wanted.signals.items():
            self.due.append((now + after, partial(agentrun.send, key, f"go {number}", number)))
        if wanted.cancelled is not None:
            self.due.append((now + wanted.cancelled, partial(self.cancel, key)))

    def cancel(self, key: str) -> None:
        """Cancel a run, unless it has ended."""
        with contextlib.suppress(agentrun.RunError):
            agentrun.cancel(key, by="ada")
            self.counts["cancel"] += 1

    def answer(self, asks: Any) -> None:
        """Decide what the inbox asks, as somebody who looks at the world outside."""
        key, step, number = asks.key, asks.step, (asks.args or {}).get("n")
        with contextlib.suppress(agentrun.RunError):  # it went on meanwhile
            if step is None:
                self.resume(key)
            elif asks.name == "approve" and asks.waits_for == "decision":
                (agentrun.approve if approved(number) else agentrun.reject)(key, step, by="ada")
                self.counts["decide"] += 1
            else:
                done = self.kit.ledger.done(key.partition("/")[0], asks.idempotency_key)
                outcome = agentrun.Happened(number) if done else agentrun.NotHappened()
                agentrun.resolve(key, step, outcome, by="ada")
                self.counts["resolve"] += 1

    def resume(self, key: str) -> None:
        """Have a run go on that was parked because it kept killing its workers."""
        if self.resuming.get(key) not in self.nursery.alive():
            self.resuming[key] = self.nursery.spawn("resume", key)
            self.counts["resume"] += 1
