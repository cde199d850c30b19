"""When a run worked, and the chart of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user

from agentrun.core.transcript import fold
from agentrun.view.html import as_html
from agentrun.view.layout import as_text
from agentrun.view.timeline import Timeline, read_timeline
from agentrun.view.waterfall import draw_chart, draw_text


def timeline_of(journal: Journal) -> Timeline:
    timeline = read_timeline(fold(journal.events))
    assert timeline is not None
    return timeline


def approved_late() -> Journal:
    """A tool call of one second, approved by a person half an hour after it was asked for."""
    j = Journal().claimed("w-1")
    j.asks(1, [user("pay")]).answers(1, assistant(None, ("c", "pay", "{}")))
    given: dict[str, Any] = {"step": 2, "kind": "tool", "name": "pay", "turn": 1, "ident": "1#0"}
    j.add("approval_requested", input={"args": {}}, **given).parks("approval", step=2)
    later = j.events[-1].at + timedelta(minutes=30)  # type: ignore[operator]
    j.claimed("w-2", "approved").add("resolved", status="approved", by="ann", **given)
    j.begins(2, "pay", {}, ident="1#0").ends(2, "pay", {}, {"result": 1}, ident="1#0")
    for number, event in enumerate(j.events[-4:]):
        event.at = later + timedelta(seconds=number)
    j.events[-1].started_at = j.events[-2].at
    return j


def test_waiting_for_a_person_is_not_work() -> None:
    timeline = timeline_of(approved_late())
    assert timeline.waiting == timedelta(minutes=30, seconds=3)
    assert timeline.working == timedelta(seconds=5)
    for shown in (as_text(fold(approved_late().events)), as_html(fold(approved_late().events))):
        assert "2026-11-22 12:00:02 UTC · worked 5.0 s · waited 30 min 3 s" in shown
        assert "1.0 s + 30 min 3 s of waiting" in " ".join(shown.split())


def test_a_run_waits_from_its_creation_until_a_process_takes_it_up() -> None:
    j = Journal().claimed("w-1").add("run_finished", output="done")
    for event in j.events[1:]:
        event.at += timedelta(seconds=47)  # type: ignore[operator]
    timeline = timeline_of(j)
    assert (timeline.working, timeline.waiting) == (timedelta(seconds=1), timedelta(seconds=48))
    assert "12:00:49 UTC · worked 1.0 s · waited 48.0 s" in as_text(fold(j.events))


def test_a_wait_that_nobody_notices_is_not_told() -> None:
    j = Journal().claimed("w-1").add("run_finished", output="done")
    j.events[0].at += timedelta(seconds=0.95)  # type: ignore[operator]
    assert "waited" not in as_text(fold(j.events))


def test_the_time_of_a_dead_process_is_not_work() -> None:
    j = Journal().claimed("w-1").begins(1, "look", {}, ident="1")
    at = j.events[-1].at + timedelta(hours=3)  # type: ignore[operator]
    j.claimed("w-2", "w-1 is gone").ends(1, "look", {}, {"result": 1}, ident="1")
    j.events[-2].at, j.events[-1].at = at, at + timedelta(seconds=1)
    j.events[-1].started_at = at
    timeline = timeline_of(j)
    assert (timeline.working, timeline.waiting) == (
        timedelta(seconds=2),
        timedelta(hours=3, seconds=1),
    )
    assert timeline.crashes == (at,)


def test_the_chart_has_a_lane_for_each_scope_and_crashes_across_all() -> None:
    j = Journal().claimed("w-1")
    for scope in ("", "t1/", "b:eu/"):
        j.begins(len(scope) + 1, "look", {}, ident=f"{scope}1", effect="idempotent")
    j.claimed("w-2", "w-1 is gone")
    for scope in ("", "t1/", "b:eu/"):
        step = len(scope) + 1
        j.begins(step, "look", {}, ident=f"{scope}1", attempt=2)
        j.ends(step, "look", {}, {"result": 1}, ident=f"{scope}1", attempt=2)
    lines = draw_text(timeline_of(j)).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["run", "t1", "b:eu"]
    (column,) = {line.index("│") for line in lines[:3]}
    assert column > 12
    assert draw_chart(timeline_of(j)).count("<line") == 1


def test_a_long_pause_is_cut_and_the_cut_is_named() -> None:
    chart = draw_text(timeline_of(approved_late()))
    assert "⋯⋯" in chart
    assert "⋯" * 10 not in chart.splitlines()[0]
    assert "one time without work cut out, 30 min 2 s in all" in chart
    assert "30 min 2 s without work, cut out" in draw_chart(timeline_of(approved_late()))


def test_the_chart_is_bounded_and_inert() -> None:
    j = Journal().claimed("w-1")
    for number in range(1, 4_000):
        ident = f"b:{HOSTILE}{number % 60}/{number}"
        j.ends(number, HOSTILE, {}, {"result": 1}, ident=ident, effect="read")
    timeline = timeline_of(j)
    text, drawing = draw_text(timeline), draw_chart(timeline)
    assert "36 more lanes are not drawn" in text
    assert "36 more lanes are not drawn" in drawing
    assert len(text) < 4_000
    assert drawing.count("<rect") <= 1_500
    assert "\x1b" not in text + drawing
    assert "<script>" not in drawing


def test_the_chart_of_a_run_is_in_its_html() -> None:
    shown = as_html(fold(crashed_and_resumed().events))
    assert "<summary>timeline</summary>" in shown
    assert "│ crash" in shown
    assert "<svg" not in shown, "an untrusted notebook removes drawings"
