"""A load on one database: processes that write, and what is known of what they were told.

Two append to runs of their own as fast as they can, and note what was acknowledged in files of
their own; two more are workers that execute submitted runs. What was acknowledged is compared with
what is there; of what was not answered, each writer finds out itself what became of it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from crashing import World, until
from invariants import assert_invariants

import agentrun
from agentrun.core import points
from agentrun.core.events import Event
from agentrun.core.sharing import Shared
from agentrun.store.batch_outcomes import stored_runs
from agentrun.store.connection import DeadlineConnection
from agentrun.store.database import OpenDatabase
from agentrun.store.rows import to_row
from agentrun.store.runs import find_run
from agentrun.store.sending import Batch, Sender

LEASE = 4.0  # seconds
WORKERS = 2
SUBMITTED = 5  # runs for the workers before each fault
spawn = multiprocessing.get_context("spawn")


# -- writers -----------------------------------------------------------------------------------


class Witness(Sender):
    """Notes each batch whose answer was lost, and whether the server had committed it."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.count: Counter[str] = Counter()
        self._sent: Batch | None = None  # and not answered
        self._batch: Batch | None = None
        points.arm(self._pass)

    def send(self, batch: Batch) -> set[UUID]:
        self._batch = batch
        return super().send(batch)

    def _pass(self, point: str) -> None:
        self._sent = {"append:before": self._batch, "append:after": None}.get(point, self._sent)

    def connection(self) -> DeadlineConnection:
        conn = super().connection()
        if self._sent is not None:  # no process of the server that it was sent to is alive
            batch, known = self._sent, stored_runs(conn, self._sent)
            assert known in (set(), batch.runs), "a batch is torn"
            self.count.update(unknown=1, unknown_committed=bool(known))
            self._sent = None
        return conn


def write(dsn: str, number: int, notes: Path, stop: Any) -> None:
    """Append to four runs until told to stop; a line of notes for each acknowledged batch."""
    chance, worker, sender = random.Random(number), f"writer-{number}", Witness(dsn)
    ends: dict[UUID, int] = {}
    with OpenDatabase(dsn) as database:
        for _ in range(4):
            key = str(uuid4())
            database.create(key, "none", {}, "")
            run_id = find_run(database, key).run_id
            claim = Batch([to_row(Event(event="claimed"), run_id, 2, 1, worker, Shared())])
            assert sender.send(claim)
            ends[run_id] = 2
    with notes.open("a") as file:
        while not stop.is_set():
            rows, told = [], []
            for run_id in chance.sample(sorted(ends), chance.randint(1, 4)):
                first, length = ends[run_id] + 1, chance.randint(1, 5)
                told.append((str(run_id), first, length))
                for seq in range(first, first + length):
                    value = "x" * chance.choice((10, 100, 5_000))
                    event = Event(event="received", input=value, has_input=True)
                    rows.append(to_row(event, run_id, seq, 1, worker, Shared()))
            batch = Batch(rows)
            assert sender.send(batch) == batch.runs, "nobody else writes to these runs"
            for run, _, length in told:
                ends[UUID(run)] += length
            line = {"batch": str(batch.nonce), "runs": told, "count": sender.count}
            file.write(json.dumps(line) + "\n")
            file.flush()
    sender.close()


# -- workers -----------------------------------------------------------------------------------


@agentrun.tool
def act(world: str, key: str, n: int) -> int:
    World(Path(world)).act(f"{key} {n}")
    time.sleep(0.05)
    return n


@agentrun.tool(effect="transaction")
def count(key: str) -> int:
    agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (key,))
    return 10


@agentrun.agent
def work_through_kills(world: str, key: str) -> int:
    return act(world, key, 1) + count(key) + act(world, key, 2)


def serve(dsn: str, stop: Any) -> None:
    with agentrun.connect(dsn, lease=LEASE), agentrun.Worker([work_through_kills], concurrency=4):
        stop.wait()


# -- what was acknowledged, and what is there ------------------------------------------------------


