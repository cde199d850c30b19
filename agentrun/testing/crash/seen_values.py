"""Values and exceptions that the agent's code saw, as text that two processes can compare.

The text names types as well as contents, because a resume must return an object of the same class
with the same fields. It leaves out addresses in memory and the iteration order of sets, which
differ between processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["describe_error", "describe_value", "fingerprint", "shorten"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LONGEST = 2_000  # characters of the text in a diary; the fingerprint covers the whole text
_DEEPEST = 20
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def fingerprint(text: str) -> str:
    """A short digest of a text, equal for equal texts."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def describe_value(value: Any, depth: int = 0) -> str:
    """Describe a value, with the types of all its parts."""
    name = _class_name(type(value))
    if isinstance(value, _PLAIN):
        return repr(value) if type(value) in _PLAIN else f"{name}({_as_builtin(value)!r})"
    if depth >= _DEEPEST:
        return f"{name}(…)"
    if isinstance(value, Mapping):
        items = (
            f"{describe_value(k, depth + 1)}: {describe_value(v, depth + 1)}"
            for k, v in value.items()
        )
        return f"{name}{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"{name}[{', '.join(describe_value(one, depth + 1) for one in value)}]"
    if isinstance(value, set | frozenset):
        return f"{name}{{{', '.join(sorted(describe_value(one, depth + 1) for one in value))}}}"
    if isinstance(value, BaseException):
        return describe_error(value, depth + 1)
    fields = _fields_of(value)
    if fields is None:
        return f"{name}({_ADDRESS.sub('', _repr_of(value))})"
    return f"{name}({', '.join(f'{k}={describe_value(v, depth + 1)}' for k, v in fields.items())})"


def describe_error(error: BaseException, depth: int = 0) -> str:
    """Describe an exception: its class, text, arguments, attributes and notes."""
    state = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    state |= {"__notes__": notes} if (notes := getattr(error, "__notes__", None)) else {}
    parts = [_ADDRESS.sub("", _message_of(error)), describe_value(error.args, depth + 1)]
    parts += [f"{name}={describe_value(value, depth + 1)}" for name, value in sorted(state.items())]
    if isinstance(error, BaseExceptionGroup):
        parts += [describe_error(inner, depth + 1) for inner in error.exceptions]
    return f"{_class_name(type(error))}({', '.join(parts)})"


def shorten(text: str) -> str:
    """Cut a text to the length that a person reads."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of an object; None if its class shows its contents by ``repr`` alone."""
    if isinstance(value, type) or callable(value):
        return None
    if hasattr(type(value), "model_fields"):  # pydantic; undeclared fields count too
        private = getattr(value, "__pydantic_private__", None) or {}
        extra = getattr(value, "__pydantic_extra__", None) or {}
        return {**vars(value), **extra, **private}
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        return {name: getattr(value, name, None) for name in names}
    own, kind = getattr(value, "__dict__", None), type(value)
    inherited: Any = object.__repr__
    return dict(own) if own and kind.__repr__ is inherited else None


def _as_builtin(value: Any) -> Any:
    """Convert an instance of a subclass of a plain type (an enum, say) to that plain type."""
    base: Any = next(base for base in _PLAIN if isinstance(value, base))
    return base(value)


def _class_name(kind: type) -> str:
    own = kind.__module__ == "builtins"
    return kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"


def _repr_of(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return "a value that cannot be shown"


def _message_of(error: BaseException) -> str:
    try:
        return repr(str(error))
    except Exception:
        return "an error without a text"
