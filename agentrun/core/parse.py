"""JSON as others send it, as a value that can be stored.

A provider's body may hold what the journal cannot: NaN, 1e999, numbers of ten thousand digits,
brackets a thousand levels deep. Such a part is kept as its text, and all around it stays readable;
the exact bytes are recorded beside it.
"""

from __future__ import annotations

import json
from math import isfinite

from agentrun.core.codec import MAX_DEPTH, MAX_DIGITS, check
from agentrun.core.events import Json

__all__ = ["parsed"]


def parsed(text: str | bytes) -> Json:
    """The value of a JSON text, None if it is none."""
    try:
        try:
            value = json.loads(text, parse_constant=str)
            check(value)
        except ValueError:  # no JSON at all, or what is looked for below
            value = json.loads(text, parse_constant=str, parse_float=_float, parse_int=_int)
            value = _shallow(value, MAX_DEPTH)
    except (ValueError, RecursionError):
        return None
    return value


def _float(digits: str) -> float | str:
    number = float(digits)
    return number if isfinite(number) else digits


def _int(digits: str) -> int | str:
    return int(digits) if len(digits.lstrip("-")) <= MAX_DIGITS else digits


def _shallow(value: Json, levels: int) -> Json:
    """``value`` with whatever lies deeper than ``levels`` as its text."""
    if not isinstance(value, (dict, list)):
        return value
    if levels == 0:
        return json.dumps(value)
    if isinstance(value, dict):
        return {name: _shallow(item, levels - 1) for name, item in value.items()}
    return [_shallow(item, levels - 1) for item in value]
