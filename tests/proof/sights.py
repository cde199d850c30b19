"""Values and exceptions drawn by chance, of every kind that agents may hold; and how they look.

A value is drawn from a seed; `show` tells values apart wherever code can.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import anthropic
import httpx
import httpx2
import openai
import pydantic
import requests
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

Chance = random.Random

# -- values ----------------------------------------------------------------------------------------


class Animal(BaseModel):
    name: str


class Dog(Animal):
    breed: str
    _tricks: set[str] = PrivateAttr(default_factory=set)


class Twin(BaseModel):
    name: str


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str = Field(alias="firstName")
    tags: set[str] = set()
    hidden: int = Field(default=0, exclude=True)


class Order(BaseModel):
    name: str
    id: UUID = Field(default_factory=uuid4)


class Colour(Enum):
    RED = (255, 0, 0)
    BLUE = (0, 0, 255)


@dataclass
class Doubled:
    price: float
    parts: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.price *= 2


@dataclass(frozen=True, slots=True)
class Slotted:
    key: bytes
    inner: Doubled | None = None


class Size(StrEnum):
    SMALL = "s"
    LARGE = "l"


class Parcel(BaseModel):
    """What one model may hold at once."""

    model_config = ConfigDict(frozen=True, extra="allow")
    raw: bytes
    size: Size
    due: date | None
    weights: dict[int, Decimal]
    inner: tuple[Slotted, ...]


class Pair(NamedTuple):
    left: int
    right: str


class Typed(TypedDict, total=False):
    when: datetime
    what: Literal["a", "b"]


def text(chance: Chance) -> str:
    """A text, one with a credential in it among others."""
    return chance.choice(
        [
            "plain",
            "ä😀 \N{SYMBOL FOR ESCAPE}0000",
            "\x00\ud800\x1b[2J",
            "",
            f'password="hunter{chance.randrange(10**6)}"',
            'class="sk-text-repr-fallback"',
            f"sk-proj-{chance.randbytes(24).hex()}",
            json.dumps({"api_key": chance.randbytes(16).hex(), "n": 1}),
            f"AKIA{''.join(chance.choices('ABCDEFGHIJKLMNOP234567', k=16))}",
        ]
    )


def texts(chance: Chance) -> set[str]:
    """Some texts whose order a hash would decide."""
    return {f"t{chance.randrange(1000)}" for _ in range(chance.randint(0, 9))}


def anything(chance: Chance, depth: int = 3) -> Any:
    """A value of standard types that no annotation declares."""
    makers: list[Callable[[], Any]] = [
        lambda: text(chance),
        lambda: chance.choice([None, True, False, 0, -1, 10**30, 1.5, -0.0, 1e300]),
        lambda: Decimal(chance.randrange(10**6)).scaleb(-2),
        lambda: UUID(int=chance.getrandbits(128)),
        lambda: moment(chance),
        lambda: timedelta(chance.randint(-9, 9), chance.randrange(86400), chance.randrange(10**6)),
        lambda: chance.randbytes(chance.randrange(9)),
        lambda: bytearray(chance.randbytes(3)),
        lambda: Path("/tmp") / f"{chance.randrange(99)}",
        lambda: texts(chance),
        lambda: frozenset(texts(chance)),
        lambda: complex(chance.random(), -0.0),
        lambda: range(chance.randrange(9)),
        lambda: date(2026, chance.randint(1, 12), chance.randint(1, 28)),
        lambda: time(chance.randrange(24), 1, 2, chance.randrange(10**6)),
    ]
    if depth:

        def inner() -> Any:
            return anything(chance, depth - 1)

        makers += [
            lambda: [inner() for _ in range(chance.randrange(3))],
            lambda: tuple(inner() for _ in range(chance.randrange(3))),
            lambda: {text(chance): inner() for _ in range(chance.randrange(3))},
            lambda: {chance.choice([1, (1, "a"), None, b"k"]): inner()},
            lambda: OrderedDict(b=inner(), a=inner()),
            lambda: deque([inner()], maxlen=3),
            lambda: {"agentrun:tuple": [inner()]},
        ]
    return chance.choice(makers)()


def moment(chance: Chance) -> datetime:
    zones = [None, UTC, timezone(timedelta(hours=5, minutes=45)), ZoneInfo("Europe/Berlin")]
    day = datetime(2026, chance.randint(1, 12), 1, 2, 30, 0, chance.randrange(10**6))
    return day.replace(tzinfo=chance.choice(zones), fold=chance.randrange(2))


def dog(chance: Chance) -> Dog:
    made = Dog(name=text(chance), breed="b")
    made._tricks = texts(chance)
    return made


# A declared type, and how a value of it is drawn.
KINDS: dict[str, tuple[Any, Callable[[Chance], Any]]] = {
    "text": (str, text),
    "number": (int | float, lambda c: c.choice([1, 1.0, -0.0, 10**30])),
    "undeclared": (str, lambda c: c.choice([None, 5, ["x"]])),
    "any": (Any, anything),
    "dict": (dict, lambda c: {"k": anything(c), "n": text(c)}),
    "animal": (Animal, lambda c: dog(c) if c.random() < 0.7 else Animal(name=text(c))),
    "animals": (list[Animal], lambda c: [dog(c), Animal(name="a")]),
    "twins": (Animal | Twin, lambda c: c.choice([Animal, Twin])(name=text(c))),
    "camel": (Camel, lambda c: Camel(firstName=text(c), tags=texts(c), hidden=c.randrange(3))),
    "colour": (Colour, lambda c: c.choice(list(Colour))),
    "doubled": (Doubled, lambda c: Doubled(c.random(), [texts(c), anything(c, 1)])),
    "pair": (Pair, lambda c: Pair(c.randrange(9), text(c))),
    "typed": (Typed, lambda c: Typed(when=moment(c), what="b")),
    "sets": (dict[str, set[str]], lambda c: {"a": texts(c), "b": texts(c)}),
    "bytes": (bytes, lambda c: c.randbytes(5)),
    "moment": (datetime, moment),
    "money": (Decimal, lambda c: Decimal(c.randrange(10**6)).scaleb(-2)),
    "slotted": (Slotted, lambda c: Slotted(c.randbytes(4), Doubled(1.5, [anything(c, 1)]))),
    "size": (Size | None, lambda c: c.choice([*Size, None])),
    "parcel": (
        Parcel,
        lambda c: Parcel(
            raw=c.randbytes(9),
            size=c.choice(list(Size)),
            due=c.choice([None, date(2026, 2, 3)]),
            weights={c.randrange(9): Decimal("1.50")},
            inner=(Slotted(b"\xff"),),
            more=text(c),
        ),
    ),
    "address": (ipaddress.IPv4Address, lambda c: ipaddress.IPv4Address(c.getrandbits(32))),
    "part": (Fraction, lambda c: Fraction(c.randrange(9), 7)),
    "mixed": (
        tuple[UUID, frozenset[str], Path],
        lambda c: (UUID(int=1), frozenset(texts(c)), Path("p")),
    ),
}
SENDABLE = {"text", "number", "twins", "sets", "money", "dict"}  # a model could ask with them


# -- exceptions ------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, why: Colour, price: Decimal) -> None:
        super().__init__(f"refused: {price}")
        self.why, self.price = why, price
        self._limits = (1, {"a"})


class Handle:
    """What no record can hold."""

    def __repr__(self) -> str:
        return "<a handle>"


class Holding(Exception):
    def __init__(self) -> None:
        super().__init__("busy", Handle())
        self.handle = Handle()


class Checked(BaseModel):
    number: int


def answered(module: Any, chance: Chance) -> Any:
    request = module.Request("POST", "https://api.example/v1", json={"n": 1})
    code = chance.choice([400, 404, 429, 503])
    body = text(chance).encode("utf-8", "replace")
    return module.Response(code, headers={"x-request-id": "r"}, content=body, request=request)


def refused_by_requests() -> None:
    made = requests.Response()
    made.status_code, made.url, made._content = 503, "https://api.example/", b"busy"
    made.request = requests.Request("GET", made.url).prepare()
    made.raise_for_status()


def chained(chance: Chance) -> None:
    try:
        raise KeyError(text(chance))
    except KeyError as error:
        if chance.random() < 0.5:
            raise RuntimeError("outer") from error
        raise ValueError(ordered(chance))  # noqa: B904


def noted(chance: Chance) -> None:
    error = OSError(2, "no", "/nope")
    error.add_note(text(chance))
    raise error


def ordered(chance: Chance) -> Any:
    """A value without a set: in a text of an exception a set shows the order of its hashes."""
    while "set[" in show(value := anything(chance, 1)):
        pass
    return value


def fail(error: Exception) -> None:
    raise error


ERRORS: dict[str, Callable[[Chance], object]] = {
    "plain": lambda c: fail(ValueError(text(c), ordered(c))),
    "httpx": lambda c: answered(httpx, c).raise_for_status(),
    "httpx2": lambda c: answered(httpx2, c).raise_for_status(),
    "requests": lambda _c: refused_by_requests(),
    "openai": lambda c: fail(
        openai.RateLimitError("slow", response=answered(httpx2, c), body={"a": 1})
    ),
    "openai connection": lambda _c: fail(
        openai.APIConnectionError(request=httpx2.Request("POST", "https://api.example/v1"))
    ),
    "anthropic": lambda c: fail(
        anthropic.BadRequestError("no", response=answered(httpx2, c), body={"error": text(c)})
    ),
    "httpx timeout": lambda _c: fail(
        httpx.ConnectTimeout("late", request=httpx.Request("GET", "https://api.example/"))
    ),
    "pydantic": lambda c: Checked(number=ordered(c) if c.random() < 0.5 else "x"),
    "own": lambda c: fail(Refused(c.choice(list(Colour)), Decimal("1.10"))),
    "chained": chained,
    "noted": noted,
    "group": lambda c: fail(
        ExceptionGroup("g", [ValueError(text(c)), Refused(Colour.RED, Decimal(1))])
    ),
    "json": lambda c: json.loads('{"a": ' + "[" * c.randrange(3)),
    "unicode": lambda _c: b"\xff".decode(),
    "holding": lambda _c: fail(Holding()),
    "object": lambda _c: fail(LookupError(object, Checked)),
}


# -- what code sees --------------------------------------------------------------------------------


def show(value: Any, depth: int = 12) -> str:
    """All that code can see of a value, the same for equal ones whatever their hashes are."""
    name = type(value).__qualname__
    if depth == 0:
        return f"{name}…"

    def inner(one: Any) -> str:
        return show(one, depth - 1)

    if isinstance(value, BaseException):
        return f"{name}({shown_error(value, depth - 1)})"
    if isinstance(value, Enum):
        return f"{name}.{value.name} {value in type(value)}"
    if isinstance(value, dict):
        return f"{name}{{{', '.join(f'{inner(k)}: {inner(v)}' for k, v in value.items())}}}"
    if isinstance(value, (set, frozenset)):
        return f"{name}{sorted(map(inner, value))}"
    if isinstance(value, (list, tuple, deque)):
        return f"{name}[{', '.join(map(inner, value))}]"
    if isinstance(value, BaseModel):
        return f"{name}({inner(vars(value))}, {inner(value.__pydantic_private__)})"
    if dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value)]
        state = getattr(value, "__dict__", None) or {one: getattr(value, one) for one in names}
        return f"{name}({inner(state)})"
    if hasattr(value, "status_code") and hasattr(value, "content"):
        request = value.request
        seen = [value.status_code, sorted(value.headers.items()), value.content]
        return f"{name}({inner(seen)} {request.method} {request.url})"
    return f"{type(value).__module__}.{name}:{value!r}"


def shown_error(error: BaseException, depth: int) -> str:
    state = {name: value for name, value in vars(error).items() if name != "_request"}
    # The arguments of pydantic's own error are objects of C, which show their address.
    args = () if isinstance(error, pydantic.ValidationError) else error.args
    parts: list[Any] = [str(error), args, state, error.__cause__, error.__suppress_context__]
    if isinstance(error, pydantic.ValidationError):
        parts.append([(line["type"], line["loc"], line["msg"]) for line in error.errors()])
    if isinstance(error, BaseExceptionGroup):
        parts.append(error.exceptions)
    if isinstance(error, OSError):
        parts.append((error.errno, error.filename))
    chain, one = [], error.__context__
    while one is not None:
        chain.append((type(one).__name__, str(one)))
        one = one.__context__
    return show([*parts, chain], depth)
