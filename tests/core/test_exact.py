"""Exact bytes: a secret in them is found however JSON and a stream spell it, in linear time."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun.core import exact
from agentrun.core.exact import holds_secret
from agentrun.core.secrets import mask

BOUNDED = settings(max_examples=200, deadline=None, database=None)
SECRET = "sk-proj-Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"
PART = "Ef6hIj9kLm2nOp5qRs8t"
TEXT = f"the key is {SECRET}, keep it"
CLEAN = "the key is sk-proj, keep it; nothing to see here at all, and so on"


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


@pytest.mark.parametrize("kind", PIECES)
@BOUNDED
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=6))
def test_a_secret_is_found_however_a_stream_was_cut(kind: str, cuts: list[int]) -> None:
    for text, secret in ((TEXT, True), (CLEAN, False)):
        bounds = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
        assert holds_secret(stream(*map(PIECES[kind], pieces)), stream=True) is secret


@pytest.mark.parametrize("kind", PIECES)
def test_a_secret_is_found_character_by_character(kind: str) -> None:
    assert holds_secret(stream(*map(PIECES[kind], TEXT)), stream=True)


def test_texts_that_are_spelt_at_the_same_time_are_told_apart() -> None:
    half = len(TEXT) // 2
    events = [chat(0, content=TEXT[:half]), chat(1, content=CLEAN), chat(0, content=TEXT[half:])]
    assert holds_secret(stream(*events), stream=True)
    apart = [chat(0, content=TEXT[:18]), chat(1, content=TEXT[18:])]
    assert not holds_secret(stream(*apart), stream=True)


@BOUNDED
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: f"data: {text}\n".encode()))
def test_bytes_without_a_secret_hold_none(raw: bytes) -> None:
    assert not holds_secret(raw, stream=False)
    assert not holds_secret(raw, stream=True)


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
    assert holds_secret(raw, stream=False)


def test_each_piece_of_a_stream_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking 16,000 chunks took 82 s: the whole text was copied for each of them."""
    read = 0
    value, text = mask.__call__, mask.text

    class Counting:
        def __call__(self, given: Any) -> Any:
            nonlocal read
            read += len(json.dumps(given))
            return value(given)

        def text(self, given: str) -> str:
            nonlocal read
            read += len(given)
            return text(given)

    monkeypatch.setattr(exact, "mask", Counting())
    raw = stream(*(chat(0, content=f"word {n} ") for n in range(16_000)))
    assert not holds_secret(raw, stream=True)
    assert read < 2 * len(raw)