class Load:
    """The processes, and what is known of what they did."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.world = World(folder / "effects")
        self.handles: list[agentrun.api.handle.Handle[int]] = []
        self.notes = [folder / f"writer-{number}" for number in range(2)]
        self.read = [0] * len(self.notes)  # bytes of each that were compared already
        self.told = [Counter[str]() for _ in self.notes]  # what each writer counted
        self.counted = Counter[str]()
        self.acknowledged = 0  # events
        self.stop = spawn.Event()
        with psycopg.connect(self.dsn, autocommit=True) as admin:
            admin.execute("CREATE TABLE counted (key text)")
        self.database = agentrun.connect(self.dsn)
        for note in self.notes:
            note.touch()
        self.processes = [
            *(
                spawn.Process(target=write, args=(self.dsn, number, note, self.stop), daemon=True)
                for number, note in enumerate(self.notes)
            ),
            *(
                spawn.Process(target=serve, args=(self.dsn, self.stop), daemon=True)
                for _ in range(WORKERS)
            ),
        ]
        for process in self.processes:
            process.start()

    def through(self, fault: Callable[[], object]) -> Counter[str]:
        """Submit some runs, do that to the server, wait until all write again; the numbers."""
        self.submit()
        time.sleep(random.uniform(0.1, 0.6))
        fault()
        before = self.compare()
        self.until_all_write()
        return before + self.compare()

    def submit(self) -> None:
        for _ in range(SUBMITTED):
            key = f"run-{len(self.handles)}"
            agent = work_through_kills.with_options(key=key)
            self.handles.append(agent.submit(str(self.world.path), key))

    def until_all_serve(self) -> None:
        """A worker whose very first connection is refused gives up, as it should."""
        alive = (
            "SELECT count(*) AS workers FROM agentrun.workers WHERE %s = ANY(agents)"
            " AND dead_at IS NULL AND beat_at + lease > clock_timestamp()"
        )

        def serving() -> int:
            with self.database.connection() as conn:
                (row,) = conn.execute(alive, [work_through_kills.name])
            return int(row["workers"])

        until(lambda: serving() == WORKERS)

    def until_all_write(self) -> None:
        """Each writer has had something acknowledged since the last look."""
        deadline = time.monotonic() + 120
        while any(
            note.stat().st_size == read for note, read in zip(self.notes, self.read, strict=True)
        ):
            ended = [p.exitcode for p in self.processes if p.exitcode is not None]
            assert not ended, "a process of the load has ended"
            assert time.monotonic() < deadline, "a writer does not come back"
            time.sleep(0.02)

    def compare(self) -> Counter[str]:
        """What was acknowledged since the last look is in the journal; the numbers since then."""
        numbers: Counter[str] = Counter()
        with psycopg.connect(self.dsn) as conn:
            for index, note in enumerate(self.notes):
                *lines, _ = note.read_bytes()[self.read[index] :].split(b"\n")
                self.read[index] += sum(len(line) + 1 for line in lines)
                for line in map(json.loads, lines):
                    self.told[index] = Counter(line["count"])
                    for run, first, length in line["runs"]:
                        (found,) = conn.execute(
                            "SELECT count(*) FROM agentrun.journal WHERE run_id = %s"
                            " AND seq BETWEEN %s AND %s AND batch = %s",
                            [run, first, first + length - 1, line["batch"]],
                        ).fetchone() or (0,)
                        assert found == length, "acknowledged events are lost"
                        numbers["acknowledged_events"] += length
        self.acknowledged += numbers["acknowledged_events"]
        before, self.counted = self.counted, sum(self.told, Counter())
        return numbers + (self.counted - before)

    def check(self, results: list[int]) -> None:
        """All is as if nothing had happened to the server."""
        self.compare()
        keys = [f"run-{number}" for number in range(len(self.handles))]
        assert results == [13] * len(keys)
        assert sorted(self.world.effects) == sorted(f"{key} {n}" for key in keys for n in (1, 2))
        with psycopg.connect(self.dsn) as conn:
            written = conn.execute("SELECT FROM agentrun.journal WHERE event = 'received'")
            assert written.rowcount == self.acknowledged, "there is what nobody acknowledged"
            counted = conn.execute("SELECT key FROM counted").fetchall()
            assert sorted(counted) == sorted((key,) for key in keys)
            taken = conn.execute(
                "SELECT reason FROM agentrun.journal WHERE reason LIKE 'took over%' "
                "UNION ALL SELECT cause FROM agentrun.workers WHERE cause <> 'stopped'"
            ).fetchall()
            assert taken == [], "a worker that lives was taken for dead"
        assert_invariants(self.dsn)


@contextlib.contextmanager
def load(dsn: str, folder: Path) -> Iterator[Load]:
    """A load on this database; when the block ends, all of it must have come through."""
    under = Load(dsn, folder)
    try:
        under.until_all_serve()
        under.until_all_write()
        yield under
        results = [handle.result(timeout=120) for handle in under.handles]
    finally:
        under.stop.set()
        for process in under.processes:
            process.join(60)
            process.kill()
        under.database.close()
    assert [process.exitcode for process in under.processes] == [0] * len(under.processes)
    under.check(results)
