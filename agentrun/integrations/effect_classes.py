"""How often a framework's tool may act: its effect class, from what the user and the tool say."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, get_args

from agentrun.core import recorder
from agentrun.core.errors import ConfigError, Refusing
from agentrun.core.events import Effect

__all__ = ["check_classes", "check_names", "choose_effect", "hinted_effect", "is_recorded_tool"]

_CLASSES: tuple[str, ...] = get_args(Effect)
_SIMILAR = 0.6  # how alike a word must be to be proposed
_MISSPELT = 0.8  # how alike names must be to be taken for one: `shp` and `ship` are 0.86


def check_classes(effects: Mapping[str, Effect] | None, default: Effect) -> None:
    """Refuse an effect class that there is not, when an adapter is made.

    Args:
        effects: the effect classes that the user gave, by tool name.
        default: the effect class of all other tools.

    Raises:
        ConfigError: a class is misspelt. Inside a run, the run fails with this error.
    """
    for name, effect in (effects or {}).items():
        _check_class(f"effects={{{name!r}: {effect!r}}}", effect)
    _check_class(f"default={default!r}", default)


def check_names(
    effects: Mapping[str, Effect] | None, tools: Iterable[str], *, complete: bool
) -> None:
    """Refuse a name in ``effects`` that no tool has: the tool that was meant would get the default.

    Args:
        effects: the effect classes that the user gave, by tool name.
        tools: the names of the tools that are known.
        complete: these are all tools that there will be. If not, only a name that looks like the
            misspelt name of a known tool without an entry of its own is refused, because a name
            that is valid must never be.

    Raises:
        ConfigError: a name is misspelt. Inside a run, the run fails with this error.
    """
    if not effects:
        return
    known = sorted({*tools})
    for name in effects:
        if name in known:
            continue
        if complete:
            meant = _find_nearest(name, known, _SIMILAR)
        else:
            meant = _find_nearest(name, [one for one in known if one not in effects], _MISSPELT)
        if meant is None and not complete:
            continue
        hint = f"; did you mean {meant!r}?" if meant else "."
        also = "" if complete else f", or give {meant!r} an entry of its own if it is another tool"
        _refuse(
            f"effects={{{name!r}: …}} names no tool{hint} The tools are: "
            f"{', '.join(known) or 'none'}. Correct or remove the name{also}"
        )


def choose_effect(
    name: str, effects: Mapping[str, Effect] | None, declared: Any, default: Effect
) -> Effect:
    """The effect class of the tool ``name``.

    The first that exists counts: the user's choice in ``effects``, what the tool declares (for
    example ``metadata={"effect": "read"}``), ``default``.

    Raises:
        ConfigError: the tool declares a class that there is not. Inside a run, the run fails.
    """
    if effects is not None and name in effects:
        return effects[name]
    if not declared:
        return default
    _check_class(f"the tool {name!r} declares {declared!r}, which", declared)
    effect: Effect = declared
    return effect


def hinted_effect(annotations: Any) -> Effect | None:
    """The effect class that the annotations of an MCP tool hint at; None without a hint."""
    if getattr(annotations, "read_only_hint", None):
        return "read"
    return "idempotent" if getattr(annotations, "idempotent_hint", None) else None


def is_recorded_tool(function: Any) -> bool:
    """Whether `agentrun.tool` made the function: then its calls are recorded already."""
    return hasattr(getattr(function, "__func__", function), "__agentrun_tool__")


def _check_class(where: str, effect: Any) -> None:
    if effect in _CLASSES:
        return
    meant = _find_nearest(str(effect), _CLASSES, _SIMILAR)
    hint = f"; did you mean {meant!r}?" if meant else "."
    _refuse(f"{where} is no effect class{hint} Choose one of {', '.join(_CLASSES)}")


def _find_nearest(word: str, words: Iterable[str], alike: float) -> str | None:
    """The word that is written most like this one; None if none is alike enough."""
    return next(iter(difflib.get_close_matches(word, [*words], 1, alike)), None)


def _refuse(text: str) -> NoReturn:
    """Raise the error. Inside a run it stops the run, whatever a framework makes of the error."""
    point: Any = recorder.current.get()
    raise ConfigError(text) if point is None else point.run.stop(Refusing(text))
