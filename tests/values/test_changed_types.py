"""A deploy adds fields with defaults to a class; what was recorded before is read all the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

import agentrun
from agentrun.values.tagged_json import TypeMismatch
from agentrun.values.typed_values import Result


class Animal(BaseModel):
    name: str = "n"


# Each function makes a class; a class that is made later has the same name and is found instead.


def model(*, newer: bool) -> Any:
    if newer:

        class Kept(Animal):
            what: Any = None
            size: int = 5
            tags: list[str] = Field(default_factory=list)
            both: str = Field(default_factory=lambda data: f"{data['name']} {data['size']}")
            _notes: set[str] = PrivateAttr(default_factory=set)
            _new: int = 7
            _empty: int = PrivateAttr()

    else:

        class Kept(Animal):  # type: ignore[no-redef]
            what: Any = None
            _notes: set[str] = PrivateAttr(default_factory=set)

    return Kept


def parcel(*, newer: bool) -> Any:
    if newer:

        @dataclass(slots=True)
        class Parcel:
            what: Any = None
            size: int = 5
            tags: list[str] = field(default_factory=list)

    else:

        @dataclass
        class Parcel:  # type: ignore[no-redef]
            what: Any = None

    return Parcel


def test_a_new_field_has_its_default_in_a_tagged_record() -> None:
    old = model(newer=False)(what=(1, 2))
    old._notes = {"kept"}
    stored = Result(Animal).encode(old)
    assert isinstance(stored, dict)
    assert "agentrun:value" in stored
    kind = model(newer=True)
    for annotation in Animal, kind:
        again = Result(annotation).decode(stored)
        assert type(again) is kind
        assert (again.name, again.what, again.size, again.tags) == ("n", (1, 2), 5, [])
        assert (again.both, again._notes, again._new) == ("n 5", {"kept"}, 7)
        assert repr(again) == repr(kind(what=(1, 2)))
        assert not hasattr(again, "_empty")
        assert again.model_fields_set == {"what"}
    again.tags.append("changed")
    assert Result(kind).decode(stored).tags == []


def test_a_new_field_of_a_dataclass_has_its_default() -> None:
    old = parcel(newer=False)
    stored = Result(old).encode(old((1, 2)))
    kind = parcel(newer=True)
    assert Result(kind).decode(stored) == kind((1, 2))
    again = Result(kind).decode(stored)
    again.tags.append("changed")
    assert Result(kind).decode(stored).tags == []


def first(**fields: Any) -> Any:
    class Changed(Animal):
        what: Any = None
        _old: int = 1

    return Changed(what=(1, 2), **fields)


def required() -> None:
    class Changed(Animal):
        what: Any
        size: int
        _old: int


def drawn() -> None:
    class Changed(Animal):
        what: Any = None
        id: UUID = Field(default_factory=uuid4)
        _old: int


def validated() -> None:
    class Changed(Animal):
        model_config = ConfigDict(validate_default=True)
        what: Any = None
        size: int = "5"  # type: ignore[assignment]
        _old: int


def gone() -> None:
    class Changed(Animal):
        _old: int


def private_gone() -> None:
    class Changed(Animal):
        what: Any = None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (required, "other fields than it has now: size"),
        (drawn, r"value\.id would differ each time"),
        (validated, "other fields than it has now: size"),
        (gone, "other fields than it has now: what"),
        (private_gone, "other fields than it has now: _old"),
    ],
)
def test_what_a_changed_class_has_no_value_for_is_refused(
    change: Callable[[], None], why: str
) -> None:
    # The names of the classes differ in the function that makes them. So it is written anew.
    value = first()
    value._old = 2
    stored: Any = Result(Animal).encode(value)
    stored["agentrun:value"]["agentrun:object"] = f"{__name__}.{change.__name__}.<locals>.Changed"
    change()
    with pytest.raises(TypeMismatch, match=why):
        Result(Animal).decode(stored)


class Dated(BaseModel):
    what: Any = None
    at: Any = Field(default_factory=lambda: [agentrun.now()])


def test_a_default_that_asks_the_run_is_drawn_for_the_code_only(db: Any) -> None:
    @agentrun.tool(effect="read")
    def take_dated(dated: Dated) -> int:
        return len(dated.at)

    @agentrun.agent
    def dater() -> list[int]:
        dated = Dated()
        seen = [take_dated(dated)]
        dated.at.append(1)
        return [*seen, take_dated(dated)]

    assert dater.with_options(key="k").run() == [1, 2]
    names = [step.name for step in agentrun.transcript("k").steps]
    assert names.count("now") == 1
    assert names.count("take_dated") == 2


T = TypeVar("T")
U = TypeVar("U")


class Page(BaseModel, Generic[T]):
    items: list[T]


class Both(BaseModel, Generic[T, U]):
    one: T
    other: U


class Hooked(BaseModel, Generic[T]):
    items: list[T]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        called.append(cls.__name__)


called: list[str] = []


def record_of(kind: str, **fields: Any) -> Any:
    return {
        "agentrun:value": {
            "agentrun:object": f"{__name__}.{kind}",
            "fields": fields,
            "set": sorted(fields),
        }
    }


def test_a_generic_model_that_only_the_body_names_is_made_again() -> None:
    again = Result(Page).decode(record_of("Page[float]", items=[1.5]))
    assert type(again) is Page[float]
    assert again == Page[float](items=[1.5])
    animal = {"agentrun:object": f"{__name__}.Animal", "fields": {"name": "n"}, "set": []}
    again = Result(Both | Animal).decode(record_of("Both[Animal, int]", one=animal, other=2))
    assert type(again) is Both[Animal, int]
    assert again.one == Animal()


@pytest.mark.parametrize(
    "name",
    ["Page[Popen]", "Page[str, int]", "Both[int]", "Animal[int]", "Hooked[int]", "Gone[int]"],
)
def test_a_row_makes_no_other_class(name: str) -> None:
    called.clear()
    with pytest.raises(TypeMismatch, match=f"no class '.*{re.escape(name)}' .* import the module"):
        Result(Page | Both | Animal | Hooked).decode(record_of(name, items=[1]))
    assert called == []
