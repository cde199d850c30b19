"""Records arguments and results as JSON, typed by a function's own annotations.

The rule: the code gets the same value live and on resume. So a value is recorded only in a form
from which exactly the same value can be read back. Two forms are tried. The first is plain JSON, as
pydantic writes it by the annotation; it is easy to read in SQL. The second is tagged JSON
(`agentrun.values.tagged_json`), which also keeps types that the annotation does not name. If
neither works, the value is refused: an argument before the effect begins, an annotation when the
function is decorated. A result is not refused, because its effect has taken place: the nearest JSON
is recorded, and the code gets that, live as well.
"""

from __future__ import annotations

import re
import typing
from collections import deque
from contextlib import suppress
from functools import cached_property
from types import GenericAlias
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from agentrun.core.codec import canonical, check, dumps, loads
from agentrun.core.errors import ConfigError, ToolFailed
from agentrun.core.events import Json
from agentrun.core.log import logger
from agentrun.values import exceptions
from agentrun.values.annotations import adapter_of, declared_classes, with_lists
from agentrun.values.compared import ComparedCoder, named_parts, without_filled_in
from agentrun.values.defaults import call_outside_run
from agentrun.values.equality import difference
from agentrun.values.tagged_json import (
    PREFIX,
    Coder,
    TypeMismatch,
    Unrecordable,
    copy_json,
    name_of,
    remove_tags,
)

_TAGGED = PREFIX + "value"  # the key around a value that is recorded as tagged JSON
_UNDECLARED = PREFIX + "undeclared"  # a second key: the value is not of the declared type
WAY_OUT = "declare a model, a dataclass or a standard type, or convert it to plain JSON"
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
# By default pydantic would silently write NaN as null. With this the codec gets it, and refuses it.
FAITHFUL = ConfigDict(ser_json_inf_nan="constants", ser_json_bytes="base64")
_ATOMS: tuple[type, ...] = (str, int, bool, type(None))


