"""The dialect of OpenAI's embeddings: equal texts have equal vectors."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any

from agentrun.testing.wire import HttpAnswer, json_answer

__all__ = ["answer"]

SIZE = 8  # numbers in a vector, unless `dimensions` asks for another


def answer(body: Mapping[str, Any]) -> HttpAnswer:
    """Answer with one vector for each text; the effect is the bill."""
    inputs = body["input"]
    texts = [inputs] if isinstance(inputs, str) else [str(one) for one in inputs]
    size = body.get("dimensions") or SIZE
    # By default the SDK asks for base64.
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
