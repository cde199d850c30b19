"""The form of an argument in which a resume compares it with the recorded one.

Two calls may count as equal only if the code can tell nothing apart in them. One thing must not
count: what a model filled in by itself when it was constructed. A `default_factory` such as `uuid4`
draws another value on each resume, and a deploy may add a field with a default.

So a field that was not set is left out if it still holds what a construction fills in. If the code
changed it in place, it counts. Private attributes count likewise, since nothing says whether they
were set. What two constructions fill in differently is drawn, and does not count either.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from copy import deepcopy
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, RootModel
from pydantic_core import PydanticUndefined

from agentrun.core.events import Json
from agentrun.values.defaults import MISSING, call_outside_run, default_of
from agentrun.values.equality import difference
from agentrun.values.tagged_json import MAIN, PLAIN, STANDARD, Coder, is_data, name_of, parts_of

__all__ = ["ComparedCoder", "named_parts", "without_filled_in"]

_CHANGEABLE: frozenset[type] = frozenset(
    {list, dict, set, tuple, frozenset, deque, OrderedDict, defaultdict, Counter, bytearray}
)
_FIXED = (PLAIN | STANDARD) - _CHANGEABLE  # types of values that nobody can change in place


class ComparedCoder(Coder):
    """Writes a value as tagged JSON, without what models filled in by themselves."""

    def name_of(self, kind: type) -> str:
        """The name of a class. Python's started file has the name that it has in a worker."""
        module = kind.__module__.removeprefix("agentrun_file_")
        if module in MAIN and (file := getattr(sys.modules.get(module), "__file__", None)):
            module = Path(file).stem
        return name_of(kind) if module == "builtins" else f"{module}.{kind.__qualname__}"

    def parts_of(self, value: Any) -> dict[str, Any]:
        parts = parts_of(value)
        if isinstance(value, BaseModel):
            del parts["set"]
            filled = _FilledIn(value)
            for part, names in (("fields", filled.fields), ("private", filled.private)):
                kept = {k: inner for k, inner in parts.pop(part, {}).items() if k not in names}
                parts |= {part: kept} if kept else {}
        return parts


def without_filled_in(value: Any, dumped: Json) -> Json:
    """``dumped``, the JSON of ``value``, without the fields that models filled in by themselves."""
    while isinstance(value, RootModel):
        value = value.root
    if isinstance(dumped, list):
        if isinstance(value, (list, tuple, deque, set, frozenset)) and len(value) == len(dumped):
            return [without_filled_in(*pair) for pair in zip(value, dumped, strict=True)]
        return dumped
    if not isinstance(dumped, dict):
        return dumped
    inside = named_parts(value, dumped)
    kept = {
        key: without_filled_in(inside[key], inner) if key in inside else inner
        for key, inner in dumped.items()
    }
    if isinstance(value, BaseModel):
        for name in _FilledIn(value).fields:
            kept.pop(_names_of(type(value)).get(name, name), None)
    return kept


def named_parts(value: Any, dumped: dict[str, Json]) -> dict[str, Any]:
    """The values inside ``value``, by the keys that they have in ``dumped``, its JSON."""
    while isinstance(value, RootModel):
        value = value.root
    if isinstance(value, dict):
        return dict(zip(dumped, value.values(), strict=True)) if len(value) == len(dumped) else {}
    names = _names_of(type(value))
    inside: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    if isinstance(value, BaseModel):
        inside = {**(value.__pydantic_extra__ or {}), **inside}
    elif is_data(type(value)) and not isinstance(value, (Enum, tuple)):
        inside = {**inside, **parts_of(value)["fields"]}
    keyed = {names.get(name, name): inner for name, inner in inside.items()}
    return {key: inner for key, inner in keyed.items() if key in dumped}


def _names_of(kind: type) -> dict[str, str]:
    """The keys that the fields of a model or a pydantic dataclass have in JSON."""
    infos: dict[str, Any] = getattr(kind, "__pydantic_fields__", {})
    return {name: info.serialization_alias or name for name, info in infos.items()}


