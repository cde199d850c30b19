"""What earlier rows hold is referenced, and comes back exactly."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun.core.codec import Undecodable, dumps, loads
from agentrun.core.sharing import MIN_SIZE, Shared

BOUNDED = settings(max_examples=300, deadline=None, database=None)

LONG = [letter * MIN_SIZE for letter in "ab"] + ["$" * MIN_SIZE, "\ud83d\ude00" * 20, "😀" * 20]
TEXT = st.sampled_from([*LONG, "$ref", "$prefix", "then", "$$ref", "$", "x", ""]) | st.text(
    st.characters(exclude_categories=()), max_size=5
)
SCALAR = st.none() | st.booleans() | st.sampled_from([0, 1, 1.0, 0.0, -0.0, 10**30])
JSON = st.recursive(
    SCALAR | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def exactly(value: Any) -> str:
    """A text that differs where ``==`` is blind: 1 and True, -0.0 and 0.0, the order of keys."""
    return repr(value)


def held(shared: Shared) -> dict[str, str]:
    """What may be referred to, by name."""
    return {name: exactly(part) for name, part in {**shared._nodes, **shared._links}.items()}


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Values as a run has them: new ones, and ones that repeat and extend earlier ones."""
    pool = draw(st.lists(JSON, min_size=1, max_size=4))
    dicts: list[Any] = draw(st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=5))
    again = st.sampled_from(pool)
    cut = st.integers(0, len(dicts)).map(lambda end: {"messages": dicts[:end], "m": 1})
    return draw(st.lists(again | cut | st.lists(again, max_size=3) | JSON, max_size=8))


@BOUNDED
@given(rows(), st.randoms(use_true_random=False))
def test_any_values_round_trip_through_the_stored_text(values: list[Any], order: Any) -> None:
    writer, reader = Shared(), Shared()
    for value in values:
        if order.random() < 0.3:  # stored whole, as replies are
            writer.learn(value)
            reader.learn(value)
            continue
        text, escaped = dumps(writer.pack(value))
        assert exactly(reader.unpack(loads(text, escaped))) == exactly(value)
    while reader._unnamed:
        reader._name_latest()
    assert held(reader) == held(writer)


def through(writer: Shared, reader: Shared, value: Any) -> str:
    """The text stored for ``value``, proved to come back from it."""
    text, escaped = dumps(writer.pack(value))
    assert exactly(reader.unpack(loads(text, escaped))) == exactly(value)
    return text


# -- a conversation ------------------------------------------------------------------------------


