"""Arguments and results: typed by a function's own annotations, plain JSON in the journal."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic import create_model as make_model
from pydantic.errors import PydanticSchemaGenerationError

from agentrun.core.codec import check, dumps, loads
from agentrun.core.errors import ConfigError, ToolFailed
from agentrun.core.events import Json
from agentrun.runner import failures

KEY_PARAMETER = "idempotency_key"
_LONE = re.compile(r"[\ud800-\udfff]")
# Without it pydantic would make null of NaN, in silence; so the codec refuses it by name.
_FAITHFUL = ConfigDict(ser_json_inf_nan="constants")


class Result:
    """How values of one return type are stored and given back.

    A live call hands out what a resume would: the value after a round trip through JSON.
    """

    def __init__(self, annotation: Any = Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        except (PydanticUserError, PydanticSchemaGenerationError):
            annotation, self._adapter = Any, TypeAdapter(Any)
        # In a list, since a model of the user's takes no configuration from outside by itself.
        self._dumper: TypeAdapter[list[Any]] = TypeAdapter(list[annotation], config=_FAITHFUL)

    def encode(self, value: Any) -> Json:
        """``value`` as JSON. Raises pydantic's serialization error (a ValueError)."""
        with suppress(UnicodeEncodeError):
            encoded = self._dump(value, "json")
            if "\N{REPLACEMENT CHARACTER}" not in repr(encoded):
                return encoded
        # pydantic refuses a lone surrogate in a key, or replaces it: then the plain value.
        plain = self._dump(value, "python")
        return loads(*dumps(plain)) if _has_lone_key(plain) else self._dump(value, "json")

    def _dump(self, value: Any, mode: Literal["json", "python"]) -> Any:
        return self._dumper.dump_python([value], mode=mode, warnings=False)[0]

    def decode(self, stored: Json) -> Any:
        """The typed value, or the plain one where it does not fit its annotation."""
        try:
            return self._adapter.validate_python(stored)
        except ValidationError:
            return stored


def outcome_of(name: str, value: Any, encode: Callable[[Any], Json]) -> tuple[str, Json]:
    """Status and output for what the tool ``name`` returned. What cannot be stored is an error,
    recorded: the effect took place and must not be repeated for that."""
    try:
        result = encode(value)
        check(result, "result")
    except (TypeError, ValueError) as error:
        failed = ToolFailed(f"{name} took effect, but its result cannot be recorded: {error}")
        return "error", {"error": failures.describe(failed)}
    return "ok", {"result": result}


class Arguments:
    """The parameters of a function, as pydantic sees them.

    ``idempotency_key`` is filled in by agentrun and is no argument.
    """

    def __init__(self, function: Callable[..., Any], *, what: str) -> None:
        try:
            self.signature = inspect.signature(function)
        except ValueError:
            raise ConfigError(
                f"{what} {function!r} has no signature that Python can read; wrap it in a function "
                "of named parameters"
            ) from None
        self.wants_key = KEY_PARAMETER in self.signature.parameters
        hints = _hints(function)
        fields: dict[str, Any] = {}
        self._stored: dict[str, Result] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ConfigError(
                    f"{what} {function.__name__} takes *{name}: its arguments could not be "
                    "recorded by name; give it named parameters"
                )
            if name != KEY_PARAMETER:
                given = ... if parameter.default is parameter.empty else parameter.default
                # An alias, so that names pydantic keeps for itself ("schema", "_x") work too.
                field = Field(default=given, alias=name)
                fields[f"p{len(fields)}"] = (hints.get(name, Any), field)
                self._stored[name] = Result(hints.get(name, Any))
        self.names = [field[1].alias for field in fields.values()]
        config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", **_FAITHFUL)
        self.model: type[BaseModel] = make_model(function.__name__, __config__=config, **fields)
        self._fields = list(fields)
        kinds = [parameter.kind for parameter in self.signature.parameters.values()]
        self._by_position = not self.wants_key and inspect.Parameter.KEYWORD_ONLY not in kinds
        self.result = Result(hints.get("return", Any))
        self._null_is_default = {
            name
            for name, (hint, field) in zip(self.names, fields.values(), strict=True)
            if field.default is not ... and not _accepts_null(hint)
        }

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name, with defaults. Raises TypeError like the function itself."""
        if self._by_position and not kwargs and len(args) == len(self.names):
            return dict(zip(self.names, args, strict=True))
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return {name: bound.arguments[name] for name in self.names if name in bound.arguments}

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        """Typed values by name. Raises pydantic.ValidationError.

        A strict schema makes a model send null for what it leaves out: then the default counts.
        """
        omitted = {n for n in self._null_is_default if values.get(n, ...) is None}
        checked = self.model.model_validate({n: v for n, v in values.items() if n not in omitted})
        return {
            name: getattr(checked, field)
            for name, field in zip(self.names, self._fields, strict=True)
        }

    def dump(self, values: dict[str, Any]) -> dict[str, Json]:
        """Typed values as JSON. Raises a ValueError for what JSON cannot hold."""
        return {name: result.encode(values[name]) for name, result in self._stored.items()}

    def call_with(self, values: dict[str, Any], key: str) -> tuple[list[Any], dict[str, Any]]:
        """How to call the function: positional-only parameters by position, others by name."""
        given = {**values, KEY_PARAMETER: key} if self.wants_key else dict(values)
        positional = [
            given.pop(name)
            for name, parameter in self.signature.parameters.items()
            if parameter.kind is parameter.POSITIONAL_ONLY and name in given
        ]
        return positional, given


def _has_lone_key(value: Any) -> bool:
    """Whether a key in ``value`` has a lone surrogate."""
    if isinstance(value, dict):
        names = (key for key in value if isinstance(key, str))
        return any(map(_LONE.search, names)) or any(map(_has_lone_key, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_lone_key, value))


def _accepts_null(hint: Any) -> bool:
    try:
        TypeAdapter(hint).validate_python(None)
    except (ValidationError, PydanticUserError, PydanticSchemaGenerationError):
        return False
    return True


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        # Annotations under TYPE_CHECKING: those that are no strings still count.
        return {k: v for k, v in function.__annotations__.items() if not isinstance(v, str)}
