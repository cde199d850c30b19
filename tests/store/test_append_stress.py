"""The append statement under several writers, zombies, takeovers, killed backends, cut sockets.

Writers are processes that send real batches. Each believes it owns some runs, takes others over
without asking, goes on with a run after it was refused (a zombie that has not noticed), and loses
its connection just before or just after sending. Afterwards the journal is compared with what
every writer was told. The seed is printed; AGENTRUN_SEED=… repeats the choices (not the timing).

A suite that cannot fail proves nothing: the last tests weaken the statement and must turn red.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from invariants import violations
from psycopg.rows import dict_row

from agentrun.core.events import Event, EventName
from agentrun.core.sharing import Shared
from agentrun.store import sending
from agentrun.store.connection import RETRY_AT_ONCE, DeadlineConnection, connect
from agentrun.store.database import OpenDatabase
from agentrun.store.keys import run_id_of
from agentrun.store.rows import to_row
from agentrun.store.sending import Batch, Sender, append
from agentrun.store.sql import QUERIES, numbered

spawn = multiprocessing.get_context("spawn")
BOUND = 60.0  # seconds within which a weakened statement must have shown itself


def opened(dsn: str) -> psycopg.Connection[Any]:
    """A look of our own, which may lead through a pooler."""
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=None)


@dataclass(frozen=True)
class Plan:
    """What every writer of one round is told."""

    dsn: str
    runs: tuple[UUID, ...]
    seconds: float
    seed: int
    cut: float = 0.0  # share of calls whose connection is cut
    query: str = ""  # the append statement; "": the real one
    alone: bool = False  # one run in each batch, so that mostly `append_plain` is sent
    storm: bool = False  # claim every run in each batch, by `append` itself


@dataclass
class Told:
    """What a writer sent, and what it was told about it: (run, nonce, first seq, rows)."""

    accepted: list[tuple[UUID, UUID, int, int]] = field(default_factory=list)
    refused: list[tuple[UUID, UUID, int, int]] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)


# -- a writer, in a process of its own -----------------------------------------------------------


class CutConnection(DeadlineConnection):
    """Loses its socket now and then, just before or just after a statement is sent."""

    chance: random.Random
    cut: float
    count: Counter[str]

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if self.chance.random() < self.cut:
            # Closed for reading alone, the statement still leaves; its answer never arrives.
            how = self.chance.choice([socket.SHUT_RD, socket.SHUT_RD, socket.SHUT_RDWR])
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as end:
                end.shutdown(how)
            self.count["cut"] += 1
        return super().wait(gen, interval, timeout)


class Zombie:
    """One writer; `own` is where it believes the runs to end that it believes to own."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.plan = plan
        self.worker = f"w{number}"
        self.random = random.Random(plan.seed * 1000 + number)
        self.own: dict[UUID, tuple[int, int]] = {}
        self.told = Told()
        self.sender = Sender(plan.dsn, connection=self.connect)
        self.reader = opened(plan.dsn)
        with connect(plan.dsn) as conn:
            self.threshold = conn.prepare_threshold

    def connect(self, dsn: str) -> DeadlineConnection:
        conn = CutConnection.connect(dsn, autocommit=True, row_factory=dict_row)
        conn.prepare_threshold = self.threshold
        conn.chance, conn.cut, conn.count = self.random, self.plan.cut, self.told.count
        return conn

    def work(self) -> Told:
        end = time.monotonic() + self.plan.seconds
        while time.monotonic() < end:
            planned = self.planned()
            if not planned:
                continue
            if self.random.random() < 0.3:
                time.sleep(self.random.random() * 0.01)
            self.send(planned)
        self.sender.close()
        self.reader.close()
        return self.told

    def planned(self) -> dict[UUID, tuple[int, int, list[EventName]]]:
        """For some runs in any order: first seq, epoch, events."""
        planned = {}
        runs = list(self.plan.runs)
        self.random.shuffle(runs)
        for run in runs:
            if self.plan.alone and planned:
                break
            most = 2 if self.plan.alone else 4
            events: list[EventName] = ["attempt_started"] * self.random.randint(1, most)
            if run in self.own and self.random.random() < 0.7:
                seq, epoch = self.own[run]
                if self.random.random() < 0.1:
                    events.append("handed_back")
                planned[run] = (seq + 1, epoch, events)
            elif run not in self.own and self.random.random() < 0.15:
                (seq, epoch) = self.end_of(run)
                planned[run] = (seq + 1, epoch + 1, ["claimed", *events[1:]])
        return planned

    def end_of(self, run: UUID) -> tuple[int, int]:
        while True:
            try:
                row = self.reader.execute(QUERIES["tail"], {"run_id": run}).fetchone()
            except psycopg.OperationalError:  # the nemesis took this one
                self.reader = opened(self.plan.dsn)
                continue
            assert row is not None
            return row

    def send(self, planned: dict[UUID, tuple[int, int, list[EventName]]]) -> None:
        batch = Batch([
            to_row(Event(event=event), run, seq, epoch, self.worker, Shared())
            for run, (first, epoch, events) in planned.items()
            for seq, event in enumerate(events, first)
        ])  # fmt: skip
        try:
            accepted = self.sender.send(batch)
        except psycopg.Error as error:
            self.told.count[f"error {type(error).__name__}"] += 1
            accepted = set()
        for run, (first, epoch, events) in planned.items():
            sent = (run, batch.nonce, first, len(events))
            last = first + len(events) - 1
            (self.told.accepted if run in accepted else self.told.refused).append(sent)
            self.told.count["takeovers"] += run in accepted and events[0] == "claimed"
            if run in accepted and events[-1] != "handed_back":
                self.own[run] = (last, epoch)
            elif run in accepted or events[0] == "claimed" or self.random.random() < 0.7:
                self.own.pop(run, None)
            else:  # it did own the run, and goes on as if it had not heard the refusal
                self.own[run] = (last, epoch)


