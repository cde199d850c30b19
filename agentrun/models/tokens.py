"""Estimates offline how many tokens a text has.

The tokens that a call really used are in its reply (`agentrun.models.usage`). `tiktoken` downloads
its tables if they are missing, so it is used only if they are already on this machine.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from agentrun.core.events import Json

__all__ = ["estimate"]

BYTES_PER_TOKEN = 4  # of English text and code, in any of the usual encodings
TOKENS_PER_MESSAGE = 3  # the marks around each message of a chat
NEWER, OLDER = "o200k_base", "cl100k_base"
OLDER_MODELS = ("gpt-4-", "gpt-3.5", "text-embedding-")
# The SHA-256 that tiktoken expects of each table. It would delete a table with another digest, and
# download the table again.
TABLES = {
    NEWER: "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    OLDER: "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
TABLE_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def estimate(text_or_messages: Json, model: str | None = None) -> tuple[int, str]:
    """The number of tokens and how it was found (``"bpe-openai o200k_base"``, ``"bytes/4"``).

    Takes a text, a message, a list of messages or any other JSON value.
    """
    texts, marks = _texts(text_or_messages)
    count, how = _counter(_encoding(model or ""))
    # A lone surrogate has no UTF-8 encoding, so the counters refuse it.
    encodable = (text.encode("utf-8", "replace").decode() for text in texts)
    return sum(map(count, encodable)) + marks, how


def _texts(value: Json) -> tuple[list[str], int]:
    if isinstance(value, str):
        return [value], 0
    items = value if isinstance(value, list) else [value]
    return [json.dumps(item, ensure_ascii=False) for item in items], TOKENS_PER_MESSAGE * len(items)


def _encoding(model: str) -> str:
    older = model == "gpt-4" or model.startswith(OLDER_MODELS)
    return OLDER if older else NEWER


@cache
def _counter(encoding: str) -> tuple[Callable[[str], int], str]:
    """A function that counts tokens, and its name."""
    return _bpe_openai(encoding) or _tiktoken(encoding) or (_by_bytes, f"bytes/{BYTES_PER_TOKEN}")


def _bpe_openai(encoding: str) -> tuple[Callable[[str], int], str] | None:
    try:
        table = importlib.import_module("bpe_openai").get_encoding(encoding)
    except ImportError:
        return None
    return lambda text: len(table.encode(text)), f"bpe-openai {encoding}"


def _tiktoken(encoding: str) -> tuple[Callable[[str], int], str] | None:
    if not _on_this_machine(encoding):
        return None
    try:
        table = importlib.import_module("tiktoken").get_encoding(encoding)
    except ImportError:
        return None
    return lambda text: len(table.encode(text, disallowed_special=())), f"tiktoken {encoding}"


def _on_this_machine(encoding: str) -> bool:
    """Whether tiktoken's cache holds this table undamaged, so that it downloads nothing."""
    chosen = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if chosen == "":
        return False  # tiktoken's way to switch its cache off
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / "data-gym-cache"
    name = hashlib.sha1(TABLE_URL.format(encoding).encode(), usedforsecurity=False).hexdigest()
    try:
        table = (folder / name).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(table).hexdigest() == TABLES[encoding]


def _by_bytes(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
