"""Checks that a value is plain finite JSON and not too deep. An error names the path to it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii

from agentrun.core.errors import AgentrunError
from agentrun.core.events import Json
from agentrun.core.secrets import mask

__all__ = ["MAX_DEPTH", "MAX_DIGITS", "Unserialisable", "check"]

MAX_DEPTH = 200  # Python's json recurses, and shares the limit of 1000 frames with its callers
MAX_DIGITS = 4300  # of an int; Python refuses to read or print a longer one

Trail = tuple["Trail | None", "str | int"]  # the path to a value, last key first


class Unserialisable(AgentrunError, ValueError):
    """JSON cannot hold a value. ``path`` is its place, such as ``result.items[3].price``."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path


_ALWAYS_PLAIN = frozenset({str, bool, type(None)})
_TOO_LARGE = 10**MAX_DIGITS
_SHALLOW = 10  # levels that the fast check covers; nearly all values have fewer
_INT64 = 1 << 63


def check(value: Json, at: str = "value", depth: int = MAX_DEPTH) -> None:
    """Raise Unserialisable, naming the path below ``at``, unless ``value`` is plain finite JSON."""
    if _is_plain(value, _SHALLOW):
        return
    pending: list[tuple[Json, Trail, int]] = [(value, (None, at), depth)]
    while pending:
        item, trail, left = pending.pop()
        if not isinstance(item, (dict, list, tuple)):
            if flaw := _flaw(item):
                raise Unserialisable(_path(trail), flaw)
            continue
        if left == 0:
            raise Unserialisable(
                _path(trail),
                f"is more than {depth} levels deep (or contains itself): store it as a string",
            )
        for key, child in _children(item, trail):
            if type(child) not in _ALWAYS_PLAIN:
                pending.append((child, (trail, key), left - 1))


def _is_plain(item: Json, levels: int) -> bool:
    """Whether a value is plain JSON, checked fast. False means only that it is not certain."""
    kind = type(item)
    if kind is dict:
        if levels == 0:
            return False
        for key, child in item.items():
            if type(key) is not str:
                return False
            if type(child) not in _ALWAYS_PLAIN and not _is_plain(child, levels - 1):
                return False
        return True
    if kind is list:
        if levels == 0:
            return False
        for child in item:
            if type(child) not in _ALWAYS_PLAIN and not _is_plain(child, levels - 1):
                return False
        return True
    if kind is int:
        return bool(-_INT64 < item < _INT64)
    return kind in _ALWAYS_PLAIN or (kind is float and math.isfinite(item))


def _children(item: Json, trail: Trail) -> Iterable[tuple[str | int, Json]]:
    if not isinstance(item, dict):
        return enumerate(item)
    for key in item:
        if not isinstance(key, str):
            raise Unserialisable(
                _path(trail), f"has the key {key!r} ({type(key).__name__}): use a string as key"
            )
    return item.items()


def _flaw(item: Json) -> str | None:
    if item is None or isinstance(item, (str, bool)):
        return None
    if isinstance(item, float):
        if math.isfinite(item):
            return None
        name = "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"
        return f"is {name}, which JSON cannot hold: use None or a string"
    if isinstance(item, int):
        if -_TOO_LARGE < item < _TOO_LARGE:
            return None
        return f"is an integer of more than {MAX_DIGITS} digits: store it as a string"
    return (
        f"is of type {type(item).__name__}, which JSON cannot hold: "
        "use dict, list, str, int, float, bool or None"
    )


def _path(trail: Trail) -> str:
    """A path as text: ``result.items[3]["odd key"]``. Long ones are cut, and secrets masked."""
    parts: list[str] = []
    here: Trail | None = trail
    while here is not None:
        above, key = here
        parts.append(str(key) if above is None else _subscript(key))
        here = above
    parts.reverse()
    if len(parts) > 12:
        parts[6:-5] = ["…"]
    return mask.text("".join(parts))


def _subscript(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    key = mask.text(key)
    if len(key) > 60:
        key = key[:59] + "…"
    return f".{key}" if key.isidentifier() else f"[{encode_basestring_ascii(key)}]"