def storm(plan: Plan, number: int) -> Told:
    """Claim every run in every batch, in any order: who locks in what order?"""
    told, order = Told(), random.Random(plan.seed * 1000 + number)
    end = time.monotonic() + plan.seconds
    with opened(plan.dsn) as conn:
        while time.monotonic() < end:
            tails = [
                (run, *(conn.execute(QUERIES["tail"], {"run_id": run}).fetchone() or ()))
                for run in plan.runs
            ]
            order.shuffle(tails)
            claim = Event(event="claimed")
            rows = [
                to_row(claim, run, seq + 1, epoch + 1, f"w{number}", Shared())
                for run, seq, epoch in tails
            ]
            try:
                with conn.transaction():
                    conn.execute("SET LOCAL deadlock_timeout = '20ms'")
                    told.count["claims"] += len(append(conn, Batch(rows)))
            except RETRY_AT_ONCE as error:
                told.count[error.sqlstate or ""] += 1
    return told


def writer(plan: Plan, number: int, ready: Any, queue: Queue[Told]) -> None:
    if plan.query and plan.alone:
        sending._APPEND_PLAIN, _ = numbered(cast(LiteralString, plan.query))
    elif plan.query:
        sending._APPEND, sending._APPEND_NAMES = numbered(cast(LiteralString, plan.query))
    work: Callable[[], Told] = (
        (lambda: storm(plan, number)) if plan.storm else Zombie(plan, number).work
    )
    ready.wait()
    queue.put(work())


# -- a round --------------------------------------------------------------------------------------


def runs(dsn: str, number: int) -> tuple[UUID, ...]:
    """Fresh runs, each with its first event."""
    keys = [str(uuid4()) for _ in range(number)]
    with OpenDatabase(dsn) as database:
        for key in keys:
            assert database.create(key, "a", {}, "")
    return tuple(map(run_id_of, keys))


def play(plan: Plan, writers: int, *, kill_every: float = 0.0) -> Told:
    """One round: all writers at once, while backends are killed; what they were told, together."""
    queue: Queue[Told] = spawn.Queue()
    ready = spawn.Barrier(writers + 1)
    processes = [
        spawn.Process(target=writer, args=(plan, number, ready, queue), daemon=True)
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    ready.wait(60)
    together = Told()
    if kill_every:
        together.count["killed"] = kill_backends(plan.dsn, plan.seconds, kill_every)
    for _ in processes:
        told = queue.get(timeout=plan.seconds + 60)
        together.accepted += told.accepted
        together.refused += told.refused
        together.count += told.count
    for process in processes:
        process.join()
    return together


def kill_backends(dsn: str, seconds: float, every: float) -> int:
    killed, end = 0, time.monotonic() + seconds
    with opened(dsn) as conn:
        while time.monotonic() < end:
            time.sleep(every)
            killed += conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND state = 'active' ORDER BY random() LIMIT 1"
            ).rowcount
    return killed


def contradictions(dsn: str, told: Told) -> list[tuple[str, str, str]]:
    """Where the journal differs from what the writers were told, and broken invariants."""
    with opened(dsn) as conn:
        found: dict[tuple[UUID, UUID], list[int]] = {}
        for run, batch, seqs in conn.execute(
            "SELECT run_id, batch, array_agg(seq ORDER BY seq) FROM agentrun.journal GROUP BY 1, 2"
        ):
            found[run, batch] = seqs
    wrong = violations(dsn)
    for run, batch, first, length in told.accepted:
        if found.get((run, batch)) != list(range(first, first + length)):
            wrong.append(("torn or missing", str(run), f"{first}: {found.get((run, batch))}"))
    for run, batch, first, _ in told.refused:
        if (run, batch) in found:
            wrong.append(("refused but present", str(run), str(first)))
    return wrong


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("AGENTRUN_SEED") or random.randrange(10**6))
    print(f"AGENTRUN_SEED={seed}")
    return seed


