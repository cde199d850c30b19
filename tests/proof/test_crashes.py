"""SIGKILL at point N = 0, 1, 2, … until a run finishes unkilled; then the resume is killed too.

Every shape of agent, every point of `core.points` that it passes, in whichever thread. And of a
prune, with runs of every shape: a batch is there or not, and whoever prunes again goes on.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator, Sequence
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import books
import psycopg
import pytest
import shapes
from children import Child, Story, play
from invariants import assert_invariants, summarize
from shapes import CASES, STRIDE, Shape

import agentrun
from agentrun.store import retention

pytestmark = pytest.mark.long

LANES = 3  # runs at a time
RESUMES = 2  # of a run killed at one point, each killed at a point of its own
FEW = 20  # points that a resume surely passes


def struck(
    shape: Shape, dsn: str, run: str, blows: Sequence[int]
) -> Generator[Child, int, tuple[dict[str, int], int]]:
    """Execute a run in one process after the other, the n-th killed at the n-th of these points.

    Returns what was counted, and how many points the last process passed.
    """
    since = shapes.here.mark()
    shape.prepare(run)
    recorded: list[Counter[str]] = []
    for at in [*blows, None]:
        child = Child(partial(shape.see_through, dsn, run), at)
        status = yield child
        if status == 0:
            break
        assert status == -signal.SIGKILL, f"it ended with {status}"
        done = shapes.here.effects(run, since).all
        recorded.append(Counter({key: done[key] for key in books.read(dsn, run).finished}))
    numbers = books.settle(shape, dsn, run, shapes.here.effects(run, since), recorded)
    return numbers, len(child.passed())


def test_a_run_killed_at_any_point_is_resumed(proof: Any, grounds: Any) -> None:
    def story(case: Any) -> Story:
        shape, first = CASES[case.name]
        with case, grounds() as dsn:
            for at in count(first, STRIDE):
                numbers, _ = yield from struck(shape, dsn, f"{shape.name} {at}", [at])
                case.count(**numbers)
                if not numbers["kills"]:
                    return

    play(map(story, proof.cases("killed at every point", list(CASES), 12)), LANES)


def test_a_resume_killed_at_any_point_is_resumed(proof: Any, grounds: Any) -> None:
    def story(case: Any) -> Story:
        shape, first = CASES[case.name]
        with case, grounds() as dsn:
            passed = FEW  # by a resume that was left alone
            for at in count(first, STRIDE):
                for nth in range(RESUMES):
                    again = case.random.randrange(passed)
                    run = f"{shape.name} {at} {nth}"
                    numbers, last = yield from struck(shape, dsn, run, [at, again])
                    if not numbers["kills"]:
                        return
                    if numbers["kills"] < 2:  # it has fewer points than the last one had
                        passed = last
                    else:
                        case.count(pairs=1, **numbers)

    play(map(story, proof.cases("killed, and the resume killed", list(CASES), 6)), LANES)


MANY = 600  # runs: a prune takes more than one batch
OLD = """
    INSERT INTO agentrun.runs (run_id, key, agent, status, epoch)
    SELECT gen_random_uuid(), %(name)s || ' ' || n, 'agent', 'done', 1
    FROM generate_series(1, %(runs)s) n;"""
THEIR_EVENTS = """
    INSERT INTO agentrun.journal (run_id, seq, epoch, worker, batch, event)
    SELECT run_id, seq, least(seq - 1, 1), least(seq, 2)::text, gen_random_uuid(), event
    FROM agentrun.runs, (VALUES (1, 'created'), (2, 'claimed'), (3, 'run_finished')) e(seq, event)
    WHERE agent = 'agent'"""
LEFT = "SELECT (SELECT count(*) FROM agentrun.runs), (SELECT count(*) FROM agentrun.tombstones)"


def prune(dsn: str) -> None:
    with agentrun.connect(dsn):
        agentrun.prune(timedelta(), forget_keys=timedelta(days=1))


def cut_off(shape: Shape, dsn: str, run: str, at: int) -> Generator[Child, int, int]:
    """Kill a prune of this run, and many others, at a point; whether it had that point."""
    see_through = partial(shape.see_through, dsn, run)
    shape.prepare(run)
    assert (yield Child(see_through)) == 0
    since = shapes.here.mark()
    with psycopg.connect(dsn, autocommit=True) as conn:
        before = conn.execute(LEFT).fetchone() or (0, 0)
        conn.execute(OLD, {"name": run, "runs": MANY})
        conn.execute(THEIR_EVENTS)
        summarize(conn)
        status = yield Child(partial(prune, dsn), at)
        runs, tombstones = conn.execute(LEFT).fetchone() or (0, 0)
        assert runs + tombstones == sum(before) + MANY
        assert_invariants(dsn)
        assert (yield Child(partial(prune, dsn))) == 0
        assert conn.execute(LEFT).fetchone() == (0, runs + tombstones)

    def use_the_key() -> None:
        with agentrun.connect(dsn), pytest.raises(agentrun.RunPruned):
            shape.drive(shape.agent, run)

    assert (yield Child(use_the_key)) == 0
    assert not shapes.here.effects(run, since).all, "a pruned run was executed again"
    assert_invariants(dsn)
    return int(status == -signal.SIGKILL)


def test_a_prune_killed_at_any_point_goes_on(
    proof: Any, grounds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_REST", 0.0)

    def story(case: Any) -> Story:
        shape = shapes.BY_NAME[case.name]
        with case, grounds() as dsn:
            for at in count():
                kills = yield from cut_off(shape, dsn, f"{shape.name} {at} pruned", at)
                case.count(kills=kills, half_batches=0, executed_again=0)
                if not kills:
                    return

    play(map(story, proof.cases("a prune killed at every point", list(shapes.BY_NAME), 4)), LANES)
