"""The pure parts: fingerprint body, event parser, fold, prices, token estimates."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sayings import chunk, completion

from agentrun.core.codec import check
from agentrun.core.parse import parse_json
from agentrun.core.recorder import ModelRequest
from agentrun.models.event_streams import ServerEvent, SseParser, is_terminal
from agentrun.models.request import canonical_body
from agentrun.models.stream_fold import StreamFold
from agentrun.models.tokens import _counter, estimate
from agentrun.models.usage import usage_of

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "go"}]}
URL = "http://127.0.0.1:1/v1/chat/completions"


def used(model: str, body: Any) -> Any:
    """What this reply to a chat says that it used."""
    return usage_of(ModelRequest("chat.completions", "POST", URL, {}, {}, False, model), body)


def test_what_clients_randomise_does_not_count() -> None:
    more = {"prompt_cache_key": "agents-sdk:run:1f", "metadata": {"trace": "1"}, "user": "u"}
    assert canonical_body({**ASK, **more, "safety_identifier": "s"}) == canonical_body(ASK)
    assert canonical_body({**ASK, "temperature": 1}) != canonical_body(ASK)


def conversation(*ids: str) -> dict[str, Any]:
    calls = [
        {"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ids
    ]
    answers = [{"role": "tool", "tool_call_id": i, "content": "x"} for i in ids]
    return {"model": "m", "messages": [{"role": "assistant", "tool_calls": calls}, *answers]}


def test_ids_count_by_what_they_connect_and_not_by_their_text() -> None:
    assert canonical_body(conversation("a", "b")) == canonical_body(conversation("x", "y"))
    assert canonical_body(conversation("a", "b")) != canonical_body(conversation("a", "a"))
    swapped = conversation("a", "b")
    swapped["messages"][1]["tool_call_id"] = "b"
    swapped["messages"][2]["tool_call_id"] = "a"
    assert canonical_body(swapped) != canonical_body(conversation("a", "b"))


def test_an_id_among_arguments_does_count() -> None:
    def asking(order: str) -> dict[str, Any]:
        use = {"type": "tool_use", "id": "t", "name": "f", "input": {"id": order}}
        return {"model": "m", "messages": [{"role": "assistant", "content": [use]}]}

    assert canonical_body(asking("7")) != canonical_body(asking("8"))


STREAM = (
    ': hello\r\nevent: a\r\ndata: {"x": 1}\r\n\r\ndata: one\ndata: two\n\n'
    "data: ü\r\rid: 4\nretry: 9\n\nevent: message_stop\ndata: {}"
).encode()


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_events(cuts: list[int]) -> None:
    parser = SseParser()
    bounds = [0, *sorted(cuts), len(STREAM)]
    events = [e for a, b in itertools.pairwise(bounds) for e in parser.feed(STREAM[a:b])]
    events += parser.end()
    assert events == [
        ServerEvent("a", '{"x": 1}', {"x": 1}),
        ServerEvent("", "one\ntwo"),
        ServerEvent("", "ü"),
        ServerEvent("message_stop", "{}", {}),
    ]
    assert [is_terminal(event) for event in events] == [False, False, False, True]


def folded(*events: Any) -> Any:
    fold = StreamFold()
    for event in events:
        fold.add(ServerEvent("", json.dumps(event), event))
    return fold.result()


def test_two_choices_and_repeated_names_fold_cleanly() -> None:
    def call(arguments: str, index: int) -> dict[str, Any]:
        function = {"name": "f", "arguments": arguments}
        part = {"index": 0, "id": "c", "type": "function", "function": function}
        return {**chunk(role="assistant", tool_calls=[part]), "choices": [
            {"index": index, "delta": {"role": "assistant", "tool_calls": [part]}}
        ]}  # fmt: skip

    body = folded(call('{"a"', 1), chunk("hi", role="assistant"), call(": 1}", 1), chunk("!"))
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hi!"}
    assert body["choices"][1]["message"]["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]


FIELDS = [
    "choices",
    "delta",
    "type",
    "index",
    "message",
    "usage",
    "error",
    "response",
    "tool_calls",
    "content_block",
    "item",
    "logprobs",
    "output_index",
    "partial_json",
    "text",
    "content",
    "role",
    "id",
]
TYPES = [
    "message_start",
    "message_delta",
    "content_block_start",
    "content_block_delta",
    "message_stop",
    "response.created",
    "response.output_item.done",
    "error",
]


def test_the_pieces_of_a_text_may_be_no_texts() -> None:
    body = folded(chunk("one"), chunk(content=[1, None]), chunk(content=7), chunk("two"))
    assert body["choices"][0]["message"]["content"] == "two"


@pytest.mark.parametrize("type_", [{}, [], [[]], None, 7, "message_stop ", True])
def test_an_event_of_an_odd_type_is_not_the_last(type_: Any) -> None:
    assert not is_terminal(ServerEvent("", "…", {"type": type_}))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NaN", "NaN"),
        ('{"a": [-Infinity, 1e999, -1e999, 1.5]}', {"a": ["-Infinity", "1e999", "-1e999", 1.5]}),
        ("9" * 4_300, 10**4_300 - 1),
        ("-" + "9" * 4_301, "-" + "9" * 4_301),
        ('{"a": "\\ud800\\u0000"}', {"a": "\ud800\0"}),
        ("{half", None),
        (b"\xff", None),
        ("[" * 100_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_stored_of_a_body_is_kept_as_its_text(text: str | bytes, value: Any) -> None:
    assert parse_json(text) == value


def test_what_is_too_deep_in_a_body_is_kept_as_its_text() -> None:
    body = parse_json('{"near": 1, "deep": %s, "far": 2}' % ("[" * 300 + "]" * 300))
    check(body)
    assert (body["near"], body["far"]) == (1, 2)
    inside = body["deep"]
    while isinstance(inside, list):
        (inside,) = inside
    assert inside == "[" * 101 + "]" * 101


SCALARS = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([*TYPES, "", "x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
)
EVENTS = st.builds(
    lambda value, kind: {**value, "type": kind},
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5),
    st.sampled_from(TYPES) | SCALARS,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=6))
def test_no_event_whatever_makes_the_fold_raise(events: list[Any]) -> None:
    begun = {"type": "message_start", "message": {"type": "message"}}
    json.dumps(folded(chunk("a"), *events))
    json.dumps(folded(begun, *events))


def test_a_known_model_has_a_price_and_its_source() -> None:
    usage = used("gpt-5-mini", completion())
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (10, 5)
    assert isinstance(usage.cost, Decimal)
    assert usage.cost > 0
    assert usage.priced_by is not None
    assert usage.priced_by.startswith("genai-prices ")


def test_an_unknown_model_is_unpriced_and_not_free() -> None:
    usage = used("house-7b", completion(model="house-7b"))
    assert usage is not None
    assert usage.output_tokens == 5
    assert (usage.cost, usage.priced_by) == (None, None)


def test_tokens_of_audio_are_kept_apart() -> None:
    told = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"audio_tokens": 30},
        "completion_tokens_details": {"audio_tokens": 12},
    }
    usage = used("gpt-audio", completion(usage=told))
    assert usage is not None
    assert usage.audio_tokens == 42


@pytest.mark.parametrize("body", [None, [], {}, {"usage": None}, {"error": {}}])
def test_a_reply_that_does_not_say_has_no_usage(body: Any) -> None:
    assert used("gpt-5-mini", body) is None


@pytest.mark.parametrize("reported", [{}, {"prompt_tokens": "many"}, {"prompt_tokens": True}])
def test_a_reply_that_says_nonsense_counts_nothing(reported: Any) -> None:
    usage = used("gpt-5-mini", completion(usage=reported))
    assert usage is not None
    assert usage.input_tokens is None


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No bpe-openai on this machine, and an empty cache for tiktoken."""
    monkeypatch.setitem(sys.modules, "bpe_openai", None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    _counter.cache_clear()
    yield
    _counter.cache_clear()


@pytest.mark.usefixtures("no_tables")
def test_without_a_tokenizer_tokens_are_a_quarter_of_the_bytes() -> None:
    assert estimate("", "gpt-5") == (0, "bytes/4")
    assert estimate("hello", "gpt-5") == (2, "bytes/4")
    assert estimate("\ud800", "gpt-5")[0] == 1
    many, _ = estimate([{"role": "user", "content": "hello"}] * 3, "gpt-5")
    one, _ = estimate({"role": "user", "content": "hello"}, "gpt-5")
    assert many == 3 * one > 6


@pytest.mark.usefixtures("no_tables")
@pytest.mark.parametrize("content", [None, b"half a table"])
def test_tiktoken_never_downloads(
    content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
    table = tmp_path / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    if content is not None:
        table.write_bytes(content)

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert estimate("hello", "gpt-5")[1] == "bytes/4"
    assert list(tmp_path.iterdir()) == ([table] if content is not None else [])
