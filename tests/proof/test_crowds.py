"""Many processes that want one thing at the same moment: a run to resume, a key to submit."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import books
import psycopg
import pytest
import shapes
from children import STOPPED, Child, Story, play
from psycopg.rows import scalar_row
from shapes import SHAPES

import agentrun
from agentrun.store.runs import find_run
from agentrun.store.values import read_events

pytestmark = pytest.mark.long

CROWD = 12  # processes
KEYS = 50
DEATH = range(8, 22)  # points of which each shape passes all


def at_once(action: Callable[[int], object], at: str) -> Generator[Child, int, None]:
    """Have a crowd do it: each stops at a point, and when all are there they go on together."""
    crowd = [Child(partial(action, number), at, signal.SIGSTOP) for number in range(CROWD)]
    try:
        for child in crowd:
            assert (yield child) == STOPPED
        for child in crowd:
            child.go_on()
        for child in crowd:
            assert (yield child) == 0
    finally:
        for child in crowd:
            child.kill()


def test_a_run_resumed_by_many_at_once_has_one_owner(proof: Any, grounds: Any) -> None:
    def story(case: Any) -> Story:
        shape = case.random.choice(SHAPES)
        run, here = case.name, shapes.here
        with case, grounds() as dsn:
            since = here.mark()
            shape.prepare(run)
            victim = Child(partial(shape.see_through, dsn, run), case.random.choice(DEATH))
            assert (yield victim) == -signal.SIGKILL
            done = here.effects(run, since).all
            recorded = Counter({key: done[key] for key in books.read(dsn, run).finished})
            # At that point each has read where the journal ends, and is about to claim.
            yield from at_once(lambda _: shape.see_through(dsn, run), "register:before")
            numbers = books.settle(shape, dsn, run, here.effects(run, since), [recorded])
            rows = [row for row in books.read(dsn, run).journal if row["epoch"]]
            epochs = {(row["run"], row["epoch"]) for row in rows}
            owners = {(row["run"], row["epoch"], row["worker"]) for row in rows}
            assert len(owners) == len(epochs), "two owners of an epoch"
            case.count(keys=1, processes=CROWD, epochs=len(epochs), owners=len(owners), **numbers)

    names = [f"key {number}" for number in range(KEYS)]
    play(map(story, proof.cases("resumed by many at once", names, 3)), 1)


def test_a_key_submitted_by_many_at_once_is_one_run(proof: Any, grounds: Any) -> None:
    def submit(dsn: str, number: int) -> None:
        """Half of the crowd means something else by the same keys, and is told so."""
        with agentrun.connect(dsn) as db:
            for key in range(KEYS):
                run, given = f"key {key}", f"input {number % 2}"
                try:
                    shapes.chain.with_options(key=run).submit(given)
                    refused = False
                except agentrun.RunConflict:
                    refused = True
                (created,) = read_events(db, find_run(db, run).run_id)[0]
                assert refused == (created.input["args"]["run"] != given)

    def story(case: Any) -> Story:
        with case, grounds() as dsn:
            yield from at_once(partial(submit, dsn), "create:before")
            with psycopg.connect(dsn, row_factory=scalar_row) as conn:
                runs = conn.execute("SELECT count(*) FROM agentrun.runs").fetchone()
                created = conn.execute("SELECT count(*) FROM agentrun.journal").fetchone()
            assert (runs, created) == (KEYS, KEYS)
            books.assert_invariants(dsn)
            case.count(keys=KEYS, submits=KEYS * CROWD, runs=KEYS)

    play(map(story, proof.cases("submitted by many at once", ["a", "b", "c", "d"], 1)), 1)
