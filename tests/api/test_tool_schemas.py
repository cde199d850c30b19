"""`strict: true` is said only where the published rules of structured outputs hold."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

import agentrun


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Point(BaseModel):
    x: int
    y: int


class Loose(BaseModel):
    x: int
    y: int = 5


class Nullable(BaseModel):
    x: int
    y: int | None = None


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int


class Tree(BaseModel):
    value: int
    children: list[Tree]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Partial(TypedDict, total=False):
    x: int


class Whole(TypedDict):
    x: int


class Pair(NamedTuple):
    x: int
    y: int


STRICT: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "or null": int | None,
    "union": int | str,
    "list": list[int],
    "list of lists": list[list[str]],
    "enum": Size,
    "literal": Literal["a", "b"],
    "one literal": Literal["a"],
    "model": Point,
    "models": list[Point],
    "nested nullable default": Nullable,
    "recursive": Tree,
    "typed dict": Whole,
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "uuid": UUID,
    "ipv4": IPv4Address,
    "range": Annotated[int, Field(ge=1, lt=10)],
    "multiple": Annotated[int, Field(multiple_of=5)],
    "pattern": Annotated[str, Field(pattern="^[a-z]+$")],
    "some items": Annotated[list[int], Field(min_length=1, max_length=3)],
    "union of models": Cat | Dog,
}
LOOSE: dict[str, Any] = {
    "any": Any,
    "bare list": list,
    "list of any": list[Any],
    "bare dict": dict,
    "dict": dict[str, int],
    "list of dicts": list[dict[str, int]],
    "object": object,
    "uri": AnyUrl,
    "path": Path,
    "bytes": bytes,
    "set": set[int],
    "frozenset": frozenset[str],
    "tuple": tuple[int, str],
    "open tuple": tuple[int, ...],
    "named tuple": Pair,
    "nested default": Loose,
    "nested default in a list": list[Loose],
    "open model": Extra,
    "partial dict": Partial,
    "tagged union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "short text": Annotated[str, Field(max_length=3)],
    "lookahead": Annotated[str, Field(json_schema_extra={"pattern": "^(?=a)a"})],
    "union with any": int | dict[str, Any],
    "mixed literal": Literal[1, "a"],
    "many values": Literal[tuple(f"v{n}" for n in range(1001))],  # type: ignore[valid-type]
}
LOOSE.pop("open tuple")  # it is an array of one type, as a list is
STRICT |= {"open tuple": tuple[int, ...], "decimal": Decimal}


def tool_of(annotation: Any) -> Any:
    def act(value: Any) -> str:
        return "done"

    act.__annotations__["value"] = annotation
    return agentrun.tool(act)


@pytest.mark.parametrize("name", STRICT)
def test_what_the_rules_allow_is_strict(name: str) -> None:
    (chat,) = agentrun.schemas(tool_of(STRICT[name]))
    (response,) = agentrun.schemas(tool_of(STRICT[name]), api="responses")
    assert chat["function"].get("strict") is True
    assert response["strict"] is True
    _follows_the_rules(chat["function"]["parameters"])


@pytest.mark.parametrize("name", LOOSE)
def test_what_providers_refuse_is_not(name: str) -> None:
    (chat,) = agentrun.schemas(tool_of(LOOSE[name]))
    (response,) = agentrun.schemas(tool_of(LOOSE[name]), api="responses")
    assert "strict" not in chat["function"]
    assert response["strict"] is False
    assert chat["function"]["parameters"]["properties"]["value"] is not None


def test_an_untyped_parameter_is_not_strict() -> None:
    @agentrun.tool
    def act(value) -> str:  # type: ignore[no-untyped-def]
        return "done"

    assert "strict" not in agentrun.schemas(act)[0]["function"]


def test_no_parameters_are_strict() -> None:
    @agentrun.tool
    def act() -> str:
        return "done"

    function = agentrun.schemas(act)[0]["function"]
    assert function["strict"] is True
    assert function["parameters"]["properties"] == {}


def test_the_top_may_be_null_for_a_default_and_then_is(monkeypatch: Any) -> None:
    seen = []

    @agentrun.tool
    def act(point: Point, n: int = 5, size: Size = Size.SMALL) -> str:
        seen.append((point, n, size))
        return "done"

    function = agentrun.schemas(act)[0]["function"]
    assert function["strict"] is True
    assert function["parameters"]["required"] == ["point", "n", "size"]
    call = {"point": {"x": 1, "y": 2}, "n": None, "size": None}
    message = {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "act", "arguments": json.dumps(call)}}],
    }
    assert agentrun.call_tools(message, [act])[0]["content"] == "done"
    assert seen == [(Point(x=1, y=2), 5, Size.SMALL)]


def test_a_description_beside_a_reference_goes_around_it() -> None:
    @agentrun.tool
    def act(point: Point) -> str:
        """Act.

        Args:
            point: where
        """
        return "done"

    parameters = agentrun.schemas(act)[0]["function"]["parameters"]
    assert parameters["properties"]["point"] == {
        "anyOf": [{"$ref": "#/$defs/Point"}],
        "description": "where",
    }


def _follows_the_rules(schema: Any) -> None:
    """The published rules, said a second time and otherwise."""
    if isinstance(schema, list):
        for one in schema:
            _follows_the_rules(one)
        return
    assert schema, "every value has a schema"
    assert {"type", "anyOf", "$ref"} & set(schema)
    forbidden = {"oneOf", "allOf", "not", "prefixItems", "uniqueItems", "default", "minLength"}
    assert not forbidden & set(schema)
    if schema.get("type") == "object":
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])
        for value in schema["properties"].values():
            _follows_the_rules(value)
    if "items" in schema or schema.get("type") == "array":
        _follows_the_rules(schema["items"])
    _follows_the_rules(schema.get("anyOf", []))
    _follows_the_rules(list(schema.get("$defs", {}).values()))
