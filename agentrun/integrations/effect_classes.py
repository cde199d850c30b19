"""How often a framework's tool may act: its effect class, from what the user and the tool say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentrun.core.events import Effect

__all__ = ["choose_effect", "hinted_effect", "is_recorded_tool"]


def choose_effect(
    name: str, effects: Mapping[str, Effect] | None, declared: Any, default: Effect
) -> Effect:
    """The effect class of the tool ``name``.

    The first that exists counts: the user's choice in ``effects``, what the tool declares (for
    example ``metadata={"effect": "read"}``), ``default``.
    """
    if effects is not None and name in effects:
        return effects[name]
    return declared or default


def hinted_effect(annotations: Any) -> Effect | None:
    """The effect class that the annotations of an MCP tool hint at; None without a hint."""
    if getattr(annotations, "read_only_hint", None):
        return "read"
    return "idempotent" if getattr(annotations, "idempotent_hint", None) else None


def is_recorded_tool(function: Any) -> bool:
    """Whether `agentrun.tool` made the function: then its calls are recorded already."""
    return hasattr(getattr(function, "__func__", function), "__agentrun_tool__")
