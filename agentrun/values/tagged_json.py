"""Writes values that plain JSON cannot express as tagged JSON, and reads them back unchanged.

``{"agentrun:tuple": [1, 2]}`` is the tuple ``(1, 2)``. Each standard type has a tag. An object of a
user's class (a pydantic model, a dataclass, a named tuple, an enum) is stored with the name of its
class. A row in the database must not be able to run code. So `read` looks the name up only among
the classes that the code itself declares, and their loaded subclasses. It imports nothing, calls no
constructor and runs no property setter.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import cached_property
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import MemberDescriptorType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import TzInfo

from agentrun.core.codec import canonical
from agentrun.core.covered import PREFIX
from agentrun.core.errors import Diverging
from agentrun.core.events import Json
from agentrun.core.secrets import SECRET_TAG
from agentrun.values.defaults import complete_fields, complete_private
from agentrun.values.generics import argument_types, make_class, split_name

__all__ = [
    "PREFIX",
    "STANDARD",
    "Coder",
    "TypeMismatch",
    "Unrecordable",
    "copy_json",
    "find_type",
    "name_of",
    "remove_tags",
]

_DEPTH = 150  # levels of a tagged value
PLAIN = frozenset({str, int, bool, float, type(None)})
MAIN = frozenset({"__main__", "__mp_main__"})  # names of the file that Python was started with


class Unrecordable(ValueError):
    """A value that could not be read back unchanged; ``path`` is its place in the whole value."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path, self.why = path, why


class TypeMismatch(ValueError):
    """A stored value does not fit the type that the code declares for it now."""


def type_divergence(what: str, part: str, changed: TypeMismatch) -> Diverging:
    """The divergence of a recorded ``part`` of ``what`` whose declared type has changed since."""
    text = (
        f"{what} has a recorded {part} that does not fit the type which the code declares now: "
        f"{changed}. Make the type accept the recorded value (a new field needs a default), or "
        "restore the old type"
    )
    return Diverging(text, diff=str(changed))


class Coder:
    """Writes values as tagged JSON and reads them back.

    ``classes`` are those that the code declares. Objects of other user classes are refused.
    """

    def __init__(self, classes: Iterable[type] = ()) -> None:
        self.classes = tuple(classes)

    def write(self, value: Any, at: str = "value", depth: int = _DEPTH) -> Json:
        """``value`` as tagged JSON; a copy of it if it is plain JSON. Raises Unrecordable."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if depth == 0:
            raise Unrecordable(at, f"is more than {_DEPTH} levels deep (or contains itself)")
        if kind is list:
            return [self.write(item, f"{at}[{n}]", depth - 1) for n, item in enumerate(value)]
        if kind is dict:
            return self._write_dict(value, at, depth - 1)
        if kind in _WRITERS:
            tag, write = _WRITERS[kind]
            return {PREFIX + tag: write(self, value, at, depth - 1)}
        return self.write_object(value, at, depth - 1)

    def _write_dict(self, value: dict[Any, Any], at: str, depth: int) -> Json:
        if all(type(key) is str and not key.startswith(PREFIX) for key in value):
            return {key: self.write(inner, f"{at}.{key}", depth) for key, inner in value.items()}
        return {PREFIX + "dict": self.pairs(value, at, depth)}

    def pairs(self, value: dict[Any, Any], at: str, depth: int) -> Json:
        """A dict as a list of keys and values, which may be of any type."""
        return [
            [self.write(key, f"a key of {at}", depth), self.write(inner, f"{at}[{key!r}]", depth)]
            for key, inner in value.items()
        ]

    def write_object(self, value: Any, at: str, depth: int) -> Json:
        """An object of a user's class. Raises Unrecordable."""
        kind = type(value)
        if not (is_data(kind) and self.declares(kind)):
            raise Unrecordable(at, f"is of type {name_of(kind)}")
        if isinstance(value, Enum):
            member = value.value if isinstance(value, Flag) else value.name
            return {PREFIX + "enum": self.name_of(kind), "member": self.write(member, at, depth)}
        parts = {
            part: self.write(inner, at if part == "fields" else f"{at} ({part})", depth)
            for part, inner in self.parts_of(value).items()
        }
        return {PREFIX + "object": self.name_of(kind), **parts}

    def name_of(self, kind: type) -> str:
        """The name of an object's class, as it is written."""
        return name_of(kind)

    def parts_of(self, value: Any) -> dict[str, Any]:
        """The parts of an object, as they are written."""
        return parts_of(value)

    def declares(self, kind: type) -> bool:
        """Whether the code declares this class or a base class of it."""
        return issubclass(kind, self.classes)

    # -- reading -----------------------------------------------------------------------------------

    def read(self, stored: Json) -> Any:
        """The value that `write` wrote. Raises TypeMismatch."""
        if isinstance(stored, list):
            return [self.read(item) for item in stored]
        if not isinstance(stored, dict):
            return stored
        first = next(iter(stored), "")
        if not first.startswith(PREFIX):
            return {key: self.read(inner) for key, inner in stored.items()}
        tag = first.removeprefix(PREFIX)
        try:
            if tag in _READERS:
                return _READERS[tag](self, stored[first])
            return self.read_object(tag, stored)
        except TypeMismatch:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise TypeMismatch(f"a {tag} cannot be read: {error}") from error

    def read_object(self, tag: str, stored: dict[str, Json]) -> Any:
        """An object of a user's class. Raises TypeMismatch."""
        name = stored[PREFIX + tag]
        kind = self.find(name)
        if kind is None:
            raise TypeMismatch(
                f"no class {name!r} is declared or loaded here; where the function is defined, "
                "import the module that makes the class, so that every process has loaded it"
            )
        if tag == "enum":
            return _enum_member(kind, self.read(stored["member"]))
        parts = {part: self.read(inner) for part, inner in stored.items() if part != PREFIX + tag}
        return _assemble(kind, parts)

    def find(self, name: str) -> type | None:
        """The class of this name among the declared classes and their subclasses."""
        kinds = list(filter(is_data, with_subclasses(self.classes)))
        if (found := find_type(name, kinds)) is not None:
            return found
        generic, names = split_name(name)
        origin, arguments = find_type(generic, kinds), argument_types(names, kinds)
        return make_class(origin, arguments) if names and origin and arguments else None


