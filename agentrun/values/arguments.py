"""The arguments of a call: bound to parameters, validated, recorded and read back.

An argument is recorded by the same rule as a result (`typed_values.py`): if exactly the same value
cannot be read back, the call is refused before its effect begins.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError
from pydantic import create_model as make_model

from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.values.annotations import accepts_null, hints_of, with_lists
from agentrun.values.equality import difference
from agentrun.values.model_arguments import wrong_types
from agentrun.values.tagged_json import Coder, TypeMismatch, Unrecordable, attributes_of
from agentrun.values.typed_values import FAITHFUL, WAY_OUT, Result

KEY_PARAMETER = "idempotency_key"


@dataclasses.dataclass(frozen=True, slots=True)
class RecordedArguments:
    """The recorded arguments of a call, and the form of them that is compared on resume.

    ``compared`` leaves out what models filled in by themselves, since a `default_factory` may
    differ each time. It tells apart everything else that the code can.
    """

    args: dict[str, Json]
    compared: dict[str, Json]


class Arguments:
    """The parameters of a function, as pydantic sees them.

    ``idempotency_key`` is filled in by agentrun, and is not an argument. Parameters in ``passed``
    are not arguments either: the function gets the caller's objects, and they are not recorded.
    """

    def __init__(
        self, function: Callable[..., Any], *, what: str, passed: Collection[str] = ()
    ) -> None:
        try:
            self.signature = inspect.signature(function)
        except ValueError:
            raise ConfigError(
                f"{what} {function!r} has no signature that Python can read; wrap it in a function "
                "of named parameters"
            ) from None
        self.wants_key = KEY_PARAMETER in self.signature.parameters
        hints = hints_of(function)
        fields: dict[str, Any] = {}
        self._stored: dict[str, Result] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ConfigError(
                    f"{what} {function.__name__} takes *{name}: its arguments could not be "
                    "recorded by name; give it named parameters"
                )
            if name != KEY_PARAMETER and name not in passed:
                default = ... if parameter.default is parameter.empty else parameter.default
                # An alias, so that names that pydantic reserves ("schema", "_x") work too.
                field = Field(default=default, alias=name)
                fields[f"p{len(fields)}"] = (with_lists(hints.get(name, Any)), field)
                named = f"{what} {function.__name__}: its parameter {name!r}"
                self._stored[name] = Result(hints.get(name, Any), what=named)
        self.names = [field[1].alias for field in fields.values()]
        config: ConfigDict = {**FAITHFUL, "arbitrary_types_allowed": True, "extra": "forbid"}
        try:
            self.model: type[BaseModel] = make_model(function.__name__, __config__=config, **fields)
        except (PydanticUserError, TypeError) as error:
            raise ConfigError(
                f"{what} {function.__name__}: its parameters cannot be checked: {error}"
            ) from error
        self._fields = list(fields)
        kinds = [parameter.kind for parameter in self.signature.parameters.values()]
        self.passed = tuple(passed)
        self._by_position = not (
            passed or self.wants_key or inspect.Parameter.KEYWORD_ONLY in kinds
        )
        self.result = Result(
            hints.get("return", Any), what=f"{what} {function.__name__}: its result"
        )
        self._defaults = {
            name: field.default
            for name, (_, field) in zip(self.names, fields.values(), strict=True)
            if not field.is_required()
        }
        self._null_is_default = {
            name for name in self._defaults if not accepts_null(hints.get(name, Any))
        }

    @cached_property
    def defaults(self) -> dict[str, Json]:
        """The defaults of parameters, as JSON; defaults that cannot be recorded are left out."""
        found: dict[str, Json] = {}
        for name, default in self._defaults.items():
            with suppress(ValueError, TypeError):
                found[name] = self._stored[name].encode(default)
        return found

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name, with defaults. Raises TypeError as a call of the function would."""
        if self._by_position and not kwargs and len(args) == len(self.names):
            return dict(zip(self.names, args, strict=True))
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return {name: bound.arguments[name] for name in self.names if name in bound.arguments}

    def passed_objects(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The objects of a call that are passed on and not recorded, by name."""
        if not self.passed:
            return {}
        bound = self.signature.bind_partial(*args, **kwargs).arguments
        return {name: bound[name] for name in self.passed if name in bound}

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        """Typed values by name. Raises pydantic.ValidationError.

        A strict schema makes a model send null for an argument that it would leave out. The default
        replaces such a null.
        """
        checked = self.model.model_validate(self._without_nulls(values))
        return {
            name: getattr(checked, field)
            for name, field in zip(self.names, self._fields, strict=True)
        }

    def wrong_types(self, sent: dict[str, Json]) -> str:
        """Describe the arguments of a model that have another JSON type; empty if none has."""
        return wrong_types(self.model, self._without_nulls(sent))

    def _without_nulls(self, values: dict[str, Any]) -> dict[str, Any]:
        omitted = {n for n in self._null_is_default if values.get(n, ...) is None}
        return {name: value for name, value in values.items() if name not in omitted}

    def record(self, values: dict[str, Any], given: dict[str, Any]) -> RecordedArguments:
        """Typed values as they are recorded; ``given`` are the values before validation.

        Raises a ValueError, which names the argument, if it could not be read back unchanged.
        """
        args = {name: self._encode(name, values[name]) for name in self.names}
        compared = dict(args)
        for name, raw in given.items():
            if _is_container(raw):
                compared[name] = raw
            else:
                _refuse_attributes(raw, name)
                compared[name] = self._stored[name].encode_compared(values[name], args[name])
        return RecordedArguments(args, compared)

    def _encode(self, name: str, value: Any) -> Json:
        try:
            return self._stored[name].encode(value)
        except Unrecordable as error:
            text = f"{name}{error.path.removeprefix('value')}"
            why = f"{error.why}, which could not be read back: {WAY_OUT}"
            raise Unrecordable(text, why) from None

    def restore(self, stored: dict[str, Json]) -> dict[str, Any]:
        """Typed values of recorded arguments. Raises TypeMismatch if the parameters have changed.

        A parameter that was added later has its default.
        """
        missing = [n for n in self.names if n not in stored and n not in self._defaults]
        if odd := [*missing, *(name for name in stored if name not in self._stored)]:
            raise TypeMismatch(f"the parameters have changed: {', '.join(odd)}")
        values = {}
        for name in self.names:
            try:
                if name in stored:
                    values[name] = self._stored[name].decode(stored[name])
                else:
                    values[name] = self._defaults[name]
            except TypeMismatch as changed:
                raise TypeMismatch(f"the argument {name!r}: {changed}") from None
        return values

    def call_with(self, values: dict[str, Any], key: str) -> tuple[list[Any], dict[str, Any]]:
        """The call's arguments: positional-only parameters by position, others by name."""
        named = {**values, KEY_PARAMETER: key} if self.wants_key else dict(values)
        positional = [
            named.pop(name)
            for name, parameter in self.signature.parameters.items()
            if parameter.kind is parameter.POSITIONAL_ONLY and name in named
        ]
        return positional, named


class UntypedArguments(Arguments):
    """The arguments of one call, by any names, whose types no function declares.

    A framework has validated them. They are recorded as they are.
    """

    def __init__(self, function: Callable[..., Any], names: Collection[str], *, what: str) -> None:
        self.names = list(names)
        self.passed = ()
        self.result = Result(what=f"{what}: its result")
        try:
            self.signature = inspect.signature(function)
            self.wants_key = KEY_PARAMETER in self.signature.parameters
        except ValueError:  # a function of C has no signature, and no such parameter
            self.signature, self.wants_key = inspect.Signature(), False
        self._stored = dict.fromkeys(self.names, Result())
        self._defaults = {}
        self._null_is_default = set()

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        return dict(values)

    def wrong_types(self, sent: dict[str, Json]) -> str:
        return ""

    def call_with(self, values: dict[str, Any], key: str) -> tuple[list[Any], dict[str, Any]]:
        return [], {**values, KEY_PARAMETER: key} if self.wants_key else dict(values)


def _is_container(value: Any) -> bool:
    """Whether ``value`` is a list or dict of plain JSON."""
    if type(value) not in (dict, list):
        return False
    with suppress(Unrecordable):
        return difference(Coder().write(value), value) is None
    return False


def _refuse_attributes(value: Any, at: str) -> None:
    """Refuse a named tuple with attributes of its own: pydantic copies its items and no more."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_attributes(inner, f"{at}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        if isinstance(value, tuple) and (own := attributes_of(value)):
            raise Unrecordable(at, f"has attributes that its fields do not name: {', '.join(own)}")
        for n, inner in enumerate(value):
            _refuse_attributes(inner, f"{at}[{n}]")
