"""A run while it goes on, as lines for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from journals import Journal, assistant, crashed_and_resumed, user

from agentrun.core.transcript import fold
from agentrun.view.footer import Footer, streamed_lines
from agentrun.view.layout import columns, layout
from agentrun.view.live import Feed


def said(feed: Feed, journal: Journal, start: int = 0) -> list[str]:
    return [line.text.strip() for line in feed.take(journal.events[start:])]


def test_a_long_step_is_seen_to_begin_and_seen_again_with_its_outcome() -> None:
    feed, j = Feed(width=80), Journal().claimed("w-1")
    j.begins(1, "look", {"n": 1})
    assert "1 look(n=1) · once · running" in said(feed, j)
    before = len(j.events)
    j.ends(1, "look", {"n": 1}, {"result": "seen"})
    assert said(feed, j, before) == ["1 look(n=1) · once · ok · 1.0 s", "→  seen"]


def test_a_short_step_is_printed_once_and_messages_as_they_come() -> None:
    feed, j = Feed(width=80), Journal().claimed("w-1")
    said(feed, j)
    before = len(j.events)
    j.asks(1, [user("why?")]).answers(1, assistant("because"))
    lines = said(feed, j, before)
    assert lines[0] == ""
    assert lines[1].startswith("── turn 1 ─")
    assert [line.split()[0] for line in lines[2:]] == ["user", "1", "assistant"]
    assert list(feed.take([])) == []


def test_all_at_once_is_the_transcript_in_the_order_of_its_events() -> None:
    journal = crashed_and_resumed()
    lines = {line.text for line in Feed(width=80).take(journal.events)}
    shown = {line.text for line in layout(fold(journal.events), width=80)}
    assert lines - shown == {'  asks for refund({"order_id":"7"})'}, "before its step is known"
    assert shown <= lines


def test_event_by_event_nothing_is_missing_and_no_line_is_too_wide() -> None:
    journal, feed = crashed_and_resumed(), Feed(width=60)
    lines = [line.text for event in journal.events for line in feed.take([event])]
    assert {line.text for line in layout(fold(journal.events), width=60)} - set(lines) <= {
        "ticket-42  support · done · 2 turns",
        "  2026-11-22 12:00:02 UTC · worked 12.0 s · waited 5.0 s",
    }
    assert max(map(columns, lines)) <= 60


def test_the_footer_says_what_the_run_does_now_and_what_it_has_used() -> None:
    footer, j = Footer(), Journal().claimed("w-1")
    j.asks(1, [user("why?")]).answers(1, assistant("because"))
    j.begins(2, "look", {"n": 1})
    footer.add(j.events)
    now = (j.events[-1].at or datetime.now(UTC)) + timedelta(seconds=3)
    line = footer.line(now, 120).text
    assert line.startswith("running · turn 1 · ")
    assert " tokens · " in line
    assert line.endswith("step 2 look 3.0 s")
    before = len(j.events)
    j.ends(2, "look", {"n": 1}, {"result": "seen"})
    footer.add(j.events[before:])
    assert "look" not in footer.line(now, 120).text
    assert columns(footer.line(now, 20).text) <= 20


def test_the_footer_of_an_ended_run_counts_up_to_its_end() -> None:
    j = Journal().claimed("w-1").add("run_finished", status="ok", output={"result": 1})
    later = (j.events[-1].at or datetime.now(UTC)) + timedelta(hours=3)
    footer = Footer()
    footer.add(j.events)
    assert footer.line(later, 120).text == "done · 2.0 s"
    j.events[-1].event = "run_failed"
    j.claimed("w-2", "resumed").events[-1].at = later
    again = Footer()
    again.add(j.events)
    assert "3 h" in again.line(later, 120).text, "it goes on, so time passes"


def test_a_reply_that_is_written_is_shown_by_its_last_lines() -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "a\nb\x1b[2J\nc\nd"}}]}
    assert [line.text for line in streamed_lines(body, 20, 3)] == ["b␛[2J", "c", "d"]
    assert streamed_lines(None, 20, 3) == []
