"""Makes the class of a generic model from its recorded name, such as ``Page[int]``.

pydantic makes such a class where the code first writes it. If only the body of a tool does, then a
process that resumes the run has not made it. A row can name only generic models that the code
declares, and as arguments simple types and loaded classes that derive from declared ones.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

__all__ = ["argument_types", "make_class", "split_name"]

_SIMPLE: tuple[type, ...] = (
    *(str, int, float, bool, bytes, list, dict, tuple, set, decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
)


def split_name(name: str) -> tuple[str, list[str]]:
    """The name of the generic class, and those of its arguments; none if it has no arguments."""
    origin, bracket, rest = name.partition("[")
    return (origin, rest[:-1].split(", ")) if bracket and rest.endswith("]") else (name, [])


def argument_types(names: Iterable[str], kinds: Iterable[type]) -> list[type] | None:
    """The types of these names; None if a name belongs to no type, or to several."""
    known = [*_SIMPLE, *kinds]
    found = [[kind for kind in known if kind.__qualname__ == name] for name in names]
    return [one[0] for one in found] if all(len(one) == 1 for one in found) else None


def make_class(origin: Any, arguments: list[type]) -> Any:
    """The class of a generic model with these arguments; None if that would run a user's code."""
    if not issubclass(origin, BaseModel) or _has_hook(origin):
        return None
    parameters = origin.__pydantic_generic_metadata__["parameters"]
    return origin[tuple(arguments)] if len(parameters) == len(arguments) else None


def _has_hook(origin: type[BaseModel]) -> bool:
    """Whether the class has code that is executed when a class derives from it."""
    own = origin.__mro__[: origin.__mro__.index(BaseModel)]
    hooks = {"__init_subclass__", "__pydantic_init_subclass__", "__class_getitem__"}
    return type(origin) is not type(BaseModel) or any(hooks & vars(base).keys() for base in own)