class Result:
    """Writes and reads the values of one declared type.

    Raises ConfigError for an annotation whose values cannot be recorded, with ``what`` in its text.
    """

    def __init__(self, annotation: Any = Any, *, what: str = "the result") -> None:
        if annotation in (typing.NoReturn, typing.Never):
            annotation = Any
        annotation = with_lists(annotation)
        try:
            self._adapter: TypeAdapter[Any] = adapter_of(annotation)
        except PydanticSchemaGenerationError as error:
            raise ConfigError(
                f"{what} is declared as {annotation!r}, which cannot be recorded and given back "
                f"after a crash: {WAY_OUT}"
            ) from error
        except PydanticUserError:  # it names a class that is not defined yet, or only for checkers
            annotation, self._adapter = Any, TypeAdapter(Any)
        self.annotation = annotation
        # In a list, because pydantic accepts no outside configuration for a user's model alone.
        self._dumper: TypeAdapter[list[Any]] = TypeAdapter(
            cast(Any, GenericAlias(list, annotation)),
            config={**FAITHFUL, "arbitrary_types_allowed": True},
        )

    @cached_property
    def _coder(self) -> Coder:
        return Coder(declared_classes(self.annotation))

    @cached_property
    def holds_models(self) -> bool:
        """Whether the annotation names pydantic models, which know their explicitly set fields."""
        return any(issubclass(kind, BaseModel) for kind in self._coder.classes)

    def encode(self, value: Any) -> Json:
        """``value`` as JSON from which `decode` reads the same value.

        Raises a ValueError: Unrecordable, which names the place, or pydantic's serialization error.
        """
        if type(value) is self.annotation and type(value) in _ATOMS:
            return value
        plain, problem = self._write_plain(value)
        if problem is None and self._restores(plain, value):
            return plain
        tagged = {_TAGGED: self._coder.write(value)}
        again = self._coder.read(tagged[_TAGGED])
        if (at := difference(again, value)) is not None:
            raise problem or Unrecordable(at, f"of type {name_of(type(value))} comes back changed")
        return tagged if self._fits(again, value) else {**tagged, _UNDECLARED: True}

    def record(self, value: Any, name: str) -> Json:
        """The JSON to record for a result of the function ``name``.

        Its effect took place, so the result must not be lost. If the same value cannot be read
        back, the nearest JSON is recorded, and a warning is logged once.
        """
        try:
            return self.encode(value)
        except Unrecordable as error:
            stored = self.encode_nearest(value)
            warning = (name, error.why)
            if warning not in _warned:
                _warned.add(warning)
                logger.warning(
                    "%s: the %s that it returned cannot be recorded as it is: %s. The agent gets "
                    "it as JSON instead, now and after a crash: %s",
                    *(name, type(value).__name__, error, WAY_OUT),
                )
            return stored

    def encode_compared(self, value: Any, stored: Json) -> Json:
        """The form of ``value`` that is compared on resume; ``stored`` is its recorded form.

        It has all that the code can tell apart in the value, but not what a construction of a model
        filled in by itself: that may differ each time, and a later deploy may add fields.
        """
        tagged = isinstance(stored, dict) and _TAGGED in stored
        if not self._coder.classes or not (tagged or self.holds_models):
            return stored
        shown: Json = None
        with suppress(ValueError, TypeError, AttributeError):
            shown = _order_sets(value, without_filled_in(value, self._dump_exactly(value)))
            if not tagged and shown == stored:
                return stored
        try:
            written = ComparedCoder(self._coder.classes).write(value)
        except Unrecordable:  # pydantic knows its type, and tagged JSON does not
            return stored if tagged else shown
        return shown if self._shows(shown, written) else {_TAGGED: written}

    def _shows(self, shown: Json, written: Json) -> bool:
        """Whether plain JSON stands for no other value than that which was ``written``."""
        try:
            again = call_outside_run(self._validated, copy_json(shown))
            return canonical(ComparedCoder(self._coder.classes).write(again)) == canonical(written)
        except Exception:  # a validator of the user's may raise anything
            return False

    def encode_nearest(self, value: Any) -> Json:
        """JSON for a value that `encode` refuses; `decode` reads an equal value each time.

        Raises pydantic's serialization error for a value that cannot be written as JSON at all.
        """
        plain, problem = self._write_plain(value)
        if problem is not None:
            raise problem
        try:
            again = self.decode(plain)
            if difference(self.decode(plain), again) is None:
                return plain
        except TypeMismatch:
            pass
        return {_TAGGED: Coder().write(plain), _UNDECLARED: True}

    def encode_for_display(self, value: Any) -> Json:
        """``value`` as JSON without tags, for a model or a person; it is never read back."""
        with suppress(ValueError, TypeError):
            return _order_sets(value, self._dump(value, "json"))
        return remove_tags(self._coder.write(value))

    def decode(self, stored: Json) -> Any:
        """The recorded value. Raises TypeMismatch if it does not fit the annotation."""
        if type(stored) is self.annotation and type(stored) in _ATOMS:
            return stored
        if isinstance(stored, dict) and _TAGGED in stored:
            value = self._coder.read(stored[_TAGGED])
            copy = self._coder.read(stored[_TAGGED])
            if (at := difference(copy, value)) is not None:
                raise TypeMismatch(f"its {at} would differ each time it is read")
            if _UNDECLARED not in stored and not self._fits(copy, value):
                raise TypeMismatch(f"it is no {self._name()} but of type {name_of(type(value))}")
            return value
        if self.annotation is Any:
            return self._coder.read(stored)
        value = self._validated(copy_json(stored))  # a copy, because the code may change it
        dumped, problem = self._write_plain(value)
        if problem is not None or not _contains(dumped, stored):
            raise TypeMismatch(f"as {self._name()} it would become another value")
        if dumped != stored and (at := difference(self._validated(stored), value)) is not None:
            raise TypeMismatch(f"as {self._name()} its {at} would differ each time it is read")
        return value

    def decode_leniently(self, stored: Json) -> Any:
        """A result that a person entered: typed if it fits the annotation, else plain JSON."""
        try:
            return self._validated(stored)
        except TypeMismatch:
            return stored

    def _validated(self, stored: Json) -> Any:
        try:
            return self._adapter.validate_python(stored)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            at = "".join(f"[{step!r}]" for step in found["loc"])
            raise TypeMismatch(f"it is no {self._name()}: value{at}: {found['msg']}") from None

    def _fits(self, copy: Any, value: Any) -> bool:
        """Whether ``value`` is of the declared type; a function may return another one.

        Its ``copy`` is validated, because a validator of the user's may change what it is given.
        """
        try:
            return difference(self._validated(copy), value) is None
        except TypeMismatch:
            return False

    def _name(self) -> str:
        return getattr(self.annotation, "__name__", None) or repr(self.annotation)

    def _restores(self, plain: Json, value: Any) -> bool:
        if isinstance(plain, dict) and _TAGGED in plain:
            return False
        try:
            again = plain if self.annotation is Any else self._validated(copy_json(plain))
        except TypeMismatch:
            return False
        return difference(again, value) is None

    def _write_plain(self, value: Any) -> tuple[Any, Exception | None]:
        """``value`` as plain JSON with ordered sets, or the error that prevents it."""
        if self.annotation is Any:
            with suppress(Unrecordable):
                written = self._coder.write(value)
                if difference(written, value) is None:
                    return written, None
        try:
            return _order_sets(value, self._dump_exactly(value)), None
        except (ValueError, TypeError, AttributeError) as error:
            return None, error

    def _dump_exactly(self, value: Any) -> Json:
        with suppress(UnicodeEncodeError):
            encoded = self._dump(value, "json", round_trip=True)
            if "\N{REPLACEMENT CHARACTER}" not in repr(encoded):
                return encoded
        # pydantic refuses a lone surrogate in a key, or replaces it; our codec keeps it.
        plain = self._dump(value, "python", round_trip=True)
        if _has_lone_key(plain):
            return loads(*dumps(plain))
        return self._dump(value, "json", round_trip=True)

    def _dump(self, value: Any, mode: Literal["json", "python"], **options: Any) -> Any:
        dumped = self._dumper.dump_python(
            [value], mode=mode, by_alias=True, serialize_as_any=True, warnings=False, **options
        )
        return dumped[0]


