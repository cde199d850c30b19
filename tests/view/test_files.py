"""A run as a file: JSONL without loss, Markdown that stays inert, messages for the chat API."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from hostile import JSON
from hypothesis import example, given
from hypothesis import strategies as st
from journals import HOSTILE, START, Journal, assistant, crashed_and_resumed, user
from markdown_it import MarkdownIt

from agentrun.core.errors import ConfigError
from agentrun.core.events import Event, Usage
from agentrun.core.transcript import fold
from agentrun.view.chat import as_openai
from agentrun.view.jsonl import read_jsonl, write_jsonl
from agentrun.view.markdown import as_markdown


def as_stored(journal: Journal) -> list[Event]:
    """Events as the database gives them: it knows which have values."""
    return [
        replace(event, has_input=event.input is not None, has_output=event.output is not None)
        for event in journal.events
    ]


# -- JSONL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_a_journal_survives_as_jsonl(whole: bool) -> None:
    events = as_stored(crashed_and_resumed())
    lines = list(write_jsonl(events, whole=whole))
    assert len(lines) == len(events)
    assert all(line.isascii() and "\n" not in line for line in lines)
    back = list(read_jsonl(lines))
    assert back == events
    assert fold(back) == fold(events)


@pytest.mark.parametrize("whole", [False, True])
@example(value={"\ud83d\ude00": "\x00\u241b"}, kind="model", reason="")
@given(value=JSON, kind=st.sampled_from(["model", "tool"]), reason=st.text(st.characters()))
def test_any_value_survives(whole: bool, value: Any, kind: Any, reason: str) -> None:
    """Also NUL, lone surrogates, pairs of them that spell a character, 1.0 beside 1, and -0.0."""
    event = Event(
        event="step_finished", kind=kind, reason=reason, at=START, wake_at=START + timedelta(1),
        usage=Usage(cost=Decimal("0.10"), priced_by="x"), raw=b"\x00\xff", overlapping=True,
        input=value, has_input=True, output=value, has_output=True,
    )  # fmt: skip
    lines = list(write_jsonl([event, event], whole=whole))
    assert repr(list(read_jsonl(lines))) == repr([event, event])


def test_a_line_is_plain_json_for_others() -> None:
    (line, *_) = write_jsonl(as_stored(Journal(args={"question": "why?"})))
    told = json.loads(line)
    assert (told["event"], told["seq"], told["key"]) == ("created", 1, "ticket-42")
    assert told["at"] == "2026-11-22T12:00:01+00:00"
    assert told["input"] == {"args": {"question": "why?"}}
    assert "output" not in told


def test_lines_hold_a_conversation_once() -> None:
    journal, said = Journal(), [user("x" * 500)]
    for step in range(1, 60):
        journal.asks(step, list(said)).answers(step, assistant(f"{step} " + "y" * 500))
        said.append(assistant(f"{step} " + "y" * 500))
    repeated, once = (
        sum(map(len, write_jsonl(journal.events, whole=whole))) for whole in (True, False)
    )
    assert once < 60 * 2_000 < repeated / 5


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        '{"seq": 1}',
        '{"event": "created", "seq": "1"}',
        '{"event": "created", "step": []}',
        '{"event": "created", "at": "yesterday"}',
        '{"event": "created", "usage": {"input_tokens": "many"}}',
        '{"event": "created", "usage": {"cost": "much"}}',
        '{"event": "created", "kind": "model", "input": {"$ref": "x"}, "shared": true}',
        '{"event": "created", "input": NaN}',
    ],
)
def test_a_line_that_is_no_event_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2 is not an event"):
        list(read_jsonl(['{"event": "created"}', line]))


def test_what_a_newer_version_adds_is_skipped() -> None:
    (event,) = read_jsonl(['{"event": "dreamt", "mood": "good"}', ""])
    assert event == Event(event="dreamt")  # type: ignore[arg-type]


# -- Markdown --------------------------------------------------------------------------------------


class Rendered(HTMLParser):
    """The tags and the text of rendered Markdown."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(MarkdownIt("commonmark", {"html": True, "linkify": False}).render(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"open", "class"}

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = (
    HOSTILE + "\n```\n````\n<img src=x onerror=alert(1)>\n![x](http://evil/p.png) [a](http://evil)"
    " @everyone #1 http://evil\n\n</details><script>alert(2)</script>\n# heading\n`` ` ``"
)


