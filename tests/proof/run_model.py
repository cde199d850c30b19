"""What must be true of runs, workers and letters: a second statement of it, in plain Python.

Nothing here is agentrun's. `test_stateful.py` does the same things to this model and to a real
database, and compares what each answers and what both then look like.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

ENDED = ("done", "failed", "cancelled")


@dataclass(eq=False)
class Worker:
    """One incarnation of a process that executes runs."""

    name: str
    gone: bool = False  # killed, and the kernel says so
    silent: bool = False  # no beat for a whole lease
    dead: str | None = None  # declared so; why
    told: bool = False  # it has noticed
    forgotten: bool = False  # its row was pruned

    def looked_at(self) -> bool:
        """Somebody looks whether it lives; if not, that is declared, once and for good."""
        if self.dead is None and (self.gone or self.silent):
            self.dead = "process gone" if self.gone else "lease expired"
        return self.dead is None

    def seems_alive(self) -> bool:
        """Whether it was heard of lately."""
        return not (self.gone or self.silent or self.dead)

    def may_send(self) -> bool:
        """Whether it may begin an effect: it beats first if its lease is old, and so finds out."""
        if self.silent and not self.told:
            self.beats()
        return not self.told

    def beats(self) -> None:
        """It says that it lives, or finds that it is dead."""
        if self.dead is not None:
            self.told = True
        else:
            self.silent = False

    def settled(self) -> bool:
        """Whether nothing that it began can still be sent."""
        return self.silent or self.dead in ("stopped", "process gone")


@dataclass(eq=False)
class Letter:
    """What somebody told a run."""

    kind: str
    step: int | None
    sent: int  # when
    says: object = None
    answers: int | None = None  # of a decision: where in the journal the request stands
    read: bool = False


@dataclass(eq=False)
class Request:
    """What a step asks a person."""

    waits_for: str  # "doubt" or "decision"
    seq: int  # where in the journal it stands
    answer: Letter | None = None  # the first decision that was sent


@dataclass(eq=False)
class Step:
    """One step of a run, as its journal knows it."""

    number: int
    effect: str
    attempts: int = 0
    opened_by: str | None = None  # the worker whose attempt has no outcome
    request: Request | None = None  # what it asks, until that is decided
    decided: set[str] = field(default_factory=set)  # what was: "doubt", "decision"
    by_letter: bool = False  # ever
    outcome: tuple[str, object] | None = None

    @property
    def in_doubt(self) -> bool:
        return self.request is not None and self.request.waits_for == "doubt"

    @property
    def asks(self) -> bool:
        return self.request is not None and self.request.waits_for == "decision"


@dataclass(eq=False)
class Run:
    """One run: its row, the end of its journal, its steps and its mail."""

    key: str
    age: int
    priority: int
    wakes: float | None  # when it is due: in the order of time; None: never by itself
    status: str = "queued"
    owner: Worker | None = None
    epoch: int = 0
    length: int = 1
    parked_for: str | None = None
    parked_step: int | None = None
    parked: int = 0  # when
    steps: dict[int, Step] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    late: dict[tuple[int, int], tuple[str, object]] = field(default_factory=dict)
    pruned: bool = False

    @property
    def is_parked(self) -> bool:
        return self.status in ("waiting", "held")

    def asking(self, waits_for: str) -> list[int]:
        """Steps that ask a person for this, decided about or not, whoever has the run."""
        return [
            step.number
            for step in self.steps.values()
            if self.status not in ENDED and step.request and step.request.waits_for == waits_for
        ]

    @property
    def inbox(self) -> list[tuple[str, int | None]]:
        """What waits for a person: each request without an answer, else why the run is held.

        Not what a person has answered already, and the run will read when it is next taken up.
        """
        if self.status in ENDED:
            return []
        requests = [(step.request, step.number) for step in self.steps.values() if step.request]
        if self.status == "held" and not requests:
            return [("decision", self.parked_step)]
        return [(asked.waits_for, number) for asked, number in requests if asked.answer is None]

    def unread(self, kind: str, step: int | None = None) -> list[Letter]:
        """Letters of this kind (about this step) that the run has not read, oldest first."""
        return [
            letter
            for letter in self.letters
            if letter.kind == kind and letter.step == step and not letter.read
        ]


@dataclass(eq=False)
class Claim:
    """What a process that took a run believes: that the run is its own."""

    run: Run
    worker: Worker
    epoch: int
    over: bool = False  # it let go, or was told that it lost the run


class Model:
    """All runs and workers. A method says what the database must answer."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.pruned: set[str] = set()  # keys
        self._clock = count(1)

    # -- runs ------------------------------------------------------------------------------------

    def submit(self, key: str, priority: int, later: bool) -> bool:
        """A key is one run: whether it was made now."""
        if key in self.runs or key in self.pruned:
            return False
        self.runs[key] = Run(key, next(self._clock), priority, math.inf if later else None)
        return True

    def ready(self, most: int) -> list[Run]:
        """Which runs a worker that asks for so many must get."""
        queued = [r for r in self.runs.values() if r.status == "queued" and r.wakes is None]
        due = [r for r in self.runs.values() if r.is_parked and (r.wakes or math.inf) < math.inf]
        queued = sorted(queued, key=lambda run: (-run.priority, run.age))[:most]
        due = sorted(due, key=lambda run: run.wakes or 0)[:most]
        return sorted(queued + due, key=lambda run: (-run.priority, run.age))[:most]

    def claim(self, run: Run, worker: Worker) -> Claim:
        """The run changes hands, and what was parked at is past."""
        run.status, run.owner, run.epoch, run.length = (
            "running",
            worker,
            run.epoch + 1,
            run.length + 1,
        )
        run.wakes = run.parked_for = run.parked_step = None
        return Claim(run, worker, run.epoch)

    def is_owned(self, run: Run, by_other_than: Worker) -> bool:
        """Whether somebody else who lives has it; the dead are declared dead by the asking."""
        owner = run.owner
        return owner is not None and owner is not by_other_than and owner.looked_at()

    def append(self, claim: Claim, events: int = 1) -> bool:
        """Only the owner writes: whether these events are in, all of them or none."""
        accepted = not claim.over and claim.run.epoch == claim.epoch
        claim.over = not accepted
        claim.run.length += events if accepted else 0
        return accepted

    def let_go(self, claim: Claim, status: str, events: int = 1) -> bool:
        """The last event of a claim: what comes after it is refused."""
        run = claim.run
        accepted = self.append(claim, events)
        claim.over = True
        if accepted:
            run.status, run.owner, run.wakes = status, None, None
            run.parked_for = run.parked_step = None
        return accepted

    def park(
        self, claim: Claim, parked_for: str, step: int | None, wakes: float | None,
        events: int = 1,
    ) -> bool:  # fmt: skip
        """The run waits: for a time, a letter, a person."""
        accepted = self.let_go(claim, "waiting" if parked_for == "time" else "held", events)
        if accepted:
            claim.run.parked_for, claim.run.parked_step = parked_for, step
            claim.run.wakes = wakes
            claim.run.parked = next(self._clock)
        return accepted

    def prune(self, workers: Iterable[Worker]) -> list[Run]:
        """What has ended goes, with all that belongs to it; and who is gone for certain."""
        gone = [run for run in self.runs.values() if run.status in ENDED]
        for run in gone:
            del self.runs[run.key]
            self.pruned.add(run.key)
            run.pruned = True
            run.letters.clear()
            for step in run.steps.values():
                step.request = None
            run.late.clear()
        owners = [run.owner for run in self.runs.values()]
        for worker in workers:
            certain = worker.dead in ("stopped", "process gone")
            worker.forgotten |= certain and worker not in owners
        return gone

    # -- steps -------------------------------------------------------------------------------------

    def begin(self, claim: Claim, step: Step) -> bool:
        """An attempt's intent."""
        accepted = self.append(claim)
        if accepted:
            claim.run.steps[step.number] = step
            step.attempts += 1
            step.opened_by, step.request = claim.worker.name, None
        return accepted

    def finish(self, claim: Claim, step: Step, attempt: int, status: str, value: object) -> bool:
        """An attempt's outcome; of an owner that lost the run it is kept aside, the first one."""
        accepted = self.append(claim)
        if accepted:
            self._over(step, status, value)
        elif step.effect != "read":
            self._keep(claim.run, (step.number, attempt), (status, value))
        return accepted

    def fail(self, claim: Claim, step: Step) -> bool:
        """An attempt that failed, and another may follow."""
        accepted = self.append(claim)
        if accepted:
            step.opened_by = None
        return accepted

    def raise_doubt(self, claim: Claim, step: Step) -> bool:
        """Nobody knows what became of an attempt: the run waits for a person."""
        seq, raised = claim.run.length + 1, not step.in_doubt
        accepted = self.park(claim, "doubt", step.number, None, events=1 + raised)
        if accepted and raised:
            step.request = Request("doubt", seq)
        return accepted

    def ask(self, claim: Claim, steps: list[Step], parks: bool) -> bool:
        """Calls that wait for an approval, all of a reply at once; others may be under way."""
        run, seq, events = claim.run, claim.run.length + 1, len(steps) + parks
        accepted = (
            self.park(claim, "approval", steps[0].number, None, events)
            if parks
            else self.append(claim, events)
        )
        for at, step in enumerate(steps if accepted else (), seq):
            run.steps[step.number] = step
            step.request = Request("decision", at)
        return accepted

    def decide(
        self, claim: Claim, step: Step, outcome: tuple[str, object] | None, letter: Letter | None
    ) -> bool:
        """What was decided about a step, and its outcome if it is one."""
        accepted = self.append(claim, 1 + (outcome is not None))
        if accepted:
            step.decided.add("decision" if step.asks else "doubt")
            step.opened_by = step.request = None
            if outcome is not None:
                self._over(step, *outcome)
            if letter is not None:
                letter.read = step.by_letter = True
        elif outcome is not None:
            self._keep(claim.run, (step.number, max(1, step.attempts)), outcome)
        return accepted

    def receive(self, claim: Claim, step: Step, letter: Letter, events: int) -> bool:
        """A signal is read, and what it says is the outcome of the step that waited."""
        accepted = self.append(claim, events)
        if accepted:
            claim.run.steps[step.number] = step
            step.attempts, letter.read = 1, True
            self._over(step, "ok", letter.says)
        else:
            self._keep(claim.run, (step.number, 1), ("ok", letter.says))
        return accepted

    def _keep(self, run: Run, attempt: tuple[int, int], outcome: tuple[str, object]) -> None:
        if not run.pruned:
            run.late.setdefault(attempt, outcome)

    def _over(self, step: Step, status: str, value: object) -> None:
        step.outcome, step.opened_by, step.request = (status, value), None, None

    # -- mail --------------------------------------------------------------------------------------

    def send(self, run: Run, kind: str, step: int | None = None, says: object = None) -> Letter:
        """A letter makes a parked run due."""
        now = next(self._clock)
        letter = Letter(kind, step, now, says)
        run.letters.append(letter)
        if run.is_parked:
            run.wakes = now
        return letter

    def asked(self, run: Run, kind: str, number: int) -> Request | None:
        """What a decision of this kind about this step would answer."""
        waits_for = "doubt" if kind == "resolve" else "decision"
        return run.steps[number].request if number in run.asking(waits_for) else None

    def is_decided(self, run: Run, kind: str, number: int) -> bool:
        """Whether somebody was first with a decision of this kind about this step."""
        if request := self.asked(run, kind, number):
            return request.answer is not None
        waits_for = "doubt" if kind == "resolve" else "decision"
        return number in run.steps and waits_for in run.steps[number].decided

    def answer(self, run: Run, kind: str, number: int, says: object = None) -> bool:
        """A decision that is sent only where it is the first: whether it is."""
        request = self.asked(run, kind, number)
        first = request is not None and request.answer is None
        return first and self.write(run, kind, number, says, counts=True)

    def write(self, run: Run, kind: str, number: int, says: object, counts: bool) -> bool:
        """A letter that may decide; whether the database takes it, be it for nothing.

        ``counts``: it can be read, and is about what the step asks.
        """
        request = self.asked(run, kind, number) if counts else None
        if request is None and number in run.steps and run.steps[number].by_letter:
            return False
        if request is not None and request.answer is not None:
            return False
        letter = self.send(run, kind, number, says)
        if request is not None:
            request.answer, letter.answers = letter, request.seq
        return True

    def wake(self, run: Run, seen: Iterable[Letter] | None) -> None:
        """The parker looks again: for a cancellation, or what its steps have not seen."""
        known = run.letters if seen is None else list(seen)
        news = [one for one in run.letters if one.kind == "cancel" or one not in known]
        if run.is_parked and any(not letter.read for letter in news):
            run.wakes = next(self._clock)

    def overlook(self, order: Iterable[str]) -> None:
        """Letters that came before their run was parked, and that nobody woke it for.

        Which of several is due first is nobody's promise: that is told by the ``order`` of keys.
        """
        for run in map(self.runs.__getitem__, order):
            early = [one for one in run.letters if not one.read and one.sent < run.parked]
            if run.is_parked and early and (run.wakes is None or run.wakes == math.inf):
                run.wakes = next(self._clock)
