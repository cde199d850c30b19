"""Reading, folding and writing a conversation costs what is new in it: work is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from journals import Journal

from agentrun.core import sharing
from agentrun.core.conversations import Conversations
from agentrun.core.events import Event
from agentrun.core.history import History
from agentrun.core.sharing import Packed, Shared
from agentrun.core.transcript import Transcript, fold
from agentrun.view.jsonl import JsonlWriter, read_jsonl, write_jsonl
from agentrun.view.page import as_page

TURNS, LIMIT = 40, 2.2  # a conversation twice as long may take this many times the work
TOOLS = [
    {"type": "function", "function": {"name": f"tool_{n}", "parameters": {}}} for n in range(9)
]
API = {"chat": "messages", "gemini": "contents", "responses": "input"}


def conversation(turns: int, field: str = "messages", dialect: str = "chat") -> list[Event]:
    """A run of so many model calls, each with the whole conversation and a system prompt."""
    journal = Journal().claimed("w-1")
    said: list[Any] = [{"role": "user", "content": "Where is my order? " * 9}]
    for step in range(1, turns + 1):
        body = {"model": "m", "instructions": "Be brief. " * 20, field: said, "tools": TOOLS}
        journal.asks(step, [], input={"api": dialect, "body": body}, has_input=True)
        reply = {"role": "assistant", "content": f"{step}: it is on its way. " * 9}
        journal.answers(step, reply, has_output=True)
        said = [*said, reply, {"role": "user", "content": f"{step}: and now? " * 9}]
    return journal.events


def lines(events: Iterable[Event]) -> list[str]:
    return list(write_jsonl(events))


class Work:
    """Counts the parts that are built, the bytes that are named, and the messages that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built = self.named = self.read = 0
        build, canonical, extend = Shared._build, sharing.canonical, Conversations._extend

        def counted_build(shared: Shared, packed: Any) -> Any:
            self.built += 1
            return build(shared, packed)

        def counted_canonical(value: Any) -> bytes:
            text = canonical(value)
            self.named += len(text)
            return text

        def counted_extend(conversations: Conversations, path: Any, message: Any) -> Any:
            self.read += 1
            return extend(conversations, path, message)

        monkeypatch.setattr(Shared, "_build", counted_build)
        monkeypatch.setattr(sharing, "canonical", counted_canonical)
        monkeypatch.setattr(Conversations, "_extend", counted_extend)

    def of(self, stored: list[str]) -> tuple[int, int, int]:
        """The work to read a journal, fold it, and write it as a page, as JSON and as lines."""
        self.built = self.named = self.read = 0
        events = list(read_jsonl(stored))
        transcript = fold(events)
        as_page(transcript, events)
        transcript.to_json()
        lines(events)
        History(events)
        return self.built, self.named, self.read


@pytest.mark.parametrize("dialect", API)
def test_a_conversation_twice_as_long_takes_twice_the_work(
    monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    once, twice = (lines(conversation(n, API[dialect], dialect)) for n in (TURNS, 2 * TURNS))
    work = Work(monkeypatch)
    for short, long in zip(work.of(once), work.of(twice), strict=True):
        assert 0 < long <= LIMIT * short


def sizes(turns: int) -> tuple[int, ...]:
    events = list(read_jsonl(lines(conversation(turns))))
    transcript = fold(events)
    return (
        sum(map(len, lines(events))),
        len(transcript.to_json()),
        len(as_page(transcript, events)),
        sum(len(str(step.input)) for step in transcript.steps),
    )


def test_no_format_repeats_the_conversation_in_each_step() -> None:
    for short, long in zip(sizes(TURNS), sizes(2 * TURNS), strict=True):
        assert long <= LIMIT * short


def test_a_transcript_is_the_same_whether_requests_are_packed_or_whole() -> None:
    events = conversation(TURNS)
    packed = list(read_jsonl(lines(events)))
    whole = list(read_jsonl(write_jsonl(events, whole=True)))
    assert packed == whole
    assert [event.packed is not None for event in packed] == [e.kind == "model" and e.has_input
                                                              for e in events]  # fmt: skip
    assert fold(packed) == fold(whole) == fold(events)


def requests(transcript: Transcript) -> list[Any]:
    return [step.request for step in transcript.steps]


def test_a_step_keeps_its_exact_request() -> None:
    events = conversation(TURNS)
    asked = [event.input["body"] for event in events if event.event == "attempt_started"]
    assert requests(fold(events)) == asked
    transcript = fold(read_jsonl(lines(events)))
    assert requests(transcript) == asked
    taken = transcript.steps[-1].request
    taken["messages"].clear()  # it belongs to the caller
    assert requests(transcript) == asked
    assert transcript.steps[-1].input == {"api": "chat", "body": {"model": "m"}}


def test_the_same_request_again_refers_to_the_whole_of_the_first() -> None:
    """Its name is the digest of its text, which a reader finds when it is asked for it."""
    journal, said = Journal().claimed("w-1"), conversation(3)[-2].input
    bodies = [{**said["body"], "messages": said["body"]["messages"][:n]} for n in (1, 3, 5, 3, 5)]
    for step, body in enumerate(bodies, 1):
        journal.asks(step, [], input={"api": "chat", "body": body}, has_input=True)
    stored = lines(journal.events)
    assert ['"body":{"$ref":' in line for line in stored[2:]] == [False] * 3 + [True] * 2
    assert requests(fold(read_jsonl(stored))) == bodies


def test_requests_are_built_while_later_rows_are_read() -> None:
    writer, reader = Shared(), Shared()
    dicts = [{"role": "user", "content": f"{n} " * 50} for n in range(150)]
    rows = [writer.pack({"messages": dicts[:n]}) for n in range(1, len(dicts))]
    found: list[Packed] = [reader.receive(rows[0])]
    wrong: list[int] = []
    done = threading.Event()

    def build() -> None:
        while not done.is_set():
            count = len(found)
            if found[count - 1].unpack() != {"messages": dicts[:count]}:
                wrong.append(count)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for row in rows[1:]:
        found.append(reader.receive(row))
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_lines_that_begin_in_the_middle_are_read_back() -> None:
    events = list(read_jsonl(lines(conversation(5))))
    assert list(read_jsonl(lines(events[5:]))) == events[5:]


def test_lines_written_piece_by_piece_are_those_of_the_whole() -> None:
    writer, events = JsonlWriter(), conversation(5)
    assert [writer.line(event) for event in events] == lines(events)