# -- the statement as it is --------------------------------------------------------------------


def stress(dsn: str, seed: int, seconds: float, *, alone: bool = False) -> None:
    plan = Plan(dsn, runs(dsn, 16), seconds, seed, cut=0.05, alone=alone)
    told = play(plan, 4, kill_every=0.05)
    print(len(told.accepted), "accepted,", len(told.refused), "refused,", dict(told.count))
    assert contradictions(dsn, told) == []
    errors = [name for name in told.count if name.startswith("error")]
    assert not errors, "a sound statement is never answered by an error"
    happened = {name: told.count[name] > 0 for name in ("cut", "killed", "takeovers")}
    assert all(happened.values()), f"nothing was proved: {happened}"
    assert told.accepted
    assert told.refused


def test_no_append_is_torn_lost_or_let_in_late(dsn: str, seed: int) -> None:
    stress(dsn, seed, 6.0)


def test_no_append_of_a_lone_run_is_torn_lost_or_let_in_late(dsn: str, seed: int) -> None:
    stress(dsn, seed, 6.0, alone=True)


@pytest.mark.long
def test_no_append_is_torn_lost_or_let_in_late_for_long(dsn: str, seed: int) -> None:
    stress(dsn, seed, float(os.environ.get("AGENTRUN_STRESS_SECONDS", "120")))


# -- the statement weakened: these rounds must go wrong ----------------------------------------


def without(pattern: str, replacement: str, name: str = "append") -> str:
    """The append statement with one part of it taken out."""
    query, changed = re.subn(pattern, replacement, QUERIES[name], flags=re.DOTALL)
    assert changed == 1, f"the statement has no {pattern!r} any more: this test proves nothing"
    return query


@pytest.mark.tampers
@pytest.mark.parametrize("alone", [False, True], ids=["many runs", "a lone run"])
def test_without_its_look_at_the_row_before_stale_writers_get_in(
    dsn: str, seed: int, alone: bool
) -> None:
    if alone:
        query = without(r"AND EXISTS \(.*?epoch\)s::bigint\)", "", "append_plain")
    else:
        query = without(r"WHERE head AND EXISTS \(.*?\)::int\)", "WHERE head")
    deadline = time.monotonic() + BOUND
    wrong: set[str] = set()
    while not {"hole", "epoch"} & wrong:
        assert time.monotonic() < deadline, "the stress does not notice a missing fence"
        told = play(Plan(dsn, runs(dsn, 16), 1.0, seed, query=query, alone=alone), 2)
        wrong = {rule for rule, _, _ in contradictions(dsn, told)}
        seed += 1
    print(sorted(wrong))


@pytest.mark.tampers
def test_a_taken_seq_must_refuse_all_rows_of_a_lone_run(dsn: str, seed: int) -> None:
    query = QUERIES["append_plain"] + "\nON CONFLICT DO NOTHING"
    deadline = time.monotonic() + BOUND
    wrong: list[tuple[str, str, str]] = []
    while not wrong:
        assert time.monotonic() < deadline, "the stress does not notice torn batches"
        told = play(Plan(dsn, runs(dsn, 2), 1.0, seed, query=query, alone=True), 4)
        wrong = contradictions(dsn, told)
        seed += 1
    print({rule for rule, _, _ in wrong})


@pytest.mark.read_committed("counts real deadlocks, among which the thrown ones would be")
def test_sorted_heads_give_one_lock_order(dsn: str, seed: int) -> None:
    made = runs(dsn, 40)
    for seconds in (1.0, 2.0):  # the first fills the journal: for a small one every plan sorts
        told = play(Plan(dsn, made, seconds, seed, storm=True), 3)
        print(dict(told.count))
        assert told.count["claims"] > 0
        assert told.count["40P01"] == 0
    assert violations(dsn) == []


@pytest.mark.read_committed("counts real deadlocks, among which the thrown ones would be")
def test_without_that_order_batches_deadlock(dsn: str, seed: int) -> None:
    query = without(r"ORDER BY b\.run_id\n", "\n")
    deadline = time.monotonic() + BOUND
    deadlocks = 0
    while not deadlocks:
        assert time.monotonic() < deadline, "the stress does not notice unsorted heads"
        told = play(Plan(dsn, runs(dsn, 40), 2.0, seed, query=query, storm=True), 3)
        deadlocks = told.count["40P01"]
        seed += 1
    print(deadlocks, "deadlocks")