def test_markdown_stays_inert_whatever_was_recorded() -> None:
    j = Journal(key=EVIL, agent=EVIL, args={EVIL: EVIL}).claimed(EVIL)
    j.asks(1, [user(EVIL), {"role": EVIL, "tool_call_id": EVIL, "content": EVIL}])
    j.answers(1, assistant(EVIL, (EVIL, EVIL, EVIL)), model=EVIL)
    j.begins(2, EVIL, {EVIL: [EVIL]}, key=EVIL).claimed("w-2", EVIL)
    j.add("in_doubt", step=2, attempt=1)
    j.add("resolved", step=2, status=EVIL, by=EVIL, reason=EVIL)
    j.ends(3, EVIL, {}, {"error": {"type": EVIL, "message": EVIL}}, status="error")
    j.add("parked", status=EVIL, reason=EVIL)
    page = Rendered(as_markdown(fold(j.events)))
    assert page.tags <= {"h1", "h2", "p", "pre", "code", "details", "summary", "strong", "em",
                         "blockquote", "ul", "li"}  # fmt: skip
    assert "<script>alert(2)</script>" in page.text


def test_markdown_tells_what_happened() -> None:
    page = Rendered(as_markdown(fold(crashed_and_resumed().events)))
    places = [
        page.text.index(told)
        for told in ("ticket-42", "refund order 7", "turn 1", 'refund(order_id="7")',
                     "resumed by w-2", "happened, decided by ann · seen at the bank", "turn 2",
                     "HTTP 500: overloaded", "Refunded.", "result")
    ]  # fmt: skip
    assert places == sorted(places)


# -- messages of the chat API ----------------------------------------------------------------------


def test_openai_messages_are_the_conversation_as_it_was_sent() -> None:
    assert as_openai(crashed_and_resumed().events) == [
        {"role": "system", "content": "Be kind."},
        user("refund order 7"),
        assistant(None, ("call_1", "refund", '{"order_id":"7"}')),
        {"role": "tool", "tool_call_id": "call_1", "content": '{"refunded": true}'},
        {"role": "assistant", "content": "Refunded."},
    ]


def test_openai_messages_end_with_the_results_that_were_not_sent_yet() -> None:
    events = crashed_and_resumed().events
    begun = [number for number, event in enumerate(events) if event.step == 3]
    j = Journal()
    j.events = [replace(e, ident="1#0") if e.step == 2 else e for e in events[: begun[0]]]
    *_, asked, told = as_openai(j.events)
    assert asked["tool_calls"][0]["id"] == told["tool_call_id"] == "call_1"
    assert "content" not in asked  # null is left out, as in the messages of a client
    assert json.loads(told["content"]) == {"refunded": True}


@pytest.mark.parametrize("calls", [7, True, "text", {"a": 1}, [None, 7, {}]])
def test_openai_messages_of_a_malformed_reply(calls: Any) -> None:
    j = Journal().claimed("w-1").asks(1, [user("go")])
    j.answers(1, {"role": "assistant", "tool_calls": calls})
    assert as_openai(j.events)[-1]["tool_calls"] == calls


def test_openai_messages_of_another_api_are_translated() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {"n": 1}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "seen"}
    said = [user("look"), {"role": "assistant", "content": [{"type": "text", "text": "I do"}, use]},
            {"role": "user", "content": [result]}]  # fmt: skip
    body = {"model": "claude", "system": "Be kind.", "messages": said}
    j = Journal().claimed("w-1").asks(1, [], input={"api": "messages", "body": body})
    j.answers(1, {"body": {"content": [{"type": "text", "text": "Done."}]}})
    j.events[-1] = replace(
        j.events[-1], output={"body": {"content": [{"type": "text", "text": "Done."}]}}
    )
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}}
    assert as_openai(j.events) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "I do", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "seen"},
        {"role": "assistant", "content": "Done."},
    ]


def test_openai_messages_of_items_are_joined_as_chat_wants_them() -> None:
    items = [
        user("look twice"),
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": "2"},
    ]
    body = {"model": "gpt-5-mini", "instructions": "Be kind.", "input": items}
    j = Journal().claimed("w-1").asks(1, [], input={"api": "responses", "body": body})
    told = as_openai(j.events)
    assert [message["role"] for message in told] == ["system", "user", "assistant", "tool", "tool"]
    assert [call["id"] for call in told[2]["tool_calls"]] == ["a", "b"]


def test_openai_messages_are_those_of_the_first_conversation() -> None:
    j = Journal().claimed("w-1")
    j.asks(1, [user("main")], ident="1").answers(1, assistant("yes"), ident="1")
    j.asks(2, [user("aside")], ident="b:x/1").answers(2, assistant("no"), ident="b:x/1")
    assert [message["content"] for message in as_openai(j.events)] == ["main", "yes"]
    assert as_openai(Journal().claimed("w-1").events) == []