def copy_json(value: Json) -> Json:
    """A copy of JSON, in which changes do not reach the original."""
    if isinstance(value, dict):
        return {key: copy_json(inner) for key, inner in value.items()}
    return [copy_json(item) for item in value] if isinstance(value, list) else value


def remove_tags(stored: Json) -> Json:
    """Tagged JSON without its tags, to show to people and models."""
    if isinstance(stored, list):
        return [remove_tags(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    first = next(iter(stored), "")
    if not first.startswith(PREFIX):
        return {key: remove_tags(inner) for key, inner in stored.items()}
    if first.startswith(SECRET_TAG):
        return str(SecretStr(stored[first]))  # asterisks
    for part in ("fields", "items", "member"):
        if part in stored:
            return remove_tags(stored[part])
    return remove_tags(stored[first])


# -- objects of users' classes -------------------------------------------------------------------


def name_of(kind: type) -> str:
    """The name of a class, with its module unless it is a builtin."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def find_type(name: str, kinds: Iterable[type]) -> type | None:
    """The class of this name; the newest if several have it.

    A file is named `__main__` if Python was started with it, and has its own name in a worker. So
    these two module names are treated as equal.
    """
    found = [kind for kind in kinds if name.endswith(kind.__qualname__) and _has_name(kind, name)]
    exact = [kind for kind in found if name_of(kind) == name]
    best = exact or found
    return best[-1] if best else None


def _has_name(kind: type, name: str) -> bool:
    module, dot, _ = name.rpartition(f".{kind.__qualname__}")
    modules = {
        module.removeprefix("agentrun_file_"),
        kind.__module__.removeprefix("agentrun_file_"),
    }
    return name_of(kind) == name or (bool(dot) and (len(modules) == 1 or bool(modules & MAIN)))


def with_subclasses(kinds: Iterable[type]) -> Iterator[type]:
    """These classes and all their loaded subclasses, older ones first."""
    seen: dict[type, None] = {}
    pending = list(kinds)
    while pending:
        kind = pending.pop(0)
        if kind not in seen:
            seen[kind] = None
            pending += type.__subclasses__(kind)
    return iter(seen)


def is_data(kind: type) -> bool:
    return (
        issubclass(kind, (BaseModel, Enum))
        or dataclasses.is_dataclass(kind)
        or _is_named_tuple(kind)
    )


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple)


def parts_of(value: Any) -> dict[str, Any]:
    """The parts of an object from which `_assemble` makes an equal one."""
    kind = type(value)
    if _is_named_tuple(kind):
        rest = attributes_of(value)
        return {"items": list(value), **({"rest": rest} if rest else {})}
    if isinstance(value, BaseModel):
        state = {name: vars(value)[name] for name in kind.model_fields if name in vars(value)}
        more = {"extra": value.__pydantic_extra__, "private": value.__pydantic_private__}
        kept = {part: inner for part, inner in more.items() if inner}
        return {"fields": state, "set": sorted(value.model_fields_set), **kept}
    names = _field_names(value)
    state = {name: getattr(value, name) for name in names if hasattr(value, name)}
    rest = {name: inner for name, inner in attributes_of(value).items() if name not in names}
    return {"fields": state, **({"rest": rest} if rest else {})}


def attributes_of(value: Any) -> dict[str, Any]:
    """What lies in an object's ``__dict__``, without results of cached properties.

    Also without the note of `typing` that the object was made as ``Box[int](…)``.
    """
    return {
        name: inner
        for name, inner in getattr(value, "__dict__", {}).items()
        if name != "__orig_class__"
        and not isinstance(getattr(type(value), name, None), cached_property)
    }


def _field_names(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]


def _assemble(kind: type, parts: dict[str, Any]) -> Any:
    """Make an object of these parts, without its constructor. Raises TypeMismatch."""
    if _is_named_tuple(kind):
        declared: Any = getattr(kind, "_fields", ())
        if len(declared) != len(parts["items"]):
            raise TypeMismatch(f"{name_of(kind)} has another number of fields than was recorded")
        row: Any = tuple.__new__(kind, parts["items"])
        for name, inner in parts.get("rest", {}).items():
            set_attribute(row, name, inner)
        return row
    made: Any = object.__new__(kind)
    fields: dict[str, Any] = parts["fields"]
    if issubclass(kind, BaseModel):
        fields, odd = complete_fields(kind, kind.model_fields, fields)
        private, gone = complete_private(kind, parts.get("private", {}))
        _refuse_odd(kind, odd | gone)
        object.__setattr__(made, "__dict__", fields)
        object.__setattr__(made, "__pydantic_fields_set__", set(parts["set"]))
        allowed = kind.model_config.get("extra") == "allow"
        object.__setattr__(made, "__pydantic_extra__", parts.get("extra", {} if allowed else None))
        object.__setattr__(made, "__pydantic_private__", private)
        return made
    fields, odd = complete_fields(kind, _field_names(kind), fields)
    _refuse_odd(kind, odd)
    for name, inner in {**fields, **parts.get("rest", {})}.items():
        set_attribute(made, name, inner)
    return made


def _refuse_odd(kind: type, odd: set[str]) -> None:
    if odd:
        names = ", ".join(sorted(odd))
        raise TypeMismatch(
            f"{name_of(kind)} was recorded with other fields than it has now: {names}"
        )


def set_attribute(made: Any, name: str, value: Any) -> None:
    """Set an attribute in the slot or ``__dict__``, without running code of the object's class."""
    for base in type(made).__mro__:
        slot = vars(base).get(name)
        if isinstance(slot, MemberDescriptorType):
            slot.__set__(made, value)
            return
    object.__getattribute__(made, "__dict__")[name] = value


def _enum_member(kind: type, member: Any) -> Any:
    assert issubclass(kind, Enum)
    if issubclass(kind, Flag):
        return kind(member)
    if member not in kind.__members__:
        raise TypeMismatch(f"{name_of(kind)} has no member {member!r} any more")
    return kind.__members__[member]


# -- standard types --------------------------------------------------------------------------------

_Write = Callable[[Coder, Any, str, int], Json]
_Read = Callable[[Coder, Json], Any]


def _items(coder: Coder, value: Iterable[Any], at: str, depth: int) -> Json:
    return [coder.write(item, f"{at}[{n}]", depth) for n, item in enumerate(value)]


def _sorted(coder: Coder, value: Iterable[Any], at: str, depth: int) -> Json:
    """The items of a set in an order that does not depend on the hashes of this process."""
    return sorted((coder.write(item, f"an item of {at}", depth) for item in value), key=canonical)


def _pairs(coder: Coder, value: Any, at: str, depth: int) -> Json:
    return coder.pairs(value, at, depth)


def _text(_coder: Coder, value: Any, _at: str, _depth: int) -> Json:
    return str(value)


def _base64(_coder: Coder, value: Any, _at: str, _depth: int) -> Json:
    return base64.b64encode(value).decode("ascii")


def _write_time(coder: Coder, value: Any, at: str, depth: int) -> Json:
    """ISO text alone if it is complete; else with the fold and the time zone."""
    plain = value.replace(tzinfo=None, fold=0).isoformat()
    if value.tzinfo is None and not value.fold:
        return plain
    return [plain, value.fold, coder.write(value.tzinfo, f"{at}.tzinfo", depth)]


def _write_zone(_coder: Coder, zone: Any, at: str, _depth: int) -> Json:
    if isinstance(zone, ZoneInfo):
        if zone.key is None:
            raise Unrecordable(at, "is a time zone without a name")
        return zone.key
    offset, name = fixed_offset(zone)
    return [_write_span(offset), name]


def fixed_offset(zone: tzinfo) -> tuple[timedelta, str | None]:
    """The offset of a zone, and its name; None for the default name of the offset."""
    offset = zone.utcoffset(None) or timedelta()
    name = zone.tzname(None) if type(zone) is timezone else None
    return offset, None if name == timezone(offset).tzname(None) else name


def _read_zone(_coder: Coder, stored: Json) -> tzinfo:
    if isinstance(stored, str):
        return ZoneInfo(stored)
    offset = timedelta(*stored[0])
    return timezone(offset) if stored[1] is None else timezone(offset, stored[1])


def _write_span(value: timedelta) -> Json:
    return [value.days, value.seconds, value.microseconds]


def _time_reader(kind: Any) -> _Read:
    def read(coder: Coder, stored: Json) -> Any:
        if isinstance(stored, str):
            return kind.fromisoformat(stored)
        plain, fold, zone = stored
        return kind.fromisoformat(plain).replace(tzinfo=coder.read(zone), fold=fold)

    return read


_TEXTS: tuple[type, ...] = (
    *(Decimal, UUID, Fraction, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath),
    *(ipaddress.IPv4Address, ipaddress.IPv4Network, ipaddress.IPv4Interface),
    *(ipaddress.IPv6Address, ipaddress.IPv6Network, ipaddress.IPv6Interface),
)
ZONES: tuple[type, ...] = (timezone, ZoneInfo, TzInfo)
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (dict, float, int, list, set, str)}


def _write_default(coder: Coder, value: Any, at: str, depth: int) -> Json:
    factory = value.default_factory
    if factory is not None and factory not in _FACTORIES.values():
        # Not its repr, which has an address: a resume would tell the code another one.
        named = getattr(factory, "__qualname__", None) or name_of(type(factory))
        raise Unrecordable(at, f"is a defaultdict of {named}")
    return [factory and factory.__name__, coder.pairs(value, at, depth)]


def _read_default(coder: Coder, stored: Json) -> Any:
    pairs = ((coder.read(key), coder.read(inner)) for key, inner in stored[1])
    return defaultdict(_FACTORIES[stored[0]] if stored[0] else None, pairs)


_WRITERS: dict[type, tuple[str, _Write]] = {
    tuple: ("tuple", _items),
    set: ("set", _sorted),
    frozenset: ("frozenset", _sorted),
    deque: ("deque", lambda c, v, at, d: [v.maxlen, _items(c, v, at, d)]),
    OrderedDict: ("OrderedDict", _pairs),
    defaultdict: ("defaultdict", _write_default),
    Counter: ("Counter", _pairs),
    bytes: ("bytes", _base64),
    bytearray: ("bytearray", _base64),
    SecretStr: ("secret-str", lambda _c, v, _at, _d: v.get_secret_value()),
    SecretBytes: ("secret-bytes", lambda c, v, at, d: _base64(c, v.get_secret_value(), at, d)),
    datetime: ("datetime", _write_time),
    time: ("time", _write_time),
    date: ("date", lambda _c, v, _at, _d: v.isoformat()),
    timedelta: ("timedelta", lambda _c, v, _at, _d: _write_span(v)),
    complex: ("complex", lambda _c, v, _at, _d: [repr(v.real), repr(v.imag)]),
    range: ("range", lambda _c, v, _at, _d: [v.start, v.stop, v.step]),
    **{kind: (kind.__name__, _text) for kind in _TEXTS},
    **dict.fromkeys(ZONES, ("zone", _write_zone)),
}

STANDARD = frozenset(_WRITERS)

_READERS: dict[str, _Read] = {
    "dict": lambda c, s: {c.read(key): c.read(inner) for key, inner in s},
    "tuple": lambda c, s: tuple(c.read(item) for item in s),
    "set": lambda c, s: {c.read(item) for item in s},
    "frozenset": lambda c, s: frozenset(c.read(item) for item in s),
    "deque": lambda c, s: deque((c.read(item) for item in s[1]), s[0]),
    "OrderedDict": lambda c, s: OrderedDict((c.read(key), c.read(inner)) for key, inner in s),
    "defaultdict": _read_default,
    "Counter": lambda c, s: Counter({c.read(key): c.read(inner) for key, inner in s}),
    "bytes": lambda _c, s: base64.b64decode(s),
    "bytearray": lambda _c, s: bytearray(base64.b64decode(s)),
    "secret-str": lambda _c, s: SecretStr(s),
    "secret-bytes": lambda _c, s: SecretBytes(base64.b64decode(s)),
    "datetime": _time_reader(datetime),
    "time": _time_reader(time),
    "date": lambda _c, s: date.fromisoformat(s),
    "timedelta": lambda _c, s: timedelta(*s),
    "complex": lambda _c, s: complex(float(s[0]), float(s[1])),
    "range": lambda _c, s: range(*s),
    "zone": _read_zone,
    **{kind.__name__: _reader for kind in _TEXTS for _reader in [lambda _c, s, kind=kind: kind(s)]},
}
