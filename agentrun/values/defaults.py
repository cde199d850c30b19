"""The defaults of fields and private attributes, by the class that declares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agentrun.core import recorder

__all__ = ["MISSING", "call_outside_run", "complete_fields", "complete_private", "default_of"]

MISSING: Any = object()  # no default


def call_outside_run(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user's so that nothing that it asks for becomes a step of the run."""

    def call() -> Any:
        recorder.current.set(None)
        return function(*args)

    return copy_context().run(call)


def default_of(kind: type, name: str, fields: Mapping[str, Any]) -> Any:
    """The default of a field of a model or dataclass, or MISSING. ``fields`` are the others.

    It is the object that a construction would take: a new one each time, if it can be changed.
    """
    infos = kind.model_fields if issubclass(kind, BaseModel) else _infos_of_dataclass(kind)
    info = infos[name]
    factory: Any = info.default_factory
    if isinstance(info, FieldInfo):
        config: Mapping[str, Any] = getattr(kind, "model_config", {})
        if info.is_required() or info.validate_default or config.get("validate_default"):
            return MISSING  # a validator may make another value of the default
        if factory is None:
            return info.get_default()
        if getattr(info, "default_factory_takes_validated_data", False):
            return call_outside_run(factory, dict(fields))
        return call_outside_run(factory)
    if factory is not dataclasses.MISSING:
        return call_outside_run(factory)
    return MISSING if info.default is dataclasses.MISSING else info.default


def _infos_of_dataclass(kind: Any) -> dict[str, Any]:
    infos = {field.name: field for field in dataclasses.fields(kind)}
    return {**infos, **getattr(kind, "__pydantic_fields__", {})}


def complete_fields(
    kind: type, declared: Iterable[str], stored: Mapping[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """The stored fields, and the defaults of those that the class has got since.

    Also the names that do not fit: new fields without a default, and stored ones that are gone.
    """
    complete: dict[str, Any] = {}
    odd = set(stored).difference(declared)
    for name in declared:
        complete[name] = stored[name] if name in stored else default_of(kind, name, complete)
        if complete[name] is MISSING:
            odd.add(name)
    return complete, odd


def complete_private(
    kind: type[BaseModel], stored: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, set[str]]:
    """The stored private attributes of a model, and the defaults of those that are new.

    Also the names of those that are gone. A new one without a default is not set.
    """
    declared = kind.__private_attributes__
    complete = {
        name: stored[name] if name in stored else call_outside_run(info.get_default)
        for name, info in declared.items()
    }
    complete = {name: kept for name, kept in complete.items() if kept is not PydanticUndefined}
    return complete if declared else None, set(stored).difference(declared)