def words(rng: random.Random, size: int) -> str:
    return rng.randbytes(size // 2).hex()


def chat_turn(rng: random.Random, turn: int) -> tuple[Any, list[Any]]:
    """A reply body, and the messages that the loop appends: the reply's, seen by an SDK, and 4 KB
    of tool result."""
    call = {"name": "search", "arguments": json.dumps({"query": words(rng, 200)})}
    calls = [{"id": f"call_{turn}", "type": "function", "function": call}]
    content = words(rng, 2000)
    reply = {"role": "assistant", "content": content, "refusal": None, "tool_calls": calls}
    body = {"id": f"chatcmpl-{turn}", "choices": [{"index": 0, "message": reply}]}
    seen = {"content": content, "role": "assistant", "tool_calls": calls}
    result = {"role": "tool", "tool_call_id": f"call_{turn}", "content": words(rng, 4096)}
    return body, [seen, result]


def responses_turn(rng: random.Random, turn: int) -> tuple[Any, list[Any]]:
    said = {"type": "output_text", "text": words(rng, 2000), "annotations": []}
    message = {"id": f"msg_{turn}", "type": "message", "role": "assistant", "content": [said]}
    call = {"type": "function_call", "call_id": f"call_{turn}", "arguments": words(rng, 200)}
    body = {"id": f"resp_{turn}", "output": [message, {**call, "status": "completed"}]}
    result = {"type": "function_call_output", "call_id": f"call_{turn}"}
    return body, [message, call, {**result, "output": words(rng, 4096)}]


@pytest.mark.parametrize("turn_of", [chat_turn, responses_turn])
def test_requests_take_little_more_than_their_new_text(turn_of: Any) -> None:
    rng = random.Random(7)
    writer, reader = Shared(), Shared()
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
    tools = [{"name": f"tool_{n}", "parameters": parameters} for n in range(10)]
    messages: list[Any] = [{"role": "user", "content": words(rng, 1000)}]
    stored = 0
    for turn in range(200):
        request = {"model": "gpt-5-mini", "messages": messages, "tools": tools}
        stored += len(through(writer, reader, request))
        body, added = turn_of(rng, turn)
        writer.learn(body)
        reader.learn(body)
        messages = messages + added
    assert stored <= 1.1 * 200 * 4096


def test_a_marker_that_moves_to_the_newest_message_costs_no_repetition() -> None:
    """As clients do that tell a provider how far to cache."""
    rng = random.Random(7)
    writer, reader = Shared(), Shared()
    texts: list[str] = []
    stored = 0
    for _ in range(100):
        texts.append(words(rng, 4096))
        messages: list[Any] = [{"role": "user", "content": text} for text in texts]
        messages[-1] = {**messages[-1], "cache_control": {"type": "ephemeral"}}
        stored += len(through(writer, reader, {"messages": messages}))
    assert stored <= 1.1 * 100 * 4096


def test_a_reader_of_the_first_rows_can_go_on_as_the_writer() -> None:
    first, second, later = Shared(), Shared(), Shared()
    dicts = [{"role": "user", "content": str(n) * 100} for n in range(5)]
    rows = [dumps(first.pack({"messages": dicts[:n]}))[0] for n in (1, 2)]
    for row in rows:
        second.unpack(loads(row, escaped=False))
    rows.append(dumps(second.pack({"messages": dicts}))[0])
    assert [later.unpack(loads(row, escaped=False)) for row in rows][-1] == {"messages": dicts}


# -- what is referenced, and what is not ---------------------------------------------------------


def test_what_repeats_is_a_reference_and_what_is_short_is_not() -> None:
    shared = Shared()
    value = {"long": "x" * MIN_SIZE, "short": "x"}
    assert shared.pack(value) == value
    packed = shared.pack(value)
    assert packed["short"] == "x"
    assert packed["long"].keys() == {"$ref"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1] * 64, [1.0] * 64),
        ([1] * 64, [True] * 64),
        ([0.0] * 64, [-0.0] * 64),
        (["1"] * 64, [1] * 64),
        (["\ud83d\ude00"] * 64, ["😀"] * 64),
        ({"a": "x" * 64, "b": 1}, {"b": 1, "a": "x" * 64}),
        ([{"a": 1}] * 64, [{"a": True}] * 64),
    ],
)
def test_values_that_only_look_alike_are_not_confused(one: Any, other: Any) -> None:
    writer, reader = Shared(), Shared()
    for value in ([one], [other], [one, other]):
        through(writer, reader, value)


def test_keys_of_the_value_that_look_like_ours_are_kept() -> None:
    writer, reader = Shared(), Shared()
    value = {"$ref": "#/$defs/x", "$defs": {"$$": {"$prefix": "a", "then": []}}, "then": [1]}
    assert "$$ref" in through(writer, reader, value)
    through(writer, reader, [value, value])


def test_what_is_unpacked_shares_nothing_with_the_tables() -> None:
    writer, reader = Shared(), Shared()
    request = {"messages": [{"role": "user", "content": ["x" * 100]}]}
    for _ in range(3):
        value = reader.unpack(loads(*dumps(writer.pack(request))))
        assert value == request
        value["messages"][0]["content"].append("changed by the caller")
        value["messages"].clear()


def test_what_the_caller_changes_after_packing_is_not_what_is_known() -> None:
    writer, reader = Shared(), Shared()
    messages: list[Any] = [{"role": "user", "content": "x" * 100}]
    for turn in range(3):
        through(writer, reader, {"messages": messages})
        messages[0]["content"] += str(turn)
        messages.append({"role": "user", "content": "y" * 100})


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packed",
    [{"$ref": "ab" * 16}, [{"$ref": "ab" * 16}], {"a": {"$prefix": "ab" * 16, "then": []}}],
)
def test_an_unknown_reference_is_named(packed: Any) -> None:
    with pytest.raises(Undecodable, match=r"(ab){16}.*no earlier row"):
        Shared().unpack(packed)


@pytest.mark.parametrize(
    "packed",
    [{"$ref": 3}, {"$ref": "x", "more": 1}, {"$prefix": "x"}, {"$eval": "x"}, {"a": {"$": 1}}],
)
def test_an_unknown_marker_is_refused(packed: Any) -> None:
    with pytest.raises(Undecodable, match="unknown marker"):
        Shared().unpack(packed)
