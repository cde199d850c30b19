"""Random operations of several workers, people and deaths: the database against a small model.

Each worker is a real `Database` (writer, heart, claims) on a real Postgres; what its runner would
journal is appended by the rules. A worker may be silent for a lease, be declared dead and go on all
the same, end, or vanish. After every operation the rows of all runs are compared with
`run_model.Model`, and what `in_doubt` and `inbox` say; at the end of each example the workers'
deaths, the outcome of every step, and `invariants.sql`.

Hypothesis draws by AGENTRUN_SEED and shrinks what fails; it keeps no database of its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from invariants import violations
from psycopg.rows import dict_row
from run_model import ENDED, Claim, Letter, Model, Run, Step, Worker

import agentrun
from agentrun.core.errors import AlreadyDecided, LeaseLost
from agentrun.core.events import Event, ParkedFor
from agentrun.core.state import park_event
from agentrun.lifecycle.execute import ResumeRequest, _Claim
from agentrun.store import sending
from agentrun.store.arrays import UUIDS
from agentrun.store.connection import open_transaction
from agentrun.store.database import OpenDatabase
from agentrun.store.journal import JournalTail
from agentrun.store.keys import run_id_of
from agentrun.store.late_results import late_result
from agentrun.store.mail import letters_of, wake
from agentrun.store.rows import Row, to_row
from agentrun.store.runs import FoundRun, find_run
from agentrun.store.sending import Batch, Sender
from agentrun.store.values import read_events

if TYPE_CHECKING:
    from matrix import Grounds, Proof

pytestmark = pytest.mark.long

CASES = 85
EXAMPLES, STEPS = 20, 100  # of a case
SHRINKING = 30  # seconds, at most, to make what fails smaller
LEASE = 3600.0  # seconds: nobody's ends by itself while an example lasts
WORKERS = 3
KEYS = 4
PAST = datetime(2020, 1, 1, tzinfo=UTC)

KINDS = ["approve", "reject", "resolve"]
WRONG = ["", "unreadable", "about something else"]

T = TypeVar("T")
pick = st.integers(0, 999)  # one of what there is, if anything
rarely = st.integers(0, 9).map(lambda n: n == 9)

LOOK = """
    SELECT r.key, r.status, r.owner, r.epoch, r.parked_for, r.parked_step,
           CASE WHEN r.wake_at IS NULL THEN 'never' WHEN r.wake_at <= clock_timestamp() THEN 'now'
                ELSE 'later' END AS wakes,
           (SELECT count(*) FROM agentrun.journal j WHERE j.run_id = r.run_id) AS length,
           ARRAY(SELECT d.step FROM agentrun.in_doubt d WHERE d.run_id = r.run_id
                 ORDER BY 1) AS in_doubt,
           ARRAY(SELECT concat_ws(' ', i.waits_for, i.step) FROM agentrun.inbox i
                 WHERE i.run_id = r.run_id ORDER BY 1) AS inbox
    FROM agentrun.runs r WHERE r.agent = %s ORDER BY r.key"""
DUE = "SELECT key FROM agentrun.runs WHERE agent = %s ORDER BY wake_at, key"
DEATHS = "SELECT worker, cause FROM agentrun.workers WHERE worker = ANY(%s)"
GROW_SILENT = "UPDATE agentrun.workers SET lease = '0' WHERE worker = %s AND dead_at IS NULL"
BEAT = "UPDATE agentrun.workers SET lease = '1 hour' WHERE worker = %s AND dead_at IS NULL"
WRITE = "SELECT agentrun.send(%s, %s, %s, %s::json, claimed_by => 'eve', fingerprint => %s)"
VANISH = """
    UPDATE agentrun.workers SET process = process || '0', beat_at = beat_at - interval '1 hour'
    WHERE worker = %s"""


def chosen(number: int, things: Iterable[T]) -> T | None:
    """One of these, or None if there are none."""
    found = list(things)
    return found[number % len(found)] if found else None


@dataclass(eq=False)
class Held:
    """A claim, in a process that believes in it."""

    process: Process
    claim: Claim
    tail: JournalTail
    let_go: bool = False
    attempts: list[tuple[Step, int]] = field(default_factory=list)  # begun, and not finished

    @property
    def run(self) -> Run:
        return self.claim.run

    def in_question(self) -> list[Step]:
        """`once` steps whose attempt has no outcome, and is not under way here."""
        own = [step for step, _ in self.attempts]
        return [
            step
            for step in self.run.steps.values()
            if step.effect == "once" and step.opened_by is not None and step not in own
        ]

    def decided(self) -> list[Step]:
        """Steps that asked for an approval, and that somebody decided about."""
        return [s for s in self.run.steps.values() if s.asks and s.request and s.request.answer]


class Process:
    """A simulated process: its real database, the incarnation that it is, what it claimed."""

    def __init__(self, dsn: str) -> None:
        self.db = OpenDatabase(dsn, lease=LEASE)
        self.worker = Worker(self.db.heart.worker)
        self.held: list[Held] = []

    def append(self, held: Held, *events: Event) -> bool:
        """Journal events; whether they are in."""
        return self.waited(self.db.writer.append(held.tail, events))

    def waited(self, done: Any) -> bool:
        try:
            self.db.writer.wait(done)
        except LeaseLost:
            for thread in threading.enumerate():  # they keep what came too late
                if thread.name == "agentrun-late":
                    thread.join()
            return False
        return True

    def vanish(self) -> None:
        """End without a word."""
        self.db.heart_of(self.worker.name)._dead = True
        self.db.close(timeout=0)


# -- which operations are possible ---------------------------------------------------------------


def claims(runs: Runs) -> list[Held]:
    """What processes believe to own."""
    return [held for process in runs.processes for held in process.held]


def has_claims(runs: Runs) -> bool:
    return bool(claims(runs))


def has_attempts(runs: Runs) -> bool:
    return any(held.attempts for held in claims(runs))


def has_questions(runs: Runs) -> bool:
    return any(held.in_question() for held in claims(runs))


def has_decisions(runs: Runs) -> bool:
    return any(held.decided() for held in claims(runs))


def has_letters(runs: Runs) -> bool:
    return any(held.run.unread("signal") for held in claims(runs))


def has_doubts(runs: Runs) -> bool:
    return any(run.asking("doubt") for run in runs.model.runs.values())


def has_asking(runs: Runs) -> bool:
    return any(run.asking("decision") for run in runs.model.runs.values())


def has_steps(runs: Runs) -> bool:
    return any(run.steps for run in runs.model.runs.values())


def has_runs(runs: Runs) -> bool:
    return bool(runs.model.runs)


def has_ended(runs: Runs) -> bool:
    return any(run.status in ENDED for run in runs.model.runs.values())


def has_sent(runs: Runs) -> bool:
    return bool(runs.sent)


def every(turns: int, possible: Callable[[Runs], bool] = lambda runs: True) -> Any:
    """For operations that end things, or change little: only so often."""
    return lambda runs: runs.turn % turns == 0 and possible(runs)


class Runs(RuleBasedStateMachine):
    """The operations."""

    dsn: ClassVar[str]
    done: ClassVar[Counter[str]]  # what was done, over all examples
    examples: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).examples += 1
        self.prefix = f"{self.examples}-"
        self.model = Model()
        self.began = time.monotonic()
        self.conn = psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)
        self.conn.execute("SET plan_cache_mode = force_generic_plan")  # LOOK is mostly planning
        self.user: str = self.conn.execute("SELECT session_user AS name").fetchone()["name"]
        self.sender = Sender(self.dsn)
        self.office = agentrun.connect(self.dsn, lease=LEASE)
        self.clerk = Worker(self.office.heart.worker)
        self.processes = [Process(self.dsn) for _ in range(WORKERS)]
        self.workers = {worker.name: worker for worker in [self.clerk, *self.all_workers()]}
        self.snapshots: list[FoundRun] = []
        self.sent: list[tuple[Batch, bool, Run]] = []
        self.turn = 0

    @initialize()
    def begin_with_two_runs(self) -> None:
        for number in (1, 2):
            self.submit_run(number, 0, later=False)

    def all_workers(self) -> list[Worker]:
        return [process.worker for process in self.processes]

    def teardown(self) -> None:
        deaths = self.conn.execute(DEATHS, [list(self.workers)]).fetchall()
        outcomes = {key: self.outcomes(key) for key in self.model.runs}
        for process in self.processes:
            process.vanish()
        self.office.close(timeout=0)
        self.sender.close()
        self.conn.close()
        assert {r["worker"]: r["cause"] for r in deaths} == {
            n: w.dead for n, w in self.workers.items() if not w.forgotten
        }
        assert outcomes == {
            key: {step.number: step.outcome for step in run.steps.values() if step.outcome}
            for key, run in self.model.runs.items()
        }
        ours = {str(run_id_of(key)) for key in {*self.model.runs, *self.model.pruned}}
        assert [found for found in violations(self.dsn) if found[1] in ours] == []

    def outcomes(self, key: str) -> dict[int | None, tuple[str | None, object]]:
        """How the steps of a run ended, by its journal."""
        events, _ = read_events(self.office, run_id_of(key))
        ends = [event for event in events if event.event == "step_finished"]
        return {end.step: (end.status, end.output) for end in ends}

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        self.turn += 1
        found = self.conn.execute(LOOK, [self.prefix]).fetchall()
        expected = [self.row(run) for _, run in sorted(self.model.runs.items())]
        assert found == expected

    @staticmethod
    def row(run: Run) -> dict[str, Any]:
        wakes = "never" if run.wakes is None else "later" if run.wakes == math.inf else "now"
        return {
            "key": run.key,
            "status": run.status,
            "owner": run.owner and run.owner.name,
            "epoch": run.epoch,
            "parked_for": run.parked_for,
            "parked_step": run.parked_step,
            "wakes": wakes,
            "length": run.length,
            "in_doubt": sorted(run.asking("doubt")),
            "inbox": sorted(f"{what} {step}" if step else what for what, step in run.inbox),
        }

    # -- submitting and claiming -------------------------------------------------------------------

    @precondition(every(3))
    @rule(number=st.integers(1, KEYS), priority=st.integers(0, 1), later=rarely)
    def submit(self, number: int, priority: int, later: bool) -> None:
        self.submit_run(number, priority, later=later)

    def submit_run(self, number: int, priority: int, *, later: bool) -> None:
        key = f"{self.prefix}{number}"
        made = self.office.create(
            key, self.prefix, {"args": {}}, "", priority=priority, delay=LEASE if later else None
        )
        assert made == self.model.submit(key, priority, later)
        self.done["submit"] += 1

    @rule(who=pick, most=st.integers(1, 3))
    def take_what_is_ready(self, who: int, most: int) -> None:
        process = self.process(who)
        expected = self.model.ready(most)
        claims = process.db.query(
            "claim_ready",
            agents=[self.prefix],
            queues=["default"],
            limit=most,
            worker=process.worker.name,
            batch=uuid4(),
        )
        assert {claim["key"] for claim in claims} == {run.key for run in expected}
        for found in sorted(claims, key=lambda claim: claim["key"]):
            run = self.model.runs[found["key"]]
            events, shared = read_events(process.db, found["run_id"])
            assert (events[-1].event, events[-1].seq) == ("claimed", found["seq"])
            tail = JournalTail(
                found["run_id"], found["epoch"], process.worker.name, found["seq"], shared
            )
            process.held.append(Held(process, self.model.claim(run, process.worker), tail))
            self.done["claim_ready"] += 1

    @precondition(every(3, has_runs))
    @rule(which=pick)
    def look_at_a_run(self, which: int) -> None:
        """For later: by then it may have gone on."""
        if run := chosen(which, self.model.runs.values()):
            self.snapshots.append(find_run(self.office, run.key))

    @precondition(has_runs)
    @rule(who=pick, which=pick, stale=rarely, person=st.booleans(), silent=st.booleans())
    def claim(self, who: int, which: int, stale: bool, person: bool, silent: bool) -> None:
        """Perhaps just when its owner has not been heard of for a lease."""
        process = self.process(who)
        snapshots = self.snapshots if stale else []
        if not stale and (run := chosen(which, self.model.runs.values())):
            snapshots = [find_run(process.db, run.key)]
        seen = chosen(which, snapshots)
        ended = seen and seen.status in ENDED and not (person and seen.status == "failed")
        if seen is None or ended:
            return
        owner = self.workers[seen.owner] if seen.owner else None
        if silent and owner is not process.worker:
            self.silence(owner)
        busy = owner not in (None, process.worker) and (owner.forgotten or owner.looked_at())
        claim = _Claim(process.db, seen, ResumeRequest("ada") if person else None)
        if seen.key in self.model.pruned and not busy:
            with pytest.raises(agentrun.RunPruned):
                claim()
            self.done["claim of the pruned"] += 1
            return
        answer, run = claim(), self.model.runs.get(seen.key)
        if busy or run is None:
            assert answer == seen.owner
            self.done["claim of the living's"] += 1
        elif (run.epoch, run.status) != (seen.epoch, seen.status):
            assert answer is None
            self.done["claim too late"] += 1
        else:
            assert isinstance(answer, tuple)
            self.done["claim" if run.owner in (None, process.worker) else "take over"] += 1
            held = Held(process, self.model.claim(run, process.worker), answer[0])
            process.held.append(held)
            if seen.status == "failed":
                resumed = Event(event="resumed", by="ada")
                assert process.append(held, resumed) == self.model.append(held.claim)

    def process(self, who: int) -> Process:
        """One of the processes; one that noticed its death is another worker by now."""
        process = self.processes[who % WORKERS]
        if process.worker.told:
            process.worker = Worker(process.db.heart.worker)
            assert process.worker.name not in self.workers
            self.workers[process.worker.name] = process.worker
        return process

    # -- what an owner journals, or somebody who believes that he is one ---------------------------

    def held(self, which: int, has: Callable[[Held], object] = lambda held: held) -> Held | None:
        """A claim that ``has`` something; mostly one that is good."""
        every = [held for held in claims(self) if has(held)]
        good = [h for h in every if not h.claim.over and h.run.epoch == h.claim.epoch]
        return chosen(which // 3, good if good and which % 3 else every)

    @precondition(has_claims)
    @rule(which=pick, effect=st.sampled_from(["read", "idempotent", "once"]), again=pick)
    def begin(self, which: int, effect: str, again: int) -> None:
        held = self.held(which)
        if held is None:
            return
        step = chosen(again, [*self.open_to(held), None]) or self.new_step(held.run, effect)
        accepted = held.process.append(held, self.event("attempt_started", step, step.attempts + 1))
        assert accepted == self.model.begin(held.claim, step)
        self.done["begin"] += 1
        if accepted:
            held.attempts.append((step, step.attempts))
        self.fence(held)

    def fence(self, held: Held) -> None:
        """Nobody sends who was declared dead, unless it cannot send at all."""
        process, worker = held.process, held.claim.worker
        try:
            process.db.heart_of(worker.name).fence()
            passed = True
        except LeaseLost:
            passed = False
        assert passed == (worker is process.worker and worker.may_send())
        assert not (passed and worker.dead)
        if passed:
            self.conn.execute(BEAT, [worker.name])

    @precondition(has_attempts)
    @rule(which=pick, what=pick, status=st.sampled_from(["ok", "error"]))
    def finish(self, which: int, what: int, status: str) -> None:
        if (held := self.held(which, lambda held: held.attempts)) is None:
            return
        begun = held.attempts[what % len(held.attempts)]
        step, attempt = begun
        held.attempts.remove(begun)
        value = f"{held.claim.worker.name} {step.number} {attempt}"
        outcome = self.event("step_finished", step, attempt, status=status, output=value)
        accepted = held.process.append(held, outcome)
        assert accepted == self.model.finish(held.claim, step, attempt, status, value)
        self.done["finish" if accepted else "late"] += 1
        if not accepted:
            self.late(held.run, step.number, attempt)

    @precondition(has_attempts)
    @rule(which=pick, what=pick)
    def fail(self, which: int, what: int) -> None:
        if (held := self.held(which, lambda held: held.attempts)) is None:
            return
        begun = held.attempts[what % len(held.attempts)]
        held.attempts.remove(begun)
        accepted = held.process.append(held, self.event("attempt_failed", *begun))
        assert accepted == self.model.fail(held.claim, begun[0])
        self.done["fail"] += 1

    @staticmethod
    def event(name: Any, step: Step, attempt: int | None = None, **more: Any) -> Event:
        """One event of a tool call, as the runner fills it in."""
        told: dict[str, Any] = {"has_output": True} if "output" in more else {}
        return Event(
            event=name, step=step.number, kind="tool", name="act", ident=str(step.number),
            attempt=attempt, effect=step.effect, key=more.pop("key", f"key-{step.number}"),
            **told, **more,
        )  # fmt: skip

    @staticmethod
    def new_step(run: Run, effect: str) -> Step:
        return Step(len(run.steps) + 1, effect)

    @staticmethod
    def open_to(held: Held) -> list[Step]:
        """Steps without an outcome that may be attempted now."""
        own = [step for step, _ in held.attempts]
        return [
            step
            for step in held.run.steps.values()
            if step.outcome is None and step.request is None and step not in own
            and (step.opened_by is None or step.effect != "once")
        ]  # fmt: skip

    @precondition(every(2, has_claims))
    @rule(which=pick, events=st.integers(1, 2))
    def send_a_batch(self, which: int, events: int) -> None:
        """On a connection of its own; kept, to be sent again at any time."""
        held = self.held(which)
        if held is None or held.let_go:
            return
        batch = Batch([
            self.to_row(held, self.event("received", Step(0, "read"), key=None), seq)
            for seq in range(held.tail.seq + 1, held.tail.seq + 1 + events)
        ])  # fmt: skip
        accepted = bool(self.sender.send(batch))
        assert accepted == self.model.append(held.claim, events)
        held.tail.seq += events if accepted else 0
        self.sent.append((batch, accepted, held.run))
        self.done["send"] += 1

    @staticmethod
    def to_row(held: Held, event: Event, seq: int) -> Row:
        tail = held.tail
        return to_row(event, tail.run_id, seq, tail.epoch, tail.worker, tail.shared)

    @precondition(every(3, has_sent))
    @rule(which=pick)
    def send_it_again(self, which: int) -> None:
        """As after a lost answer: what is in is in once, what was refused stays out."""
        if found := chosen(which, self.sent):
            batch, accepted, run = found
            assert self.sender.send(batch) == (batch.runs if accepted and not run.pruned else set())
            self.done["resend"] += 1

    @precondition(every(2, has_claims))
    @rule(who=pick, first=pick, others=st.lists(pick, min_size=1, max_size=2))
    def append_together(self, who: int, first: int, others: list[int]) -> None:
        """Several runs in one commit, some of them perhaps lost."""
        every = self.processes[who % WORKERS].held
        taken = {held.run.key: held for n in [first, *others] if (held := chosen(n, every))}
        event = self.event("received", Step(0, "read"))
        waiting = [(h, h.process.db.writer.append(h.tail, [event])) for h in taken.values()]
        for held, done in waiting:
            assert held.process.waited(done) == self.model.append(held.claim)
            self.done["append"] += 1

    @precondition(every(3, has_claims))
    @rule(which=pick, ending=st.sampled_from(["commits", "rolls back", "answer lost", "cut"]))
    def transaction(self, which: int, ending: str) -> None:
        """A tool's own connection writes the checkpoint at a reserved seq."""
        held = self.held(which)
        if held is None or held.let_go:
            return
        db, step = held.process.db, self.new_step(held.run, "transaction")
        seq, before = db.writer.reserve(held.tail)
        assert before == []
        outcome = self.event("step_finished", step, 1, status="ok", output=seq)
        batch = Batch([self.to_row(held, outcome, seq)])
        conn = open_transaction(self.dsn)
        written = bool(sending.append(conn, batch))
        commits = written and ending in ("commits", "answer lost")
        (conn.commit if commits else conn.rollback)()
        conn.close()
        accepted = self.model.append(held.claim)
        assert written == accepted
        if accepted and ending != "commits":
            filler = self.event("attempt_failed", step, 1)
            assert db.fill(self.to_row(held, filler, seq)) == (not commits)
            assert db.is_stored(batch) == commits
        if not accepted:
            held.tail.lost = held.tail.lost or db.refusal(batch)
        db.writer.unpause(held.tail)
        if accepted:
            held.run.steps[step.number] = step
            step.attempts = 1
            step.outcome = ("ok", seq) if commits else None
        self.done["transaction"] += 1

    # -- letting go --------------------------------------------------------------------------------

    def end(self, held: Held, *events: Event) -> bool:
        """The last events of a claim, as the runner ends one."""
        done = held.process.db.writer.append(held.tail, events)
        held.tail.ended, held.let_go = LeaseLost("it has ended here"), True
        return held.process.waited(done)

    @precondition(every(3, has_claims))
    @rule(
        which=pick,
        wakes=st.sampled_from(["never", "past", "later"]),
        held_up=rarely,
        looked=st.booleans(),
        between=st.booleans(),
    )
    def park(self, which: int, wakes: str, held_up: bool, looked: bool, between: bool) -> None:
        """A run waits, perhaps without having looked at its mail; a letter may come just then."""
        if (held := self.held(which)) is None:
            return
        seen = self.look(held) if looked else None
        if between and not held.run.pruned:
            self.model.send(held.run, "signal", says=self.word(held.run))
        at = {  # no two runs at the same time: which of them is taken first is nobody's promise
            "never": None,
            "past": PAST + timedelta(seconds=self.turn),
            "later": datetime.now(UTC) + timedelta(days=1),
        }[wakes]
        due = {"never": None, "past": self.turn - 1e9, "later": math.inf}[wakes]
        parked_for: ParkedFor = "review" if held_up else "time"
        accepted = self.end(held, park_event(parked_for, "waits", wake_at=at))
        assert accepted == self.model.park(held.claim, parked_for, None, due)
        self.wake(held, accepted, seen)
        self.done["park"] += 1

    def look(self, held: Held) -> list[Letter]:
        """The mail of a run as a step sees it."""
        found = letters_of(held.process.db, held.tail.run_id)
        known = held.run.letters
        assert [(one.kind, one.step, one.answers) for one in found] == [
            (letter.kind, letter.step, letter.answers) for letter in known
        ]
        assert {one.by for one in found} <= {self.user}
        self.ids = {id(letter): one.id for letter, one in zip(known, found, strict=True)}
        return list(known)

    def wake(self, held: Held, accepted: bool, seen: list[Letter] | None) -> None:
        """The parker's second look, once the run is parked."""
        if accepted:
            looks = [] if seen is None else [{str(self.ids[id(letter)]) for letter in seen}]
            wake(held.process.db, held.tail.run_id, looks)
            self.model.wake(held.run, seen)

    @precondition(every(6, has_claims))
    @rule(which=pick)
    def hand_back(self, which: int) -> None:
        if held := self.held(which):
            accepted = self.end(held, Event(event="handed_back", reason="drained"))
            assert accepted == self.model.let_go(held.claim, "queued")
            self.done["hand back"] += 1

    @precondition(every(9, has_claims))
    @rule(which=pick, status=st.sampled_from(["done", "failed"]))
    def end_run(self, which: int, status: str) -> None:
        if held := self.held(which):
            last: Any = {"done": "run_finished", "failed": "run_failed"}[status]
            accepted = self.end(held, Event(event=last, reason="as it is"))
            assert accepted == self.model.let_go(held.claim, status)
            self.done["end"] += 1

    @precondition(every(3, has_ended))
    @rule()
    def prune(self) -> None:
        """Former owners, what they still send and snapshots live on; keys are used again."""
        removed = agentrun.prune(timedelta(), agent=self.prefix)
        gone = self.model.prune(self.workers.values())
        assert (removed.runs, removed.events) == (len(gone), sum(run.length for run in gone))
        self.done["prune"] += len(gone)

    # -- doubts and approvals ----------------------------------------------------------------------

    @precondition(has_questions)
    @rule(which=pick, what=pick)
    def raise_doubt(self, which: int, what: int) -> None:
        if (held := self.held(which, Held.in_question)) is None:
            return
        step = held.in_question()[what % len(held.in_question())]
        raised = [] if step.in_doubt else [self.asking("in_doubt", step, step.attempts)]
        seen = self.look(held)
        parked = park_event("doubt", "in doubt", step=step.number)
        accepted = self.end(held, *raised, parked)
        assert accepted == self.model.raise_doubt(held.claim, step)
        self.wake(held, accepted, seen)
        self.done["doubt"] += 1

    @precondition(has_questions)
    @rule(which=pick, what=pick)
    def settle(self, which: int, what: int) -> None:
        """The owner asks for a late answer, then for what a person said."""
        if (held := self.held(which, Held.in_question)) is None:
            return
        step = held.in_question()[what % len(held.in_question())]
        late = self.late(held.run, step.number, step.attempts)
        letter = None if late else self.decision(held, step)
        if late is None and letter is None:
            return
        said = "happened" if late else str(letter and letter.says)
        outcome = late or {"happened": ("ok", "told"), "unknown": ("error", None)}.get(said)
        self.decide(held, step, said, outcome, letter)
        self.done["adopt" if late else "settle"] += 1

    def late(self, run: Run, step: int, attempt: int) -> tuple[str, object] | None:
        """The earliest answer that was kept."""
        kept = [a for (s, a) in sorted(run.late) if s == step and a <= attempt]
        found = late_result(self.office, run_id_of(run.key), step, attempt)
        got = (found.status, found.output) if found else None
        assert got == (run.late[step, kept[0]] if kept else None)
        return got

    def decision(self, held: Held, step: Step) -> Letter | None:
        """What a person decided about what the step asks."""
        self.look(held)
        return step.request.answer if step.request else None

    def decide(
        self, held: Held, step: Step, said: str, outcome: tuple[str, Any] | None,
        letter: Letter | None,
    ) -> None:  # fmt: skip
        key = str(self.ids[id(letter)]) if letter else None
        events = [self.event("resolved", step, step.attempts, status=said, key=key, by=self.user)]
        if outcome is not None:
            status, value = outcome
            attempt = max(1, step.attempts)
            events.append(self.event("step_finished", step, attempt, status=status, output=value))
        accepted = held.process.append(held, *events)
        assert accepted == self.model.decide(held.claim, step, outcome, letter)
        if not accepted:
            self.late(held.run, step.number, step.attempts)

    @precondition(every(4, has_claims))
    @rule(which=pick, several=st.integers(1, 3), parks=st.booleans())
    def ask_for_approvals(self, which: int, several: int, parks: bool) -> None:
        """All calls of a reply at once; the run goes on where another step is under way."""
        if (held := self.held(which)) is None:
            return
        first, seen = len(held.run.steps) + 1, self.look(held)
        steps = [Step(number, "once") for number in range(first, first + several)]
        events = [self.asking("approval_requested", step) for step in steps]
        if parks:
            why = "waits for a person"
            parked = park_event("approval", why, step=first)
            accepted = self.end(held, *events, parked)
        else:
            accepted = held.process.append(held, *events)
        assert accepted == self.model.ask(held.claim, steps, parks)
        if parks:
            self.wake(held, accepted, seen)
        self.done["ask"] += several

    def asking(self, name: Any, step: Step, attempt: int | None = None) -> Event:
        """An event that asks a person, about exactly this."""
        return self.event(name, step, attempt, fingerprint=f"print {step.number}")

    @precondition(has_decisions)
    @rule(which=pick, what=pick)
    def follow_a_decision(self, which: int, what: int) -> None:
        if (held := self.held(which, Held.decided)) is None:
            return
        step = held.decided()[what % len(held.decided())]
        if letter := self.decision(held, step):
            said = {"approve": "approved", "reject": "rejected"}[letter.kind]
            outcome = None if letter.kind == "approve" else ("error", None)
            self.decide(held, step, said, outcome, letter)
            self.done["follow"] += 1

    @precondition(has_letters)
    @rule(which=pick)
    def receive(self, which: int) -> None:
        if (held := self.held(which, lambda held: held.run.unread("signal"))) is None:
            return
        self.look(held)
        letter = next(iter(held.run.unread("signal")), None)
        if letter is None:
            return
        step = self.new_step(held.run, "idempotent")
        accepted = held.process.append(
            held,
            self.event("attempt_started", step, 1),
            self.event("received", step, key=str(self.ids[id(letter)])),
            self.event("step_finished", step, 1, status="ok", output=letter.says),
        )
        assert accepted == self.model.receive(held.claim, step, letter, events=3)
        if not accepted:
            self.late(held.run, step.number, 1)
        self.done["receive"] += 1

    # -- people ------------------------------------------------------------------------------------

    @precondition(every(2, has_runs))
    @rule(which=pick)
    def signal(self, which: int) -> None:
        if run := chosen(which, self.model.runs.values()):
            self.model.send(run, "signal", says=self.word(run))
            self.done["signal"] += 1

    @staticmethod
    def word(run: Run) -> str:
        """Send a signal; what it says."""
        says = f"word {len(run.letters)}"
        agentrun.send(run.key, "word", says)
        return says

    @precondition(has_doubts)
    @rule(which=pick, wrong=rarely, kind=st.sampled_from(["happened", "not_happened", "unknown"]))
    def resolve(self, which: int, wrong: bool, kind: str) -> None:
        if (asked := self.asked(which, wrong, "doubt")) is None:
            return
        outcome: Any = {
            "happened": agentrun.Happened("told"),
            "not_happened": agentrun.NotHappened(),
            "unknown": agentrun.Unknown(),
        }[kind]
        self.tell(*asked, "resolve", kind, lambda *to: agentrun.resolve(*to, outcome))

    @precondition(has_asking)
    @rule(which=pick, wrong=rarely, kind=st.sampled_from(["approve", "reject"]))
    def approve_or_reject(self, which: int, wrong: bool, kind: str) -> None:
        if asked := self.asked(which, wrong, "decision"):
            tell = {"approve": agentrun.approve, "reject": agentrun.reject}[kind]
            self.tell(*asked, kind, None, tell)

    def tell(
        self, run: Run, step: int, kind: str, says: object, answer: Callable[[str, int], object]
    ) -> None:
        """Decide, which is refused where nobody asks, and where somebody was first."""
        first = self.model.is_decided(run, kind, step)
        taken = self.model.answer(run, kind, step, says)
        refused = self.refused(lambda: answer(run.key, step))
        assert refused is (None if taken else AlreadyDecided if first else agentrun.RunError)
        self.done[kind if taken else "second decision" if first else "refused"] += 1

    def asked(self, which: int, wrong: bool, waits_for: str) -> tuple[Run, int] | None:
        """A step that asks a person, perhaps one that was answered; or, to be refused, any."""
        found = [
            (run, number)
            for run in self.model.runs.values()
            for number in (run.steps if wrong else run.asking(waits_for))
        ]
        return chosen(which, found)

    @precondition(every(4, has_steps))
    @rule(which=pick, kind=st.sampled_from(KINDS), wrong=st.sampled_from(WRONG))
    def write_a_letter(self, which: int, kind: str, wrong: str) -> None:
        """In plain SQL: what cannot be read, or is about something else, counts for nothing."""
        run, step = self.asked(which, True, "") or (None, 0)
        if run is None:
            return
        payload = "[]" if wrong == "unreadable" else '{"outcome": "unknown"}'
        fingerprint = "other" if wrong == "about something else" else None
        taken = self.model.write(run, kind, step, "unknown", counts=not wrong)
        try:
            self.conn.execute(WRITE, [run.key, kind, step, payload, fingerprint])
        except psycopg.errors.UniqueViolation:
            assert not taken
        else:
            assert taken
        self.done["letter" if taken else "letter refused"] += 1

    @staticmethod
    def refused(tell: Callable[[], object]) -> type[agentrun.RunError] | None:
        """As what something told to a run is refused, if it is."""
        try:
            tell()
        except agentrun.RunError as error:
            return type(error)
        return None

    @precondition(every(15, has_runs))
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        run = chosen(which, self.model.runs.values())
        if run is None:
            return
        owner = run.owner
        refused = self.refused(lambda: agentrun.cancel(run.key, by="ada"))
        assert (refused is not None) == (run.status in ENDED)
        if refused is None:
            self.model.send(run, "cancel")
            if owner is None or owner is self.clerk or not owner.looked_at():
                claim = self.model.claim(run, self.clerk)
                assert self.model.let_go(claim, "cancelled")
        self.done["cancel"] += 1

    @precondition(every(3, has_claims))
    @rule(who=pick)
    def obey_cancellations(self, who: int) -> None:
        """What a heart does after each beat, for the runs that execute in its process."""
        process = self.processes[who % WORKERS]
        told: dict[str, str] = {}
        running = {held.run.key: held for held in process.held if not held.let_go}
        for key, held in running.items():
            process.db.active[held.tail.run_id] = _Executing(key, told)
        process.db.obey_cancellations()
        process.db.active.clear()
        expected = {k for k, h in running.items() if any(m.kind == "cancel" for m in h.run.letters)}
        assert set(told) == expected
        for key in told:
            held = running[key]
            accepted = self.end(held, Event(event="run_cancelled", reason=told[key]))
            assert accepted == self.model.let_go(held.claim, "cancelled")
            self.done["obey"] += 1

    # -- life and death ----------------------------------------------------------------------------

    @precondition(every(5))
    @rule(who=pick)
    def grow_silent(self, who: int) -> None:
        """No beat for a whole lease; it goes on all the same."""
        self.silence(self.processes[who % WORKERS].worker)

    def silence(self, worker: Worker | None) -> None:
        for process in self.processes:
            if process.worker is worker and not worker.told:
                self.conn.execute(GROW_SILENT, [worker.name])
                process.db.heart_of(worker.name)._confirmed = (-math.inf, -math.inf)
                worker.silent = True
                self.done["silence"] += 1

    @precondition(every(4))
    @rule(who=pick)
    def beat(self, who: int) -> None:
        process = self.processes[who % WORKERS]
        worker = process.worker
        if worker.told:
            return
        heart = process.db.heart_of(worker.name)
        heart._beat()
        worker.beats()
        assert heart.dead == worker.told
        self.conn.execute(BEAT, [worker.name])
        self.done["beat"] += 1

    @precondition(every(12))
    @rule(who=pick, politely=st.booleans())
    def end_process(self, who: int, politely: bool) -> None:
        """It says that it ends, or it is killed; another takes its place."""
        process, worker = self.processes[who % WORKERS], self.processes[who % WORKERS].worker
        if politely:
            process.db.close(timeout=0)
            if worker.dead is None:
                worker.dead = "stopped"
        else:
            process.vanish()
            self.conn.execute(VANISH, [worker.name])
            worker.gone = True
        self.processes[who % WORKERS] = fresh = Process(self.dsn)
        self.workers[fresh.worker.name] = fresh.worker
        self.done["stop" if politely else "kill"] += 1

    @precondition(every(8))
    @rule(who=pick, whom=pick)
    def ask_when_it_is_settled(self, who: int, whom: int) -> None:
        process, worker = self.processes[who % WORKERS], chosen(whom, self.workers.values())
        assert worker is not None
        known = worker is process.worker or worker.settled()
        assert (process.db.settled_in(worker.name) == 0) == known
        self.done["settled"] += 1

    @precondition(every(8))
    @rule(who=pick)
    def sweep(self, who: int) -> None:
        """What nobody executes any more; letters that nobody woke a run for."""
        if time.monotonic() > self.began + 8:
            return  # letters count as overlooked for ten seconds only
        process = self.process(who)
        found = process.db.query(
            "abandoned",
            agents=[self.prefix],
            queues=["default"],
            worker=process.worker.name,
            here=UUIDS([held.tail.run_id for held in process.held]),
            limit=100,
        )
        expected = {
            run.key
            for run in self.model.runs.values()
            if run.owner and run.owner is not process.worker and not run.owner.seems_alive()
            and run.key not in {held.run.key for held in process.held}
        }  # fmt: skip
        assert {run["key"] for run in found} == expected
        process.db.query("overlooked", since=datetime.min.replace(tzinfo=UTC))
        due = self.conn.execute(DUE, [self.prefix]).fetchall()
        self.model.overlook(run["key"] for run in due)
        self.done["sweep"] += 1


@dataclass
class _Executing:
    """A run as `Database.active` knows it."""

    key: str
    told: dict[str, str]

    def cancel(self, reason: str) -> None:
        self.told[self.key] = reason

    def drain(self) -> None: ...

    def expire(self) -> None: ...


def test_the_database_does_what_the_model_says(
    proof: Proof, databases: Grounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Shrinking plays the same on a real database again and again: not for five minutes.
    monkeypatch.setattr("hypothesis.internal.conjecture.engine.MAX_SHRINKING_SECONDS", SHRINKING)
    for case in proof.cases("state machine", [f"block {n:02}" for n in range(CASES)], share=2):
        with case, databases() as dsn:
            done: Counter[str] = Counter()
            machine = seed(str(case))(type("Runs", (Runs,), {"dsn": dsn, "done": done}))
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    database=None,
                    deadline=None,
                    report_multiple_bugs=False,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
            case.count(operations=done.total(), **done)
