"""The soak: random programs on real workers, while everything that can die does.

A `Wave` submits programs to a few worker processes, and strikes these and their database as long as
many programs are under way (the storm); then it leaves them in peace until all have ended (the
calm), where a run that the storm lost shows by never ending. Afterwards what was seen outside is
compared with what the programs must have done.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from invariants import violations
from nemesis import Nemesis
from nursery import Nursery
from office import Office
from programs import SCRIPT, Kit, Ledger, Program, agrees, note_checks, program, unlike
from psycopg.rows import dict_row

import agentrun
from agentrun.store.database import OpenDatabase
from agentrun.testing import Entry, Provider

RUNS = 250  # in a wave
OPEN = 90  # that are under way at the same time
PACE = 4  # that are submitted in a round, at the most
WORKERS = 3
AT_ONCE = 20  # runs in a worker
CALLERS = 4  # threads of the process that executes runs by calling them
LEASE = 3.0  # seconds
MARGIN = 0.2 * LEASE  # what is left of a lease that was just good enough to send
STUCK = 90.0  # seconds in which not one run ends

LEFT: LiteralString = """
    SELECT count(*) FROM agentrun.runs WHERE status NOT IN ('done', 'failed', 'cancelled')"""
ATTEMPTS: LiteralString = """
    SELECT key, count(*) FROM agentrun.journal WHERE event = 'attempt_started' GROUP BY key"""
WHERE_IT_STANDS: dict[str, LiteralString] = {
    "runs": """
        SELECT r.*, (SELECT json_agg(m) FROM agentrun.mail m WHERE m.run_id = r.run_id) AS mail,
               (SELECT json_agg(j) FROM (
                   SELECT seq, epoch, worker, at, event, step, kind, name, ident, attempt, status,
                          reason
                   FROM agentrun.journal j WHERE j.run_id = r.run_id
                   ORDER BY seq DESC LIMIT 15) j) AS journal
        FROM agentrun.runs r WHERE status NOT IN ('done', 'failed', 'cancelled')
        ORDER BY changed_at LIMIT 20""",
    "workers": "SELECT * FROM agentrun.workers WHERE dead_at IS NULL",
    "sessions": """
        SELECT pid, application_name, backend_start, xact_start, query_start, state,
               wait_event_type, wait_event, left(query, 200) AS query
        FROM pg_stat_activity WHERE datname = current_database()""",
}


class Stuck(AssertionError):
    """Nothing moves any more; the message says where everything stands."""


# -- what the children do --------------------------------------------------------------------------


def serve(kit: Kit, dsn: str) -> None:
    """A worker, until SIGTERM."""
    note_checks()
    told = _told_to_end()
    with _connected(dsn), agentrun.Worker(kit.agents, concurrency=AT_ONCE):
        _wait(told)


def call(kit: Kit, dsn: str, seed: str) -> None:
    """Threads that want the results of runs and execute them here if they can; until SIGTERM."""
    note_checks()
    told = _told_to_end()
    chance = random.Random(os.getpid())
    wrong: list[BaseException] = []

    def want() -> None:
        while not told.is_set():
            key = str(chance.randrange(RUNS))
            try:
                _called(kit, key, program(f"{seed} {key}"))
            except agentrun.RunNotFound:
                time.sleep(0.05)
            except BaseException as error:
                if not told.is_set():
                    wrong.append(error)
                    raise

    with _connected(dsn):
        for _ in range(CALLERS):
            threading.Thread(target=want, daemon=True).start()
        _wait(told)
    assert not wrong, wrong


def _called(kit: Kit, key: str, wanted: Program) -> None:
    agentrun.get(key)
    agent = kit.agent(wanted.is_async).with_options(key=key)
    try:
        value = agent.run(wanted.body, wanted.fails)
    except agentrun.RunHeld:
        time.sleep(0.05)
    except agentrun.RunFailed:
        if not wanted.fails:
            raise
    except agentrun.RunError:
        if wanted.cancelled is None:
            raise
    else:
        assert agrees(wanted.body, value), f"run {key} gave {value}"


def resume(kit: Kit, dsn: str, key: str) -> None:
    """A person has a held run go on."""
    note_checks()
    with _connected(dsn), contextlib.suppress(agentrun.RunError):
        agentrun.resume(key, by="ada")


def _connected(dsn: str) -> OpenDatabase:
    """The database, as soon as it is there: what a supervisor that starts workers again does."""
    while True:
        with contextlib.suppress(agentrun.StoreUnavailable):
            return agentrun.connect(dsn, lease=LEASE)
        time.sleep(0.1)


def _told_to_end() -> threading.Event:
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    return told


def _wait(told: threading.Event) -> None:
    while not told.wait(0.5):
        pass  # a process that was stopped may get the signal in another thread than this


# -- a wave ----------------------------------------------------------------------------------------


class Wave:
    """So many programs, their workers, and what befalls them."""

    def __init__(self, dsn: str, home: Path, folder: Path, seed: str) -> None:
        self.dsn, self.home, self.folder, self.seed = dsn, home, folder, seed
        self.chance = random.Random(seed)
        self.programs = {str(n): program(f"{seed} {n}") for n in range(RUNS)}
        self.ledger = Ledger(folder / "effects")
        self.counts: Counter[str] = Counter(runs=RUNS)
        self.moved = (time.monotonic(), RUNS)

    def run(self) -> None:
        """Raises Stuck when nothing moves, AssertionError for everything else that is wrong."""
        with psycopg.connect(self.dsn) as conn:
            conn.execute("CREATE TABLE deeds (run text, n int)")
        with Provider(script=SCRIPT) as provider:
            kit = Kit(self.ledger, provider.base_url)
            kit.warm()
            warming = provider.billed()
            actions = {
                "serve": partial(serve, kit, self.dsn),
                "call": partial(call, kit, self.dsn, self.seed),
                "resume": partial(resume, kit, self.dsn),
            }
            with (
                Nursery(actions, self.folder / "logs") as self.nursery,
                agentrun.connect(self.dsn, lease=LEASE),
            ):
                self.office = Office(kit, self.programs, self.nursery)
                slots = ["serve"] * WORKERS + ["call"]
                self.nemesis = Nemesis(self.nursery, slots, self.home, self.dsn, LEASE, self.chance)
                self.storm()
                self.calm()
                self.bury()
                self.compare(provider.effects()[warming:])
        self.counts += self.office.counts + self.nemesis.counts

    # -- weather -----------------------------------------------------------------------------------

    def storm(self) -> None:
        """Until all programs are under way and most have ended."""
        while (open_ := self.look()) > OPEN / 4 or self.office.waiting:
            self.office.open_for(min(PACE, OPEN - open_))
            if self.chance.random() < 0.4:
                self.nemesis.strike()
            self.nemesis.thaw(time.monotonic())
            time.sleep(0.1)  # nemesis

    def calm(self) -> None:
        """Until all have ended."""
        self.nemesis.thaw()
        while self.look():
            self.office.open_for(0)
            time.sleep(0.1)

    def bury(self) -> None:
        """Until the processes have ended, too, and every effect that is to come has come."""
        self.nemesis.end()
        began = time.monotonic()
        while self.nursery.alive():
            if time.monotonic() > began + STUCK:
                raise Stuck(self.where_it_stands())
            time.sleep(0.05)
        # One that was born a moment ago dies of the signal before it can handle it.
        good = {0, -signal.SIGKILL, -signal.SIGTERM}
        odd = {pid: code for pid, code in self.nursery.ended.items() if code not in good}
        assert not odd, {pid: (code, self.nursery.written(pid)) for pid, code in odd.items()}

    def look(self) -> int:
        """How many programs have not ended. Raises Stuck."""
        under_way = rows(self.dsn, LEFT)[0]["count"]
        now, left = time.monotonic(), int(under_way) + len(self.office.waiting)
        if left != self.moved[1]:
            self.moved = (now, left)
        elif now > self.moved[0] + STUCK:
            raise Stuck(self.where_it_stands())
        return int(under_way)

    def where_it_stands(self) -> str:
        """All that helps to understand why nothing moves: in a file, and the beginning of it."""
        told = [
            f"== {what} ==\n{json.dumps(rows(self.dsn, query), indent=1, default=str)}"
            for what, query in WHERE_IT_STANDS.items()
        ]
        told += [f"== process {pid} ==\n{self.nursery.stacks(pid)}" for pid in self.nursery.alive()]
        path = self.folder / "stuck"
        path.write_text("\n".join(told))
        return f"nothing moved for {STUCK:g} s; more in {path}:\n{path.read_text()[:6000]}"

    # -- the end -----------------------------------------------------------------------------------

    def compare(self, bills: Sequence[Entry]) -> None:
        """The outside and the journal against the programs."""
        status = {
            row["key"]: row["status"] for row in rows(self.dsn, "SELECT * FROM agentrun.runs")
        }
        attempts = Counter({row["key"]: row["count"] for row in rows(self.dsn, ATTEMPTS)})
        paid: dict[str, list[int]] = {}
        for row in rows(self.dsn, "SELECT * FROM deeds"):
            paid.setdefault(row["run"], []).append(row["n"])
        wrong = [str(found) for found in violations(self.dsn)]
        for key, wanted in self.programs.items():
            effects = self.ledger.effects(key)
            found = unlike(wanted, status[key], effects, paid.get(key, []), attempts, MARGIN)
            wrong += [f"run {key}: {text}" for text in [*self.mistaken(key, status[key]), *found]]
            late = [effect for effect in effects if effect.paused > MARGIN]
            self.counts.update(effects=len(effects), effects_after_a_pause=len(late))
        for step, times in Counter(entry.idempotency_key for entry in bills).items():
            if times > attempts[step]:
                wrong.append(f"{times} bills under {step}, for {attempts[step]} attempts")
        wrong += [f"a process wrote: {text}" for text in self.nursery.complaints()]
        assert not wrong, "\n".join(wrong[:20])
        self.counts.update(bills=len(bills), attempts=attempts.total())

    def mistaken(self, key: str, status: str) -> Iterator[str]:
        """What is wrong about the end of a run."""
        wanted = self.programs[key]
        if status == "done":
            value: Any = agentrun.get(key).result()
            if not agrees(wanted.body, value):
                yield f"it gave {value}"
        expected = "failed" if wanted.fails else "done"
        if status != expected and not (status == "cancelled" and wanted.cancelled is not None):
            yield f"it is {status}"


def rows(dsn: str, query: LiteralString) -> list[dict[str, Any]]:
    """The rows of a query, on a connection of its own: nobody strikes meanwhile."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        return conn.execute(query).fetchall()
