"""Parses JSON from providers into values that the journal can store.

A provider's body may contain what the journal refuses: NaN, 1e999, a number of ten thousand digits,
or a thousand levels of nesting. Such a part becomes its text, so that the rest of the body stays
readable. The exact bytes are recorded beside it.
"""

from __future__ import annotations

import json
from math import isfinite

from agentrun.core.codec import MAX_DEPTH, MAX_DIGITS, check
from agentrun.core.events import Json

__all__ = ["parse_json"]


def parse_json(text: str | bytes) -> Json:
    """The value of a JSON text. None if the text is not JSON."""
    try:
        try:
            value = json.loads(text, parse_constant=str)
            check(value)
        except ValueError:  # not JSON, or JSON with a part that has to become text
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
    """``value`` with each part deeper than ``levels`` replaced by its text."""
    if not isinstance(value, (dict, list)):
        return value
    if levels == 0:
        return json.dumps(value)
    if isinstance(value, dict):
        return {name: _shallow(item, levels - 1) for name, item in value.items()}
    return [_shallow(item, levels - 1) for item in value]
