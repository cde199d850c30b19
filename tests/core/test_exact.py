"""Exact bytes stay exact, and a secret in them is found however JSON and a stream spell it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun.core.exact import without_secrets
from agentrun.core.secrets import redact

BOUNDED = settings(max_examples=200, deadline=None, database=None)
SECRET = "sk-proj-Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"
PART = "Ef6hIj9kLm2nOp5qRs8t"
TEXT = f"the key is {SECRET}, keep it"
CLEAN = "the key is [removed: openai key], keep it"


def chat(index: int, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "choices": [
        {"index": index, "delta": delta, "finish_reason": None}]}  # fmt: skip


def arguments(call: int, piece: str, **more: Any) -> dict[str, Any]:
    return chat(0, tool_calls=[{"index": call, **more, "function": {"arguments": piece}}])


def responses(piece: str, item: int = 0) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": f"msg_{item}", "output_index": item,
            "content_index": 0, "delta": piece}  # fmt: skip


def anthropic(piece: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index,
            "delta": {"type": "text_delta", "text": piece}}  # fmt: skip


PIECES: dict[str, Any] = {
    "chat": lambda piece: chat(0, content=piece),
    "arguments": lambda piece: arguments(1, piece),
    "responses": responses,
    "anthropic": anthropic,
}


def stream(*events: dict[str, Any], end: str = "\n\n") -> bytes:
    return "".join(f"data: {json.dumps(event)}{end}" for event in events).encode()


def spelt(raw: bytes) -> str:
    """The texts of a stream, one after another."""
    found = []
    for line in raw.decode().splitlines():
        value = json.loads(line.removeprefix("data: ")) if line else {}
        for event in value.get("choices", [value]):
            delta = event.get("delta", {})
            if isinstance(delta, str):
                found.append(delta)
            elif "tool_calls" in delta:
                found.append(delta["tool_calls"][0]["function"]["arguments"])
            else:
                found.append(delta.get("content", delta.get("text", "")))
    return "".join(found)


@pytest.mark.parametrize("kind", PIECES)
@BOUNDED
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=6))
def test_a_secret_is_found_however_a_stream_was_cut(kind: str, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(TEXT)]
    pieces = [TEXT[a:b] for a, b in itertools.pairwise(bounds)]
    clean = without_secrets(stream(*map(PIECES[kind], pieces)), stream=True)
    assert PART.encode() not in clean
    assert spelt(clean) == CLEAN
    assert without_secrets(clean, stream=True) is clean


@pytest.mark.parametrize("kind", PIECES)
def test_a_secret_is_found_character_by_character(kind: str) -> None:
    assert spelt(without_secrets(stream(*map(PIECES[kind], TEXT)), stream=True)) == CLEAN


def test_texts_that_are_spelt_at_the_same_time_are_told_apart() -> None:
    half = len(TEXT) // 2
    other = "sk-live, not a key: " * 3
    events = [chat(0, content=TEXT[:half]), chat(1, content=other), arguments(0, other, id="a"),
              arguments(1, TEXT[:half], id="b", type="function"), chat(0, content=TEXT[half:]),
              arguments(1, TEXT[half:])]  # fmt: skip
    clean = without_secrets(stream(*events), stream=True)
    assert PART.encode() not in clean
    told = [
        json.loads(line[6:])["choices"][0]["delta"] for line in clean.decode().split("\n\n")[:-1]
    ]
    assert told[0]["content"] == told[3]["tool_calls"][0]["function"]["arguments"] == CLEAN
    assert told[1]["content"] == told[2]["tool_calls"][0]["function"]["arguments"] == other


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_all_but_the_secret_stays_as_it_was(end: str) -> None:
    untouched = f": hello {end}event: x{end[: len(end) // 2]}data:  [DONE]{end}data: {{no json{end}"
    raw = stream(chat(0, content=TEXT[:20]), chat(0, content=TEXT[20:]), end=end)
    clean = without_secrets(untouched.encode() + raw + untouched.encode(), stream=True)
    assert clean.startswith(untouched.encode())
    assert clean.endswith(untouched.encode())
    assert PART.encode() not in clean


@BOUNDED
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: f"data: {text}\n".encode()))
def test_bytes_without_a_secret_are_the_same_bytes(raw: bytes) -> None:
    for stream in (False, True):
        assert without_secrets(raw, stream=stream) is raw


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps({"a": TEXT}).encode(),
        json.dumps({"a": TEXT}).replace("sk-proj", "\\u0073k\\u002dproj").encode(),
        json.dumps({"authorization": PART}).encode(),
        b"\xff not JSON: " + TEXT.encode() + b" \xfe",
    ],
)
def test_a_secret_in_a_body_is_found_under_its_escapes(raw: bytes) -> None:
    for stream in (False, True):
        clean = without_secrets(b"data: " * stream + raw, stream=stream)
        assert PART.encode() not in clean
        assert b"[removed: " in clean


@pytest.mark.parametrize(
    "secret", ['a "quoted" pass\\word', "pässwörd of many", "line one\nline two"]
)
def test_a_known_secret_is_found_as_json_and_python_spell_it(secret: str) -> None:
    redact.know([secret])
    inside = json.dumps({"arguments": json.dumps({"key": secret})})
    for text in (inside, json.dumps([secret], ensure_ascii=False), secret, repr([secret])):
        clean = without_secrets(text.encode(), stream=False).decode()
        assert "removed: known secret" in clean
        assert redact.text(clean) == clean
        for part in ("quoted", "sswö", "ssw\\u00f6", "line two"):
            assert part not in clean
