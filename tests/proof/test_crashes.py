"""SIGKILL at point N = 0, 1, 2, … until a run finishes unkilled; then the resume is killed too.

Every shape of agent, every point of `core.points` that it passes, in whichever thread.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator, Sequence
from functools import partial
from itertools import count
from typing import Any

import books
import pytest
import shapes
from children import Child, Story, play
from shapes import CASES, STRIDE, Shape

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
