"""Files of a run's journal that somebody made up: refused in bounded time and room."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentrun.core.errors import ConfigError
from agentrun.core.events import Event
from agentrun.view.jsonl import read_jsonl, write_jsonl


def test_references_to_references_do_not_grow_without_bound() -> None:
    value: Any = "x" * 64
    events = []
    for seq in range(1, 20):
        value = [value, value]
        events.append(
            Event(event="step_finished", seq=seq, kind="model", input={"m": value}, has_input=True)
        )
    lines = list(write_jsonl(events))
    assert sum(map(len, lines)) < 10_000
    with pytest.raises(ConfigError, match=r"line \d+ .*far more than its size"):
        list(read_jsonl(lines))
    assert list(read_jsonl(lines[:9])) == events[:9]


def test_references_do_not_nest_without_bound() -> None:
    """Else a value that was read could be too deep for those who build it later."""
    value: Any = "x" * 64
    events = []
    for seq in range(1, 40):
        for _ in range(10):
            value = [value, "and more of it, so that it has a name of its own" * 2]
        found = {"m": value}
        events.append(
            Event(event="step_finished", seq=seq, kind="model", input=found, has_input=True)
        )
    lines = list(write_jsonl(events))
    with pytest.raises(ConfigError, match=r"line 2\d .*levels deep"):
        list(read_jsonl(lines))
    assert list(read_jsonl(lines[:19])) == events[:19]


def test_a_field_of_ours_is_not_read_from_a_file() -> None:
    line = '{"event": "created", "packed": {"stored": 1}, "input": 2}'
    (event,) = read_jsonl([line])
    assert (event.packed, event.input) == (None, 2)


def test_a_long_honest_conversation_is_read() -> None:
    messages: list[Any] = []
    events = []
    for seq in range(1, 200):
        messages = [*messages, {"role": "user", "content": f"{seq} " + "word " * 200}]
        events.append(
            Event(
                event="step_finished",
                seq=seq,
                kind="model",
                input={"messages": messages},
                has_input=True,
            )
        )
    assert list(read_jsonl(write_jsonl(events))) == events


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "created", "run_id": 5}',
        '{"event": "created", "at": 5}',
        '{"event": "created", "raw": {}}',
        '{"event": "created", "usage": 5}',
        '{"event": "created", "usage": []}',
        '{"event": "created", "input": ' + '{"a":' * 50_000 + "1" + "}" * 50_001,
        json.dumps({"event": "step_finished", "kind": "model", "shared": True,
                    "input": {"$ref": "nowhere"}}),
        "[]", "null", "x", "\x00",
    ],
    ids=lambda line: line[:40],
)  # fmt: skip
def test_what_is_no_event_is_told_by_its_line(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        list(read_jsonl(['{"event": "created"}', line]))
