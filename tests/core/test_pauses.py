"""The pauses between looks at something, and between tries of what failed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agentrun.core.pauses import Backoff, PollSchedule


def test_each_look_comes_later_than_the_one_before_up_to_a_longest_pause() -> None:
    schedule = PollSchedule()
    pauses = [schedule.next_pause() for _ in range(40)]
    assert pauses[0] < 0.05, "a quick change is seen at once"
    assert pauses[-1] == pauses[-2] == max(pauses) <= 0.5, "a long wait never looks away for long"
    rising = pauses[: pauses.index(max(pauses)) + 1]
    assert len(rising) > 3
    assert all(before < after for before, after in pairwise(rising))


def test_a_schedule_begins_anew_for_each_wait() -> None:
    one = PollSchedule()
    first = one.next_pause()
    one.next_pause()
    assert PollSchedule().next_pause() == first


def test_a_backoff_doubles_up_to_its_longest_pause() -> None:
    backoff = Backoff(0.5, 8.0)
    assert [backoff.pause_after(n, 0.0) for n in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert backoff.pause_after(1_000_000, 0.0) == 8.0, "no count of failures overflows"


@pytest.mark.parametrize("failures", [0, 3, 50])
def test_jitter_shortens_a_backoff_and_never_lengthens_it(failures: int) -> None:
    backoff = Backoff(0.5, 8.0)
    longest = backoff.pause_after(failures, 0.0)
    drawn = [backoff.pause_after(failures, chance) for chance in (0.25, 0.5, 0.999)]
    assert longest > drawn[0] > drawn[1] > drawn[2] >= longest / 2
