"""The exact bytes of a reply, less the secrets in them.

Bytes without a secret stay as they came. A secret is found wherever the caller would see it: under
the escapes of JSON, and in the text that a stream spells piece by piece, however it was cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from agentrun.core.events import Json
from agentrun.core.parse import parsed
from agentrun.core.secrets import redact

__all__ = ["without_secrets"]

_DATA = re.compile(r"(?<![^\r\n])data: ?([^\r\n]+)")  # a line of a stream, and what it holds

# Numbers that tell which text a piece belongs to, and fields that are said whole in each event.
_INDEXES = ("index", "output_index", "content_index", "summary_index")
_WHOLE = frozenset({"id", "item_id", "type", "object", "model", "role", "name", "obfuscation"})

_Piece = tuple[int, Any, str | int]  # the event, the dict or list in it, and where in that


def without_secrets(raw: bytes, *, stream: bool) -> bytes:
    """``raw``, a JSON body or a ``stream`` of events, as it may be stored."""
    text = raw.decode("utf-8", "surrogateescape")
    clean = redact.text(_events(text) if stream else _body(text))
    return raw if clean == text else clean.encode("utf-8", "surrogateescape")


def _body(text: str) -> str:
    clean, found = redact(parsed(text))
    return json.dumps(clean) if found else text


def _events(text: str) -> str:
    lines = list(_DATA.finditer(text))
    events = [parsed(line[1]) for line in lines]
    changed = _join(events)
    for number, event in enumerate(events):
        events[number], found = redact(event)
        if found:
            changed.add(number)
    for number in sorted(changed, reverse=True):
        start, end = lines[number].span(1)
        text = f"{text[:start]}{json.dumps(events[number])}{text[end:]}"
    return text


def _join(events: list[Json]) -> set[int]:
    """Take secrets out of the texts that run through the events; return which were changed.

    Such a text then stands in the first of its pieces: how it was cut says nothing.
    """
    texts: dict[tuple[Any, ...], list[_Piece]] = {}
    for number, event in enumerate(events):
        for path, holder, key in _pieces(event, ()):
            texts.setdefault(path, []).append((number, holder, key))
    changed: set[int] = set()
    for pieces in texts.values():
        spelt = "".join(holder[key] for _, holder, key in pieces)
        clean = redact.text(spelt)
        if clean is not spelt:
            for number, holder, key in pieces:
                holder[key], clean = clean, ""
                changed.add(number)
    return changed


def _pieces(value: Json, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any, str | int]]:
    """The strings in an event: which text each is a piece of, and where it stands."""
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
            yield here, value, key
