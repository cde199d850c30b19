"""SIGSTOP at point N = 0, 1, 2, …; its lease passes, another process finishes the run; SIGCONT.

What wakes then is a zombie: it may change nothing, and do nothing outside but what it was about to
send when it was stopped, between its last check and the send.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator
from functools import partial
from itertools import count
from typing import Any

import books
import pytest
import shapes
from children import STOPPED, Child, Story, play
from shapes import CASES, STRIDE, Shape

pytestmark = pytest.mark.long

LEASE = 1.0  # seconds
LANES = 6  # mostly they wait


def slept(
    shape: Shape, dsn: str, run: str, at: int
) -> Generator[Child, int, dict[str, int] | None]:
    """Stop the first owner at a point, wake it when another has finished; what was counted.

    None: it has no such point.
    """
    since = shapes.here.mark()
    shape.prepare(run)
    see_through = partial(shape.see_through, dsn, run, LEASE)
    with Child(see_through, at, signal.SIGSTOP) as zombie:
        if (yield zombie) != STOPPED:
            return None
        # A body that failed has no point after it, but its failure is in the journal.
        failed = [row for row in books.read(dsn, run).journal if row["event"] == "attempt_failed"]
        bodies = [row for row in failed if row["kind"] == "tool"]
        about_to_send = under_way(zombie.passed()) - len(bodies)
        with Child(see_through) as successor:
            assert (yield successor) == 0, "the run was not finished by another"
        before, done = books.read(dsn, run), shapes.here.effects(run, since)
        zombie.go_on()
        assert (yield zombie) == 0, "the zombie did not find the result"
    after, done_since = books.read(dsn, run), shapes.here.effects(run, since)
    assert (after.journal, after.counted) == (before.journal, before.counted)
    late = (done_since.all - done.all).total()
    assert late <= about_to_send, "a zombie acted"
    books.settle(shape, dsn, run, done, [Counter()])
    return {
        "schedules": 1,
        "journals_changed": 0,
        "effects_after_waking": late - min(late, about_to_send),
        "stopped_before_a_send": int(about_to_send > 0),
        "sent_after_that_pause": late,
    }


def under_way(passed: list[str]) -> int:
    """How many effects the process had checked its lease for and not finished."""
    times = Counter(passed)
    return sum(times[f"{name}:before"] - times[f"{name}:after"] for name in ("body", "send"))


def test_a_zombie_changes_nothing(proof: Any, grounds: Any) -> None:
    def story(case: Any) -> Story:
        shape, first = CASES[case.name]
        with case, grounds() as dsn:
            for at in count(first, STRIDE):
                numbers = yield from slept(shape, dsn, f"{shape.name} {at} zombie", at)
                if numbers is None:
                    return
                case.count(**numbers)

    play(map(story, proof.cases("stopped at every point", list(CASES), 10)), LANES)
