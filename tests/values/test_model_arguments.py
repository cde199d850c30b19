"""What a model sends is of the JSON type that its parameter takes; what code passes need not be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from openai import OpenAI
from pydantic import BaseModel

import agentrun
from agentrun.api.tool import tool_of
from agentrun.testing import Call, Provider, Reply


class Size(Enum):
    SMALL = "s"
    LARGE = 2


class Line(BaseModel):
    cents: int
    gift: bool = False


paid: list[Any] = []
NOTHING: dict[int, bool] = {}


@agentrun.tool(effect="idempotent")
def pay(cents: int, urgent: bool = False) -> str:
    paid.append((cents, urgent))
    return f"paid {cents!r} {urgent!r}"


@agentrun.tool(effect="read")
def weigh(
    kilos: float = 0.0, note: str = "", lines: Sequence[Line] = (), by: dict[int, bool] = NOTHING
) -> str:
    return f"{kilos!r} {note!r} {[*lines]!r} {by!r}"


@agentrun.tool(effect="read")
def read(at: datetime | None = None, day: date | None = None, price: Decimal = Decimal(0),
         id: UUID | None = None, data: bytes = b"", size: Size = Size.SMALL,
         lasts: timedelta | None = None, parts: tuple[int, str] = (0, ""),
         tags: frozenset[str] = frozenset()) -> str:  # fmt: skip
    return repr((at, day, price, id, data, size, lasts, parts, tags))


@agentrun.agent(name="loop_of_sent")
def loop(url: str) -> list[str]:
    client = agentrun.wrap(OpenAI(base_url=url, api_key="k"))
    reply = client.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": "go"}]
    )
    return [item["content"] for item in agentrun.call_tools(reply, [pay, weigh, read])]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Call("pay", {"cents": True}), "pay: the arguments are not valid: cents: Input should be a "
         "valid integer, not a boolean"),
        (Call("pay", {"cents": "1_000"}), "cents: Input should be a valid integer, not a string"),
        (Call("pay", {"cents": "5"}), "cents: Input should be a valid integer, not a string"),
        (Call("pay", {"cents": 5.5}), "cents: Input should be a valid integer"),
        (Call("pay", {"cents": 5, "urgent": "yes"}), "urgent: Input should be a valid boolean"),
        (Call("pay", {"cents": 5, "urgent": 1}), "urgent: Input should be a valid boolean, not "),
        (Call("weigh", {"kilos": "1.5"}), "kilos: Input should be a valid number, not a string"),
        (Call("weigh", {"kilos": True}), "kilos: Input should be a valid number, not a boolean"),
        (Call("weigh", {"note": 5}), "note: Input should be a valid string, not a number"),
        (Call("weigh", {"lines": [{"cents": 1}, {"cents": "2"}]}), "lines.1.cents: Input "),
        (Call("weigh", {"lines": [{"cents": 1, "gift": "no"}]}), "lines.0.gift: Input "),
        (Call("weigh", {"by": {"1": "on"}}), "by.1: Input should be a valid boolean, not a string"),
        (Call("weigh", '{"note": "\\ud800", "kilos": "1"}'), "kilos: Input should be a"),
        (Call("read", {"at": 1_700_000_000}), "at: Input should be a valid datetime, not a number"),
    ],
)  # fmt: skip
def test_another_type_is_told_and_nothing_is_done(
    db: Any, provider: Provider, events: Any, reincarnate: Callable[[], Any], call: Call, says: str
) -> None:
    paid.clear()
    provider.say([Reply(tool_calls=[call])])
    (told,) = loop.with_options(key="k").run(provider.base_url)
    assert says in json.loads(told)["error"]
    assert not paid
    (outcome,) = [e for e in events("k") if e.event == "step_finished" and e.kind == "tool"]
    assert (outcome.status, outcome.ident, outcome.name) == ("error", "1#0", call.name)
    reincarnate()
    assert loop.with_options(key="k").run(provider.base_url) == [told]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (Call("pay", {"cents": 5, "urgent": None}), "paid 5 False"),
        (Call("pay", {"cents": 5.0, "urgent": True}), "paid 5 True"),
        (Call("weigh", {"kilos": 5, "by": {"1": True}}), "5.0 '' [] {1: True}"),
        (Call("weigh", {"lines": [{"cents": 5}]}), "0.0 '' [Line(cents=5, gift=False)] {}"),
        (Call("weigh", '{"note": "\\ud800"}'), "0.0 '\\ud800' [] {}"),
        (Call("read", {"day": "2026-01-02", "price": "1.10", "size": 2, "lasts": "PT5S"}),
         repr((None, date(2026, 1, 2), Decimal("1.10"), None, b"", Size.LARGE,
               timedelta(seconds=5), (0, ""), frozenset()))),
        (Call("read", {"id": "12345678-1234-5678-1234-567812345678", "data": "abc", "price": 2,
                       "at": "2026-01-02T03:04:05", "parts": [1, "a"], "tags": ["x"]}),
         repr((datetime(2026, 1, 2, 3, 4, 5), None, Decimal(2),
               UUID("12345678-1234-5678-1234-567812345678"), b"abc", Size.SMALL, None, (1, "a"),
               frozenset({"x"})))),
    ],
)  # fmt: skip
def test_what_json_has_no_type_for_is_taken_as_text(
    db: Any, provider: Provider, reincarnate: Callable[[], Any], call: Call, told: str
) -> None:
    provider.say([Reply(tool_calls=[call])])
    assert loop.with_options(key="k").run(provider.base_url) == [told]
    reincarnate()
    assert loop.with_options(key="k").run(provider.base_url) == [told]


def test_plain_code_may_pass_what_converts(db: Any) -> None:
    @agentrun.agent
    def plain() -> str:
        return pay("5", "yes")  # type: ignore[arg-type]

    assert plain.run() == "paid 5 True"


def test_an_argument_that_is_nested_too_deeply_hides_no_other() -> None:
    @agentrun.tool
    def note(cents: int, about: Any) -> None: ...

    deep: Any = json.loads("[" * 250 + "]" * 250)
    told = tool_of(note)
    assert told is not None
    assert told.validate({"cents": 5, "about": deep}, sent=True)["cents"] == 5
    with pytest.raises(agentrun.ToolFailed, match="cents: Input should be a valid integer"):
        told.validate({"cents": "1_000", "about": deep}, sent=True)
