"""Arguments count as equal exactly if the code can tell nothing apart that it set."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, PrivateAttr, RootModel

from agentrun.core.codec import canonical
from agentrun.core.events import Json
from agentrun.values.arguments import Arguments
from agentrun.values.tagged_json import Unrecordable

day = ["monday"]  # the coarse clock


class Order(BaseModel):
    items: list[str] = []
    more: dict[str, Any] = Field(default_factory=dict)


class Card(BaseModel):
    number: int = 1


class Visa(Card): ...


class Master(Card): ...


class Login(BaseModel):
    user: str
    pin: str = Field(default="", exclude=True)


class Private(BaseModel):
    user: str = "u"
    _pin: str = PrivateAttr("")
    _notes: list[str] = PrivateAttr(default_factory=list)


class Settings(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    modes: list[str] = Field(default_factory=lambda: ["slow"])


class Drawn(BaseModel):
    name: str = "n"
    id: UUID = Field(default_factory=uuid4)
    day: str = Field(default_factory=lambda: day[0])
    meta: dict[str, Any] = Field(default_factory=lambda: {"id": str(uuid4()), "n": 0})
    settings: Settings = Field(default_factory=Settings)
    _own: str = PrivateAttr(default_factory=lambda: str(uuid4()))
    _late: str = PrivateAttr("")

    def model_post_init(self, context: Any) -> None:
        self._late = f"{self.name} {uuid4()}"


class DrawnMore(Drawn):
    size: int = 0


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: int = 0


class Address(BaseModel):
    url: AnyUrl = Field(default_factory=lambda: AnyUrl("http://a.b"))
    tags: list[str] = []


class Names(RootModel[dict[str, Order]]): ...


class Loose(BaseModel):
    what: Any = None


class Row(NamedTuple):
    card: Card


class LongRow(Row): ...


@dataclass
class Parcel:
    card: Card
    note: str = ""


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    change(value)
    return value


def compared(annotation: Any, value: Any) -> Json:
    def take(x: Any) -> None: ...

    take.__annotations__["x"] = annotation
    arguments = Arguments(take, what="tool")
    return arguments.record(arguments.validate({"x": value}), {"x": value}).compared["x"]


DIFFERENT: dict[str, tuple[Any, Any, Any]] = {
    "a list": (Order, Order(), changed(Order(), lambda o: o.items.append("hat"))),
    "a list of two": (
        list[Order],
        [Order(), changed(Order(), lambda o: o.items.append("hat"))],
        [Order(), changed(Order(), lambda o: o.items.append("yacht"))],
    ),
    "a dict": (Order, Order(), changed(Order(), lambda o: o.more.update(a=1))),
    "in a root": (
        Names,
        Names({"a": Order()}),
        Names({"a": changed(Order(), lambda o: o.more.update(a=1))}),
    ),
    "a subclass": (Card, Visa(), Master()),
    "a base": (Card, Card(), Master()),
    "a subclass in a dict": (dict[str, Card], {"a": Visa()}, {"a": Card()}),
    "a subclass in a dataclass": (Parcel, Parcel(Visa()), Parcel(Master())),
    "an attribute of a dataclass": (
        Parcel, Parcel(Card()), changed(Parcel(Card()), lambda p: setattr(p, "more", 1))
    ),
    "a member of a union": (dict[str, Any] | Card, {"number": 1}, Card(number=1)),
    "an excluded field": (Login, Login(user="a", pin="1"), Login(user="a", pin="2")),
    "a private attribute": (
        Private, Private(), changed(Private(), lambda p: setattr(p, "_pin", "1"))
    ),
    "a private list": (Private, Private(), changed(Private(), lambda p: p._notes.append("1"))),
    "behind a frozen model": (
        Frozen, Frozen(), changed(Frozen(), lambda f: object.__setattr__(f, "x", 1))
    ),
    "a drawn dict": (Drawn, Drawn(), changed(Drawn(), lambda d: d.meta.update(cents=1))),
    "a part of a drawn dict": (Drawn, Drawn(), changed(Drawn(), lambda d: d.meta.update(n=1))),
    "a part of a model": (Drawn, Drawn(), changed(Drawn(), lambda d: d.settings.modes.pop())),
    "a part of a subclass": (Drawn, DrawnMore(), changed(DrawnMore(), lambda d: d.meta.clear())),
    "a drawn field that was set": (Drawn, Drawn(id=UUID(int=1)), Drawn(id=UUID(int=2))),
    "beside an address": (Address, Address(), changed(Address(), lambda a: a.tags.append("t"))),
    "a tuple": (Loose, Loose(what=(1, 2)), Loose(what=[1, 2])),
    "a key": (Loose, Loose(what={1: 2}), Loose(what={"1": 2})),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_the_code_can_tell_apart_is_different(what: str) -> None:
    annotation, one, other = DIFFERENT[what]
    assert canonical(compared(annotation, one)) != canonical(compared(annotation, other))
    for value in one, other:
        again = [canonical(compared(annotation, value)) for _ in range(2)]
        assert again[0] == again[1]


EQUAL: dict[str, tuple[Any, Callable[[], Any]]] = {
    "what was not set": (Order, Order),
    "what is drawn": (Drawn, Drawn),
    "what is drawn beside what was set": (Drawn, lambda: Drawn(name="other", day="friday")),
    "what a subclass draws": (Drawn, lambda: DrawnMore(size=1)),
    "what is drawn in a list": (list[Drawn], lambda: [Drawn(), DrawnMore()]),
    "an address": (Address, Address),
    "a private list": (Private, lambda: changed(Private(), lambda p: p._notes.append("1"))),
    "a subclass of a private list": (
        BaseModel, lambda: changed(Private(), lambda p: p._notes.append("1"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", EQUAL)
def test_what_a_model_fills_in_by_itself_is_no_difference(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotation, make = EQUAL[what]
    first = compared(annotation, make())
    monkeypatch.setitem(globals(), "day", ["tuesday"])
    assert canonical(compared(annotation, make())) == canonical(first)


def test_a_model_that_was_made_yesterday_is_the_same_today(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = Drawn(id=UUID(int=1))
    first = compared(Drawn, value)
    monkeypatch.setitem(globals(), "day", ["tuesday"])
    assert compared(Drawn, value) == first


def test_what_was_set_is_compared_as_a_model_sends_it() -> None:
    assert compared(Drawn, Drawn(name="n", day="d")) == {"name": "n", "day": "d"}
    assert compared(Drawn, Drawn(name="n")) == compared(Drawn, {"name": "n"})
    assert compared(Names, Names({"a": Order(items=["b"])})) == {"a": {"items": ["b"]}}


def make_class(base: Any, *, newer: bool) -> Any:
    """The class before a deploy or after it; the newest of a name is the one that is found."""
    if newer:

        class Made(base):  # type: ignore[misc, valid-type]
            size: int = 0
            added: list[str] = Field(default=[])
            _added: int = PrivateAttr(5)

    else:

        class Made(base):  # type: ignore[no-redef, misc, valid-type]
            size: int = 0

    return Made


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("base", [Order, Private, Drawn])
def test_a_field_that_a_deploy_adds_is_no_difference(base: Any, size: int) -> None:
    seen = []
    for newer in False, True:
        kind = make_class(base, newer=newer)
        value = kind(size=size)
        if base is Private:
            value._pin = "1"
        told = compared(kind, value), compared(base, value), compared(list[kind], [value])
        seen.append(canonical(told))
    assert seen[0] == seen[1]


def test_an_attribute_of_a_named_tuple_is_refused_as_an_argument() -> None:
    row = changed(LongRow(Card()), lambda r: setattr(r, "more", 1))
    for annotation, value in ((LongRow, row), (dict[str, list[Row]], {"a": [row]})):
        with pytest.raises(Unrecordable, match=r"x.* has attributes .*: more"):
            compared(annotation, value)
    assert compared(LongRow, LongRow(Card())) == [{}]


def test_the_class_of_the_started_file_is_named_as_in_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = compared(Card, Visa())
    monkeypatch.setattr(sys.modules["__main__"], "__file__", f"{Visa.__module__}.py", raising=False)
    name = Visa.__module__
    for module in ("__main__", f"agentrun_file_{name}"):
        monkeypatch.setattr(Visa, "__module__", module)
        assert compared(Card, Visa()) == first
