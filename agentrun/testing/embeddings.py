"""The dialect of OpenAI's embeddings: vectors that depend on nothing but the text."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any

from agentrun.testing.wire import Answer, json_answer

__all__ = ["answer"]

SIZE = 8  # numbers in a vector, unless `dimensions` asks for another


def answer(body: Mapping[str, Any]) -> Answer:
    """One vector a text; its effect is the bill."""
    given = body["input"]
    texts = [given] if isinstance(given, str) else [str(one) for one in given]
    size = body.get("dimensions") or SIZE
    # The SDK asks for base64 unless told otherwise.
    encode = _base64 if body.get("encoding_format") == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(_vector(text, size))}
        for index, text in enumerate(texts)
    ]
    tokens = sum(math.ceil(len(text) / 4) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    model = body.get("model")
    bill = {"model": model, "turn": 0, "stream": False, "usage": usage}
    return json_answer(
        {"object": "list", "data": data, "model": model, "usage": usage}, effect=bill
    )


def _vector(text: str, size: int) -> list[float]:
    digests = (hashlib.sha256(f"{at}:{text}".encode()).digest() for at in range(size))
    numbers = [int.from_bytes(digest[:4], "big") / 2**31 - 1 for digest in digests]
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
