"""Decides whether the exact bytes of a reply contain a secret. If so, only workers may read them.

A secret is found wherever the caller would see it: behind the escapes of JSON, and in a text that
a stream delivers in pieces, wherever it was cut. Each byte is searched a fixed number of times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentrun.core.events import Json
from agentrun.core.parse import parse_json
from agentrun.core.secrets import mask

__all__ = ["holds_secret"]

_DATA = re.compile(r"(?<![^\r\n])data: ?([^\r\n]+)")  # a data line of a stream

# Numbers that identify the text a piece belongs to, and fields that are complete in each event.
_INDEXES = ("index", "output_index", "content_index", "summary_index")
_WHOLE = frozenset({"id", "item_id", "type", "object", "model", "role", "name", "obfuscation"})


def holds_secret(raw: bytes, *, stream: bool) -> bool:
    """Whether masking would change ``raw``, a JSON body or a ``stream`` of events."""
    text = raw.decode("utf-8", "surrogateescape")
    if not stream:
        return bool(mask(parse_json(text))[1]) or mask.text(text) is not text
    events = [parse_json(line[1]) for line in _DATA.finditer(text)]
    return any(mask(event)[1] for event in events) or any(
        mask.text(spelt) is not spelt for spelt in _texts(events)
    )


def _texts(events: list[Json]) -> Iterator[str]:
    """The texts that the events deliver in pieces, each joined."""
    texts: dict[tuple[Any, ...], list[str]] = {}
    for event in events:
        for path, piece in _pieces(event, ()):
            texts.setdefault(path, []).append(piece)
    for pieces in texts.values():
        yield "".join(pieces)


def _pieces(value: Json, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """The strings in an event, each with the path that identifies its text."""
    if isinstance(value, dict):
        path += tuple((name, value[name]) for name in _INDEXES if isinstance(value.get(name), int))
    elif not isinstance(value, list):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        numbered = isinstance(item, dict) and "index" in item
        here = path if numbered else (*path, key)
        if not isinstance(item, str):
            yield from _pieces(item, here)
        elif key not in _WHOLE:
            yield here, item