# -- what a construction fills in ------------------------------------------------------------------


class _FilledIn:
    """The fields and private attributes of a model that hold what a construction fills in."""

    def __init__(self, value: BaseModel) -> None:
        self._value = value
        infos, given = type(value).model_fields, value.model_fields_set
        unset = {n: v for n, v in vars(value).items() if n in infos and n not in given}
        self.fields = {name for name, inner in unset.items() if self._is_filled_field(name, inner)}
        private = value.__pydantic_private__ or {}
        self.private = {name for name, inner in private.items() if self._is_private(name, inner)}

    def _is_filled_field(self, name: str, inner: Any) -> bool:
        info = type(self._value).model_fields[name]
        factory: Any = info.default_factory
        if factory is None:
            if difference(inner, info.default) is None:
                return True
        elif type(inner) in _FIXED or isinstance(inner, Enum):
            return True  # without a look at the factory, which may have a coarse clock
        elif _is_plain(factory) and difference(inner, factory()) is None:
            return True
        made = [vars(one).get(name, MISSING) for one in self._made]
        if not made and factory is not None:
            made = list(self._draw(name))
        return bool(made) and _is_filled(inner, *made)

    def _is_private(self, name: str, inner: Any) -> bool:
        info = type(self._value).__private_attributes__.get(name)
        if info is not None:
            factory: Any = info.default_factory
            default = factory() if _is_plain(factory) else info.default
            if difference(inner, default) is None:
                return True
        made = [(one.__pydantic_private__ or {}).get(name, MISSING) for one in self._made]
        return bool(made) and _is_filled(inner, *made)

    @cached_property
    def _made(self) -> list[BaseModel]:
        """Two objects that are constructed of what was set; none if that is impossible."""
        try:
            return [call_outside_run(_construct_again, self._value) for _ in range(2)]
        except Exception:  # a validator of the user's may raise anything
            return []

    def _draw(self, name: str) -> Iterator[Any]:
        try:
            yield from [default_of(type(self._value), name, vars(self._value)) for _ in range(2)]
        except Exception:
            return


def _is_plain(factory: Any) -> bool:
    """Whether a default factory is a container of Python's own, which may be made at any time."""
    return isinstance(factory, type) and factory in _CHANGEABLE


def _construct_again(value: BaseModel) -> BaseModel:
    """An object of the same class, which is validated from what was set in ``value``."""
    kind = type(value)
    given = {name: inner for name, inner in vars(value).items() if name in value.model_fields_set}
    given = deepcopy(given)  # a validator may change what it is given
    if issubclass(kind, RootModel):
        return kind.model_validate(given.get("root", PydanticUndefined))
    keyed = {_key_of(kind.model_fields.get(name), name): inner for name, inner in given.items()}
    return kind.model_validate({**keyed, **deepcopy(value.__pydantic_extra__ or {})})


def _key_of(info: Any, name: str) -> str:
    alias = getattr(info, "validation_alias", None)
    if isinstance(alias, AliasChoices):
        alias = next((one for one in alias.choices if isinstance(one, str)), None)
    return alias if isinstance(alias, str) else name


def _is_filled(inner: Any, one: Any, other: Any) -> bool:
    """Whether ``inner`` equals what two constructions filled in, but for what each draws anew."""
    if difference(inner, one) is None or type(one) is not type(other):
        return True
    if type(inner) is not type(one):
        return False
    if (parts := [_parts_inside(value) for value in (inner, one, other)])[0] is None:
        return difference(one, other) is not None
    own, first, second = parts
    if first.keys() != second.keys():
        return True
    return own.keys() == first.keys() and all(
        _is_filled(own[key], first[key], second[key]) for key in own
    )


def _parts_inside(value: Any) -> Any:
    """The parts of a container or an object by name or place; None for any other value."""
    if isinstance(value, (list, deque)) or type(value) is tuple:
        return dict(enumerate(value))
    if isinstance(value, dict):
        return value
    if is_data(type(value)) and not isinstance(value, Enum):
        return {part: inner for part, inner in parts_of(value).items() if part != "set"}
    return None
