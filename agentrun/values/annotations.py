"""Reads annotations: which values a declared type accepts, and which classes it names."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError

from agentrun.values.tagged_json import STANDARD

__all__ = ["accepts_null", "adapter_of", "declared_classes", "hints_of", "with_lists"]


def adapter_of(annotation: Any) -> TypeAdapter[Any]:
    """The pydantic adapter of an annotation. Raises PydanticUserError.

    Of the types that pydantic does not know, those that tagged JSON can write are allowed.
    """
    try:
        return TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        for leaf in _leaves(annotation):
            if leaf not in STANDARD:
                TypeAdapter(leaf)
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def with_lists(annotation: Any) -> Any:
    """The annotation with ``list`` for ``Iterable``.

    pydantic makes of an ``Iterable`` an object that can be read once, and so cannot be recorded.
    """
    if annotation is Iterable or get_origin(annotation) is Iterable:
        inner = get_args(annotation)
        return list[with_lists(inner[0])] if inner else list  # type: ignore[misc]
    if get_origin(annotation) in (Union, UnionType):
        members = [with_lists(member) for member in get_args(annotation)]
        return Union[tuple(members)]  # noqa: UP007  # the members are known only here
    return annotation


def _leaves(annotation: Any) -> Iterable[Any]:
    if get_origin(annotation) in (None, Literal):
        return [annotation]
    return [leaf for inner in get_args(annotation) for leaf in _leaves(inner)]


def declared_classes(annotation: Any) -> list[type]:
    """The data classes that an annotation names, at any depth."""
    found: dict[type, None] = {}
    seen: list[Any] = []
    pending = [annotation]
    while pending:
        hint = pending.pop()
        if any(hint is other for other in seen):
            continue
        seen.append(hint)
        pending += _parts_of(hint)
        if isinstance(hint, type) and get_origin(hint) is None and _declares(hint):
            found[hint] = None
    return list(found)


def _declares(hint: type) -> bool:
    named_tuple = issubclass(hint, tuple) and hasattr(hint, "_fields")
    return issubclass(hint, (BaseModel, Enum)) or dataclasses.is_dataclass(hint) or named_tuple


def _parts_of(hint: Any) -> Iterable[Any]:
    if get_origin(hint) is Literal:
        return [type(value) for value in get_args(hint)]
    if get_origin(hint) is not None:
        return [get_origin(hint), *get_args(hint)]
    if hasattr(hint, "__value__"):  # `type Name = …`
        return [hint.__value__]
    if isinstance(hint, typing.TypeVar):
        return [hint.__bound__, *hint.__constraints__]
    if not isinstance(hint, type) or hint.__module__ == "builtins":
        return []
    if issubclass(hint, BaseModel):
        return [field.annotation for field in hint.model_fields.values()]
    return hints_of(hint).values() if hasattr(hint, "__annotations__") else []


def accepts_null(hint: Any) -> bool:
    """Whether None is a value of the annotation."""
    try:
        TypeAdapter(hint).validate_python(None)
    except Exception:  # a validator of the user's may raise anything
        return False
    return True


def hints_of(function: Any) -> dict[str, Any]:
    """The evaluated annotations of a function or class, without those that cannot be evaluated."""
    try:
        return get_type_hints(function, include_extras=True)
    except TypeError:  # an object written in C, which has no annotations
        return {}
    except (NameError, AttributeError):
        # A name is imported only under TYPE_CHECKING. Annotations that are not strings remain.
        return {k: v for k, v in function.__annotations__.items() if not isinstance(v, str)}