_warned: set[tuple[str, str]] = set()


def outcome_of(name: str, value: Any, result: Result) -> tuple[str, Json]:
    """Status and output of the step for the value that the tool ``name`` returned.

    A value that cannot be stored becomes a recorded error: the effect took place, and must not be
    repeated for that.
    """
    try:
        stored = result.record(value, name)
        check(stored, "result")
    except (TypeError, ValueError, AttributeError) as error:
        failed = ToolFailed(f"{name} took effect, but its result cannot be recorded: {error}")
        return "error", {"error": exceptions.describe(failed)}
    return "ok", {"result": stored}


# -- JSON of values --------------------------------------------------------------------------------


def _order_sets(value: Any, dumped: Json) -> Json:
    """``dumped``, the JSON of ``value``, with sets sorted: their order depends on hashes."""
    if isinstance(value, (set, frozenset)) and isinstance(dumped, list):
        if len(value) == len(dumped):
            dumped = [_order_sets(*pair) for pair in zip(value, dumped, strict=True)]
        return sorted(dumped, key=canonical)
    if isinstance(dumped, list):
        inner = getattr(value, "root", value)
        if isinstance(inner, (set, frozenset)):
            return _order_sets(inner, dumped)
        if isinstance(inner, (list, tuple, deque)) and len(inner) == len(dumped):
            return [_order_sets(*pair) for pair in zip(inner, dumped, strict=True)]
    if isinstance(dumped, dict) and dumped:
        inside = named_parts(value, dumped).items()
        return {**dumped, **{key: _order_sets(inner, dumped[key]) for key, inner in inside}}
    return dumped


def _contains(now: Json, stored: Json) -> bool:
    """Whether ``now``, written from the value that was read, still has everything in ``stored``."""
    if isinstance(stored, dict):
        return isinstance(now, dict) and all(
            key in now and _contains(now[key], inner) for key, inner in stored.items()
        )
    if isinstance(stored, list):
        return (
            isinstance(now, list)
            and len(now) == len(stored)
            and all(_contains(*pair) for pair in zip(now, stored, strict=True))
        )
    numbers = isinstance(now, (int, float)) and isinstance(stored, (int, float))
    alike = type(now) is type(stored) or (numbers and bool not in (type(now), type(stored)))
    return alike and bool(now == stored)


def _has_lone_key(value: Any) -> bool:
    """Whether a key in ``value`` has a lone surrogate."""
    if isinstance(value, dict):
        names = (key for key in value if isinstance(key, str))
        return any(map(_LONE_SURROGATE.search, names)) or any(map(_has_lone_key, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_lone_key, value))
