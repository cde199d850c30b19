"""Compares two values: are they the same in everything that code can observe?

``==`` is not enough: ``1 == True``, ``0.0 == -0.0``, and a subclass may equal its base. A recorded
value may differ in none of these from the value that the code had.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from datetime import datetime, time, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from agentrun.values.tagged_json import PLAIN, ZONES, attributes_of, fixed_offset, is_data, parts_of

__all__ = ["difference"]


def difference(one: Any, other: Any, at: str = "value", depth: int = 400) -> str | None:
    """The place where two values differ in type or content, as code could see; None if equal.

    The order of a dict counts, the order of a set does not. Time zones with the same fixed offset
    are equal whatever their class, because pydantic has its own class for them.
    """
    if one is other and type(one) in PLAIN:
        return None
    if type(one) is not type(other) or depth == 0:
        return at
    if isinstance(one, (dict, list, tuple, deque)) or is_data(type(one)):
        return _difference_inside(one, other, at, depth - 1)
    if isinstance(one, float):
        return None if _is_same_float(one, other) else at
    if isinstance(one, complex):
        return (
            None
            if _is_same_float(one.real, other.real) and _is_same_float(one.imag, other.imag)
            else at
        )
    if isinstance(one, (datetime, time)):
        bare = [(t.replace(tzinfo=None, fold=0), t.fold, _zone(t.tzinfo)) for t in (one, other)]
        return None if bare[0] == bare[1] else at
    if isinstance(one, Decimal):
        return None if one.as_tuple() == other.as_tuple() else at
    if isinstance(one, (set, frozenset)):
        counterparts = {item: item for item in other}
        same = len(one) == len(other) and all(
            item in counterparts and difference(item, counterparts[item], at, depth - 1) is None
            for item in one
        )
        return None if same else at
    try:
        return None if bool(one == other) else at
    except Exception:  # numpy arrays and the like have no single truth value
        return at


def _is_same_float(one: float, other: float) -> bool:
    """Whether two floats are equal with their sign; NaN is the same as NaN."""
    same = one == other and math.copysign(1, one) == math.copysign(1, other)
    return same or (one != one and other != other)


def _difference_inside(one: Any, other: Any, at: str, depth: int) -> str | None:
    if isinstance(one, Enum):
        return None if one is other else at
    if isinstance(one, dict):
        pairs: Any = (list(one), list(other)), (list(one.values()), list(other.values()))
        names = [f"{at}[{key!r}]" for key in one]
        if isinstance(one, defaultdict) and one.default_factory is not other.default_factory:
            return at
    elif isinstance(one, (list, tuple, deque)):
        pairs = ((list(one), list(other)),)
        names = [f"{at}[{n}]" for n in range(len(one))]
        if isinstance(one, deque) and one.maxlen != other.maxlen:
            return at
    else:
        return _difference_of_parts(one, other, at, depth)
    for left, right in pairs:
        if len(left) != len(right):
            return at
        for name, a, b in zip(names, left, right, strict=True):
            if (found := difference(a, b, name, depth)) is not None:
                return found
    if type(one) in (list, dict, tuple):
        return None
    mine, others = attributes_of(one), attributes_of(other)
    return difference(mine, others, f"{at} (rest)", depth) if mine or others else None


def _difference_of_parts(one: Any, other: Any, at: str, depth: int) -> str | None:
    left, right = parts_of(one), parts_of(other)
    for parts in left, right:
        parts.pop("set", None)  # a model read from plain JSON has all its fields set
    for part in left.keys() | right.keys():
        a, b = left.get(part, {}), right.get(part, {})
        if a.keys() != b.keys():
            return at
        for name in a:
            if (found := difference(a[name], b[name], f"{at}.{name}", depth)) is not None:
                return found
    return None


def _zone(zone: tzinfo | None) -> Any:
    """The identity of a time zone, for comparison."""
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo):
        return zone.key
    return fixed_offset(zone) if type(zone) in ZONES else id(zone)
