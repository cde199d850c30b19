"""Tells JSON objects and arrays from other JSON values, in words that a type checker understands.

`isinstance(value, dict)` leaves the types of keys and values unknown; these functions name them.
"""

from __future__ import annotations

from typing import TypeGuard

from agentrun.core.events import Json

__all__ = ["is_array", "is_object"]


def is_object(value: Json) -> TypeGuard[dict[str, Json]]:
    """Whether a JSON value is an object."""
    return isinstance(value, dict)


def is_array(value: Json) -> TypeGuard[list[Json]]:
    """Whether a JSON value is an array."""
    return isinstance(value, list)
