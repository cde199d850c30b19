"""Exceptions as recorded values, and back.

An exception recorded in a step is raised again on resume as the same type where that can be, so
that the code takes the same path. A type is found only among exception classes that this process
has loaded: nothing is imported and nothing is called because a row says so.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Iterator
from typing import Any

from agentrun.core.codec import Unserialisable, dumps
from agentrun.core.errors import ToolFailed
from agentrun.core.events import Json

_TEXT = 4_000  # characters of a message or traceback that are kept


def describe(error: BaseException, *, trace: bool = False) -> Json:
    """``error`` as JSON: type, message, arguments and plain attributes."""
    kind = type(error)
    described: dict[str, Json] = {
        "type": _name(kind),
        "message": _clip(str(error)),
        "args": [_plain(argument) for argument in error.args],
    }
    state = {name: _plain(value) for name, value in vars(error).items() if name[0] != "_"}
    if state:
        described["state"] = state
    if trace:
        text = "".join(traceback.format_exception(error))
        described["traceback"] = text if len(text) <= _TEXT else "…" + text[-_TEXT:]
    return described


def rebuild(described: Json) -> Exception:
    """The exception that ``described`` tells of; ToolFailed where its type is not loaded."""
    if not isinstance(described, dict):
        return ToolFailed(str(described))
    name, message = str(described.get("type")), str(described.get("message"))
    kind = _find(name)
    if kind is None:
        return ToolFailed(f"{name}: {message}")
    # Not the constructor: its signature is unknown and it may do anything.
    error = kind.__new__(kind)
    error.args = tuple(described.get("args") or ())
    for attribute, value in (described.get("state") or {}).items():
        try:
            setattr(error, attribute, value)
        except (AttributeError, TypeError):
            continue
    return error


def _name(kind: type) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )


def _find(name: str) -> type[Exception] | None:
    found = getattr(builtins, name, None) if "." not in name else None
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return next((kind for kind in _loaded(Exception, set()) if _name(kind) == name), None)


def _loaded(kind: type[Exception], seen: set[type]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        if child not in seen:
            seen.add(child)
            yield child
            yield from _loaded(child, seen)


def _plain(value: Any) -> Json:
    """``value`` if JSON can hold it, else its text."""
    try:
        dumps(value)
    except (Unserialisable, TypeError):
        return _clip(repr(value))
    return value


def _clip(text: str) -> str:
    return text if len(text) <= _TEXT else text[:_TEXT] + "…"
