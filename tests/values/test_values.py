"""A value comes back as it was: same type, same content, for each type that code can hold."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import typing
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, Self, TypedDict, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretBytes,
    SecretStr,
    computed_field,
    model_validator,
)
from pydantic.alias_generators import to_camel

import agentrun
from agentrun.core.codec import check
from agentrun.core.secrets import mask
from agentrun.values.equality import difference
from agentrun.values.tagged_json import TypeMismatch, Unrecordable
from agentrun.values.typed_values import Result

T = TypeVar("T")


class Animal(BaseModel):
    name: str


class Dog(Animal):
    breed: str = "mutt"


class Twin(BaseModel):
    name: str


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(alias=to_camel))
    first_name: str = "nobody"
    inner_dogs: list[Dog] = []


class Required(BaseModel):
    number: int = Field(alias="no")


class Hidden(BaseModel):
    shown: int
    hidden: str = Field(exclude=True, default="x")
    _private: int = PrivateAttr(default=0)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field
    def area(self) -> int:
        return self.width**2


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int


class Twice(BaseModel):
    price: Annotated[float, BeforeValidator(lambda value: value * 2)]


class Blob(BaseModel):
    data: bytes
    tags: set[str] = set()


class Login(BaseModel):
    user: str
    password: SecretStr


class Names(RootModel[list[str]]):
    pass


class Box(BaseModel, Generic[T]):
    inside: T


class Colour(Enum):
    RED = (255, 0, 0)
    BLUE = (0, 0, 255)


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Rights(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Doubled:
    price: float

    def __post_init__(self) -> None:
        self.price *= 2


@dataclass
class Sub(Doubled):
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slotted:
    at: datetime
    tags: frozenset[str] = frozenset()


@dataclass
class Drawn:
    id: UUID = field(default_factory=uuid4, init=False)
    name: str = "n"


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Typed(TypedDict, total=False):
    when: datetime
    what: Literal["a", "b"]


class GenericPair(NamedTuple, Generic[T]):
    left: T


@dataclass
class GenericBox(Generic[T]):
    inside: T


class Noted(Pair):
    """Its objects have attributes of their own."""


Point = namedtuple("Point", "x y")
_noted = Noted(1)
_noted.more = [(1, 2)]  # type: ignore[attr-defined]
_hidden = Hidden(shown=1, hidden="kept")
_hidden._private = 7
_sub = Sub(6.0, {"k": (1, 2)})

# annotation, value
VALUES: dict[str, tuple[Any, Any]] = {
    "a subclass": (Animal, Dog(name="Rex", breed="collie")),
    "subclasses in a list": (list[Animal], [Dog(name="a"), Animal(name="b")]),
    "the second of two alike": (Animal | Twin, Twin(name="t")),
    "the first of two alike": (Animal | Twin, Animal(name="t")),
    "aliases": (Camel, Camel(firstName="f", innerDogs=[Dog(name="d")])),
    "an alias that is required": (Required, Required(no=3)),
    "an excluded and a private field": (Hidden, _hidden),
    "a computed field": (Strict, Strict(width=3)),
    "extra fields": (Loose, Loose(known=1, more=[1, "x"])),
    "a validator that is run once": (Twice, Twice(price=6.0)),
    "bytes in a model": (Blob, Blob(data=b"\xff\x00", tags={"b", "a"})),
    "a secret": (SecretStr, SecretStr("hunter2")),
    "a model with a secret": (Login, Login(user="ada", password=SecretStr("hunter2"))),
    "secret bytes, not declared": (Any, [SecretBytes(b"\xff")]),
    "a root model": (Names, Names(["a", "b"])),
    "a generic model": (Box[int], Box[int](inside=1)),
    "a nested generic model": (
        Box[Box[Decimal]],
        Box[Box[Decimal]](inside=Box[Decimal](inside=Decimal("1.10"))),
    ),
    "an optional model": (Animal | None, None),
    "an enum of tuples": (Colour, Colour.BLUE),
    "a flag": (Rights, Rights.READ | Rights.WRITE),
    "an int enum": (Level, Level.LOW),
    "an int enum among ints": (list[Level | int], [Level.LOW, 1]),
    "a str enum": (Word, Word.YES),
    "a literal": (Literal["a", 1, True], 1),
    "a post_init": (Doubled, Doubled(6.0)),
    "a subclass of a dataclass": (Doubled, _sub),
    "slots": (Slotted, Slotted(datetime(2026, 1, 2, tzinfo=UTC), frozenset("cab"))),
    "a drawn field": (Drawn, Drawn()),
    "a named tuple": (Pair, Pair(1)),
    "a named tuple with more": (Pair, _noted),
    "a generic named tuple": (GenericPair, GenericPair[int](1)),
    "a generic dataclass": (GenericBox, GenericBox[int](1)),
    "a dict of typing": (Mapping[str, int], typing.OrderedDict(a=1)),
    "a declared named tuple with more": (Noted, _noted),
    "a TypedDict": (Typed, Typed(when=datetime(2026, 1, 2, 3, 4, 5, 6), what="b")),
    "a tuple": (tuple[int, str], (1, "a")),
    "a tuple of any length": (tuple[int, ...], (1, 2, 3)),
    "sets": (dict[str, set[int]], {"k": {3, 1, 2}}),
    "a set of models in tuples": (set[tuple[int, str]], {(1, "b"), (0, "c")}),
    "a union of numbers": (int | float, 1.0),
    "a union of texts": (UUID | str, "6a7b0b1c-0000-4000-8000-000000000000"),
    "a union of times": (datetime | str, "2026-01-01T00:00:00"),
    "an int declared float": (float, 5),
    "None declared str": (str, None),
    "a model declared dict": (dict[str, int] | Animal, Animal(name="n")),
    "keys of ints": (dict[int, str], {1: "a", -2: "b"}),
    "keys of tuples": (dict[tuple[int, int], str], {(1, 2): "a"}),
    "bytes": (bytes, b"\xff\xfe plain"),
    "bytes of text": (bytes, b"aGk="),
    "a bytearray": (bytearray, bytearray(b"\x00")),
    "a zone": (datetime, datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)),
    "an offset": (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
    "a named offset": (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5), "X"))),
    "a decimal": (Decimal, Decimal("1.10")),
    "minus zero": (float, -0.0),
    "a complex minus zero": (complex, complex(-0.0, 5)),
    "zones in a set": (
        set[datetime],
        {
            datetime(2026, 7, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")),
            datetime(2026, 1, 1, tzinfo=UTC),
        },
    ),
    "zeros in a set": (frozenset[float], frozenset({-0.0})),
    "a defaultdict of something else": (defaultdict[str, list[int]], defaultdict(set, {"a": [1]})),
    "a span": (timedelta, timedelta(days=-1, microseconds=1)),
    "a path": (Path, Path("/tmp/ä")),
    "lone surrogates": (dict[str, str], {"\ud800": "\udfff\x00"}),
    "what looks like our tags": (dict[str, Any], {"agentrun:value": {"agentrun:tuple": [1]}}),
    "one of them inside": (list[Any], [{"agentrun:set": [1]}]),
}
_EVERYTHING = {
    "tuple": (1, (2,)),
    "set": {"b", "a"},
    "frozenset": frozenset({1}),
    "bytes": b"\xff",
    "at": datetime(2026, 1, 1, tzinfo=UTC),
    "day": date(2026, 1, 1),
    "time": time(1, 2, fold=1),
    "span": timedelta(1),
    "money": Decimal("1.10"),
    "id": UUID(int=7),
    "path": Path("/etc"),
    "pure": PurePosixPath("a"),
    "complex": 1 - 2j,
    "part": Fraction(1, 3),
    "range": range(1, 9, 2),
    "ip": ip_address("::1"),
    "deque": deque([1], maxlen=3),
    "ordered": OrderedDict(b=1, a=2),
    "count": Counter("aab"),
    "default": defaultdict(list, {"a": [1]}),
    "zone": ZoneInfo("UTC"),
    "keys": {1: "int", False: "bool", None: "none", (1, 2): "tuple"},
    "text": "\ud800\x00",
    "numbers": [1, 1.0, True, -0.0, 10**30],
}
VALUES |= {f"{name}, not declared": (Any, value) for name, value in _EVERYTHING.items()}
VALUES |= {f"{name}, in a dict": (dict, {"k": value}) for name, value in _EVERYTHING.items()}


def stored(text: Any) -> Any:
    check(text)
    return json.loads(json.dumps(text))


@pytest.mark.parametrize("what", VALUES)
def test_a_value_comes_back_as_it_was(what: str) -> None:
    annotation, value = VALUES[what]
    result = Result(annotation)
    again = result.decode(stored(result.encode(value)))
    assert difference(again, value) is None
    assert again == value
    assert type(again) is type(value)
    assert stored(result.encode_for_display(again)) == stored(result.encode_for_display(value))


def test_an_attribute_of_a_tuple_is_part_of_its_value() -> None:
    assert Result(Noted).decode(Result(Noted).encode(_noted)).more == [(1, 2)]
    assert Result(Noted).encode(Noted(1)) == [1, "r"]
    assert difference(Noted(1), _noted) is not None
    assert difference(_noted, Noted(1)) is not None


def test_ordinary_values_are_recorded_as_plain_json() -> None:
    assert Result(Camel).encode(Camel(firstName="f")) == {"firstName": "f", "innerDogs": []}
    assert Result(Any).encode({"a": [1, None]}) == {"a": [1, None]}
    assert Result(datetime).encode(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00Z"
    assert Result(set[str]).encode(set("jihgfedcba")) == list("abcdefghij")
    assert Result(Blob).encode(Blob(data=b"x", tags=set("zyx")))["tags"] == ["x", "y", "z"]
    assert Result(dict[str, Any]).encode({"a": {"b": 1.5}}) == {"a": {"b": 1.5}}


def test_a_model_is_shown_values_without_tags_and_with_what_is_computed() -> None:
    assert Result(Strict).encode_for_display(Strict(width=3)) == {"width": 3, "area": 9}
    assert Result(Animal).encode_for_display(Dog(name="n")) == {"name": "n", "breed": "mutt"}
    assert Result(Any).encode_for_display({"t": (1, {2})}) == {"t": [1, [2]]}
    assert Result(Any).encode_for_display(b"\xff") == "_w=="


def test_people_and_models_see_no_secret() -> None:
    login = Login(user="ada", password=SecretStr("hunter2"))
    for result, value in (Result(Login), login), (Result(), {"a": [login.password]}):
        written = result.encode(value)
        shown, found = mask(written)
        assert "hunter2" in str(written)
        assert "hunter2" not in str(shown)
        assert [one.chars for one in found] == [7]
        assert "hunter2" not in str(result.encode_for_display(value))


class Text(str):
    pass


class Odd:
    def __init__(self) -> None:
        self.inside = 1


class Counted(BaseModel):
    times: int = 0

    @model_validator(mode="after")
    def count(self) -> Self:
        self.times += 1
        return self


class Renamed(BaseModel):
    name: str
    old: str = ""

    @model_validator(mode="before")
    @classmethod
    def forget(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data.pop("old", None)
        return data


@pytest.mark.parametrize("value", [Counted(), [Counted()], Renamed(name="n").model_copy()])
def test_a_validator_that_changes_what_it_is_given_changes_no_value(value: Any) -> None:
    result = Result(list[Counted] if isinstance(value, list) else type(value))
    before = repr(value)
    text = stored(result.encode(value))
    assert repr(value) == before
    assert [repr(result.decode(stored(text))) for _ in "12"] == [before] * 2


@pytest.mark.parametrize(
    ("annotation", "value", "at"),
    [
        (Any, {"a": [Odd()]}, r"value\.a\[0\] is of type .*Odd"),
        (Any, Dog(name="n"), "value is of type .*Dog"),
        (list[str], [Text("x")], r"value\[0\] is of type .*Text"),
        (Any, defaultdict(Odd), "value is a defaultdict"),
        (Any, defaultdict(lambda: 1), r"value is a defaultdict of <lambda>$"),
        (defaultdict[str, int], defaultdict(lambda: 5), "value is a defaultdict of <lambda>$"),
    ],
)
def test_what_could_not_be_given_back_is_named(annotation: Any, value: Any, at: str) -> None:
    with pytest.raises(ValueError, match=at) as refused:
        Result(annotation).encode(value)
    assert isinstance(refused.value, Unrecordable)


class Before(BaseModel):
    name: str
    size: int = 0


class WithMore(BaseModel):
    name: str
    size: int = 0
    note: str = "none"


class WithLess(BaseModel):
    name: str


class WithOther(BaseModel):
    name: str
    size: str = ""


class WithDrawn(Before):
    id: UUID = Field(default_factory=uuid4)


def test_a_recorded_value_is_checked_against_a_changed_type() -> None:
    recorded = Result(Before).encode(Before(name="n", size=3))
    assert Result(WithMore).decode(recorded) == WithMore(name="n", size=3)
    assert Result(dict[str, Any]).decode(recorded) == {"name": "n", "size": 3}
    for changed in (WithLess, WithOther, WithDrawn, str, list[int]):
        with pytest.raises(TypeMismatch):
            Result(changed).decode(recorded)
    assert Result(float).decode(3) == 3.0
    for annotation, value in ((int, "5"), (str, 5), (bool, 1), (int, True), (int, 1.5)):
        with pytest.raises(TypeMismatch):
            Result(annotation).decode(value)
    tagged = Result(Animal).encode(Dog(name="n"))
    with pytest.raises(TypeMismatch, match="Dog"):
        Result(Before).decode(tagged)


def test_a_class_of_the_started_file_is_found_by_a_worker() -> None:
    tagged = Result(Animal).encode(Dog(name="n"))
    name = f"{Dog.__module__}.{Dog.__qualname__}"
    renamed = json.loads(json.dumps(tagged).replace(name, "__main__.Dog"))
    assert Result(Animal).decode(renamed) == Dog(name="n")
    other = json.loads(json.dumps(tagged).replace(name, "elsewhere.Dog"))
    with pytest.raises(TypeMismatch, match=r"elsewhere\.Dog"):
        Result(Animal).decode(other)


def test_reading_calls_no_code_of_the_class() -> None:
    called: list[str] = []

    class Base(BaseModel):
        a: int

    class Loud(Base):
        b: int

        def __init__(self, **values: Any) -> None:
            called.append("init")
            super().__init__(**values)

        def __setattr__(self, name: str, value: Any) -> None:
            called.append(name)

    tagged = Result(Base).encode(Loud(a=1, b=2))
    called.clear()
    again = Result(Base).decode(tagged)
    assert (type(again), again.a, called) == (Loud, 1, [])


def test_an_annotation_that_cannot_be_recorded_is_refused_at_decoration() -> None:
    def back() -> Odd: ...  # type: ignore[empty-body]

    def take(odd: list[Odd]) -> None: ...

    for function, named in ((back, "back: its result"), (take, "take: its parameter 'odd'")):
        for decorate in (agentrun.tool, agentrun.step, agentrun.agent):
            with pytest.raises(agentrun.ConfigError, match=named):
                decorate(function)  # type: ignore[operator]


def test_dataclasses_of_the_suite_are_as_they_seem() -> None:
    assert Doubled(6.0).price == 12.0
    assert dataclasses.asdict(_sub)["price"] == 12.0


ORDERED = """
from collections import OrderedDict, deque
from typing import Any
from agentrun.values.typed_values import Result

words = {"one", "two", "three", "four", "five"}
for value in (words, [words], (words,), {"k": words}, deque([words]), OrderedDict(k=[words]),
              {frozenset(words)}, [{"k": deque([(words,)])}]):
    for annotation in (Any, type(value)):
        made = Result(annotation)
        print(annotation, made.encode(value), made.encode_compared(value, made.encode(value)))
        print(made.encode_for_display(value))
"""


def test_a_set_in_any_container_is_recorded_in_one_order() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", ORDERED],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    ]
    assert told[0]
    assert told[1:] == told[:1] * 2
