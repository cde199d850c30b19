"""Exceptions as recorded values, and back.

An exception recorded in a step is raised again on resume as the same type where that can be, and
with the same text, so that the code takes the same path and the model is told the same. A type is
found only among exception classes that this process has loaded: nothing is imported and nothing is
called because a row says so.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from traceback import StackSummary, TracebackException
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from agentrun.core.codec import dumps
from agentrun.core.errors import ToolFailed
from agentrun.core.events import Json
from agentrun.core.secrets import redact

_TEXT = 4_000  # characters of a traceback, and of what can only be shown, that are kept
_NESTED = 10  # levels of exception groups that are kept


def describe(error: BaseException, *, trace: bool = False, nested: int = _NESTED) -> Json:
    """``error`` as JSON: type, message, arguments and plain attributes."""
    described: dict[str, Json] = {
        "type": _name(type(error)),
        "message": text_of(error),
        "args": [_shown(argument) for argument in error.args],
    }
    state = {name: _shown(value) for name, value in vars(error).items() if name[0] != "_"}
    state |= {name: value for name, value in _slots(error) if value is not None and _plain(value)}
    if state:
        described["state"] = state
    if isinstance(error, BaseExceptionGroup) and nested:
        inside = [describe(inner, nested=nested - 1) for inner in error.exceptions]
        described["exceptions"] = inside
    if trace:
        # A secret that is cut in two would not be found any more.
        text = redact.text(_traceback(error))
        described["traceback"] = text if len(text) <= _TEXT else "…" + text[-_TEXT:]
    return described


def _traceback(error: BaseException) -> str:
    """As Python prints it, but for the carets: to place them it calls its parser for each line.

    That takes long, and a thread that parses something else meanwhile may get a SystemError for
    it (gh-106905).
    """
    told = TracebackException.from_exception(error)
    chain = [told]
    while chain:
        one = chain.pop()
        frames = [
            (frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in one.stack
        ]
        one.stack = StackSummary.from_list(frames)
        chain += filter(None, (one.__cause__, one.__context__, *(one.exceptions or ())))
    return "".join(told.format())


def text_of(error: BaseException) -> str:
    """``str(error)``, where its class has not spoilt that."""
    try:
        return str(error)
    except Exception:
        return "(its text cannot be had)"


def summary(error: BaseException) -> str:
    """``error`` in a line, as a traceback ends."""
    return f"{type(error).__name__}: {text_of(error)}"


def rebuild(described: Json) -> Exception:
    """The exception that ``described`` tells of; ToolFailed where its type is not loaded."""
    if not isinstance(described, dict):
        return ToolFailed(str(described))
    name, message = str(described.get("type")), str(described.get("message"))
    kind = _find(name)
    error = None if kind is None else _made(kind, described)
    if error is not None and text_of(error) != message:
        error = _made(_saying(type(error), message), described)
    return error or ToolFailed(f"{name}: {message}")


def _made(kind: type[Exception], described: dict[str, Json]) -> Exception | None:
    """An exception of this class, if that can be without its constructor."""
    args, state = described.get("args") or (), described.get("state") or {}
    if issubclass(kind, ExceptionGroup):
        inside = [rebuild(inner) for inner in described.get("exceptions") or ()]
        error = _new(ExceptionGroup, kind, str(state.get("message")), inside) if inside else None
    else:
        # The signature of its own `__new__` is unknown, and it may do anything.
        bases = [base for base in kind.__mro__ if base.__module__ == "builtins"]
        error = next((found for base in bases if (found := _new(base, kind))), None)
    if error is None:
        return None
    if not isinstance(error, ExceptionGroup):
        error.args = tuple(args)
    for attribute, value in state.items():
        try:
            setattr(error, attribute, value)
        except (AttributeError, TypeError, ValueError):
            continue
    return error


def _new(base: Any, kind: type[Exception], *args: Any) -> Exception | None:
    try:
        made: Exception = base.__new__(kind, *args)
    except TypeError:  # made in C, or of another base: only its own will do
        return None
    return made


def _saying(kind: type[Exception], message: str) -> type[Exception]:
    """The class ``kind`` for an exception whose text cannot be had from its arguments."""
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {**named, "__str__": lambda _self: message})


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


def _slots(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What lies in fixed places and not in ``vars``, as an OSError's ``errno``."""
    for base in type(error).__mro__:
        for name, member in vars(base).items():
            fixed = isinstance(member, (GetSetDescriptorType, MemberDescriptorType))
            if fixed and name[0] != "_" and name != "args":
                yield name, getattr(error, name, None)


def _shown(value: Any) -> Json:
    """``value`` if JSON can hold it, else its text."""
    if _plain(value):
        return value
    try:
        text = redact.text(repr(value))
    except Exception:
        text = f"({type(value).__name__} that cannot be shown)"
    return text if len(text) <= _TEXT else text[:_TEXT] + "…"


def _plain(value: Any) -> bool:
    try:
        dumps(value)
    except (TypeError, ValueError):
        return False
    return True
