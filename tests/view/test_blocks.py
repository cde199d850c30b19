"""How the entries of a run are arranged, in every viewer."""

from __future__ import annotations

from typing import Any

import pytest
from journals import Journal, assistant, crashed_and_resumed, user

from agentrun.core.transcript import NewMessage, fold
from agentrun.view.blocks import Band, ShownStep, arrange
from agentrun.view.html import as_html
from agentrun.view.layout import as_text
from agentrun.view.markdown import as_markdown

VIEWERS = [as_text, as_html, as_markdown]


def crashed_often(times: int = 5) -> Journal:
    """A tool call during which one process after the other dies, the last one excepted."""
    j = Journal().claimed("w-1")
    j.asks(1, [user("pay")]).answers(1, assistant("I pay.", ("c", "pay", '{"n":1}')))
    j.begins(2, "pay", {"n": 1, "k": 2})
    for number in range(2, times + 2):
        j.claimed(f"w-{number}", f"w-{number - 1} is gone")
        j.begins(2, "pay", {"n": 1, "k": 2}, attempt=number)
    j.ends(2, "pay", {"n": 1, "k": 2}, {"result": "paid in full"}, attempt=times + 1)
    return j.claimed("w-8", "w-7 is gone").add("run_finished", output="bye", has_output=True)


@pytest.mark.parametrize("viewer", VIEWERS)
def test_equal_resumes_are_one_band_where_the_crash_struck(viewer: Any) -> None:
    shown = " ".join(viewer(fold(crashed_often().events)).split())
    assert shown.count("not spent again") == 2, "five equal ones, and one after the step"
    told = "resumed 5 times, the last time by w-6 (w-5 is gone): each time 1 step replayed"
    places = [shown.index(part) for part in (told, "w-3 · w-2 is gone", "paid in full", "w-8")]
    assert places == sorted(places), "before the result of the step that they interrupted"


def test_a_crash_between_two_steps_is_behind_its_turn() -> None:
    *_, band = arrange(fold(crashed_often().events).entries)
    assert isinstance(band.item, Band)
    assert band.turn is None


def test_the_turns_of_overlapping_conversations_are_one_block_each() -> None:
    j = Journal().claimed("w-1")
    j.asks(1, [user("a")], turn=1, ident="t1/1").asks(2, [user("b")], turn=2, ident="t2/1")
    j.answers(1, assistant("for a"), turn=1, ident="t1/1")
    j.answers(2, assistant("for b"), turn=2, ident="t2/1")
    parts = arrange(fold(j.events).entries)
    assert [part.turn for part in parts] == [1, 1, 1, 2, 2, 2]
    assert as_html(fold(j.events)).count('class="ar-turn"') == 2


def test_a_call_is_not_told_twice_and_one_without_a_step_is_told() -> None:
    j = Journal().claimed("w-1")
    calls = (("a", "look", '{"n":1}'), ("b", "look", '{"n":2}'), ("c", "burn", "{}"))
    j.asks(1, [user("?")]).answers(1, assistant(None, *calls))
    j.ends(2, "look", {"n": 1}, {"result": 1}).ends(3, "look", {"n": 7}, {"result": 2})
    parts = arrange(fold(j.events).entries)
    (message,) = [
        part.item.message
        for part in parts
        if isinstance(part.item, NewMessage) and part.item.message.calls
    ]
    assert [call.id for call in message.calls] == ["b", "c"], "made otherwise, and never made"


def test_nothing_is_lost_by_arranging() -> None:
    entries = fold(crashed_and_resumed().events).entries
    shown = [part.item for part in arrange(entries)]
    inside = [part for item in shown if isinstance(item, ShownStep) for part in item.inside]
    resumes = [b for b in (*shown, *inside) if isinstance(b, Band)]
    assert sum(len(band.resumes) for band in resumes) == 3
    assert len([item for item in shown if isinstance(item, ShownStep)]) == 3
