"""SIGSTOP at point N = 0, 1, 2, …; its lease passes, another process finishes the run; SIGCONT.

What wakes then is a zombie: it may change nothing, and do nothing outside but what it was about to
send when it was stopped, between its last check and the send. Nor where its run was then pruned,
and there is nothing left that could refuse it.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import books
import pytest
import shapes
from children import STOPPED, Child, Story, play
from invariants import assert_invariants
from shapes import CASES, STRIDE, Shape

import agentrun
from agentrun.core import points
from agentrun.core.flow import Flow
from agentrun.steps.run_context import RunContext
from agentrun.steps.step import ActiveStep

pytestmark = pytest.mark.long

LEASE = 1.0  # seconds
asking: ContextVar[str | None] = ContextVar("asking", default=None)  # the kind of step that begins
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
        about_to_send = checked(zombie.passed())
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


def buried(
    shape: Shape, dsn: str, run: str, at: int
) -> Generator[Child, int, dict[str, int] | None]:
    """As `slept`, and before the zombie wakes its run is pruned."""
    since = shapes.here.mark()
    shape.prepare(run)
    see_through = partial(shape.see_through, dsn, run, LEASE)

    def see_through_or_be_refused() -> None:
        with suppress(agentrun.RunPruned):
            see_through()

    with Child(see_through_or_be_refused, at, signal.SIGSTOP) as zombie:
        if (yield zombie) != STOPPED:
            return None
        about_to_send = checked(zombie.passed())
        for action in (see_through, partial(prune_all, dsn)):
            with Child(action) as other:
                assert (yield other) == 0, "the run was not finished, or not pruned, by another"
        counted, done = books.read(dsn, run).counted, shapes.here.effects(run, since)
        zombie.go_on()
        assert (yield zombie) == 0, "the zombie was not told that its run was pruned"
    late = (shapes.here.effects(run, since).all - done.all).total()
    assert late <= about_to_send, "a zombie acted"
    after = books.read(dsn, run)
    assert (after.journal, after.counted) == ([], counted)
    assert_invariants(dsn)
    return {"schedules": 1, "rows_left": 0, "effects_after_waking": late - min(late, about_to_send)}


def prune_all(dsn: str) -> None:
    with agentrun.connect(dsn):
        assert agentrun.prune(timedelta()).runs > 0


@pytest.fixture(autouse=True)
def _checks_are_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may be stopped in the very moment after its check, too: the worst one."""
    attempt, fence = ActiveStep.attempt, RunContext.fence

    def attempting(self: ActiveStep, **given: Any) -> Flow[Any]:
        token = asking.set(self.request.kind)
        try:
            return (yield from attempt(self, **given))
        finally:
            asking.reset(token)

    def checking(self: RunContext) -> Flow[bool]:
        # Noted as it begins, or another thread could stop this one between the look and the note.
        if kind := asking.get():
            points.reach("checked", kind)  # type: ignore[arg-type]
        return fence(self)

    def telling(end: Callable[..., Any]) -> Callable[..., Any]:
        def told(self: ActiveStep, *given: Any, **more: Any) -> Any:
            if "by" not in more:  # else it is the late answer of another attempt
                points.reach("over", self.request.kind)  # type: ignore[arg-type]
            return end(self, *given, **more)

        return told

    monkeypatch.setattr(ActiveStep, "attempt", attempting)
    monkeypatch.setattr(RunContext, "fence", checking)
    monkeypatch.setattr(ActiveStep, "finish", telling(ActiveStep.finish))
    monkeypatch.setattr(
        ActiveStep, "record_failed_attempt", telling(ActiveStep.record_failed_attempt)
    )


def checked(passed: list[str]) -> int:
    """For how many effects the process had begun to check its lease, and not seen them answered."""
    times = Counter(passed)
    models = times["checked:model"] - times["send:after"]
    return models + times["checked:tool"] - times["over:tool"]


@pytest.mark.parametrize(
    ("matrix", "schedule", "share"),
    [("stopped at every point", slept, 10), ("pruned below a zombie", buried, 6)],
)
def test_a_zombie_changes_nothing(
    proof: Any, grounds: Any, matrix: str, schedule: Any, share: int
) -> None:
    def story(case: Any) -> Story:
        shape, first = CASES[case.name]
        with case, grounds() as dsn:
            for at in count(first, STRIDE):
                run = f"{shape.name} {at} {schedule.__name__}"
                numbers = yield from schedule(shape, dsn, run, at)
                if numbers is None:
                    return
                case.count(**numbers)

    play(map(story, proof.cases(matrix, list(CASES), share)), LANES)
