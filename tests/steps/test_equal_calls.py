"""Calls whose arguments the code can tell apart are equal nowhere: no key, approval or run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field, PrivateAttr

import agentrun


class Card(BaseModel):
    number: int = 1


class Visa(Card): ...


class Master(Card): ...


class Order(BaseModel):
    items: list[str] = []
    card: Card = Card()
    pin: str = Field(default="", exclude=True)
    _code: str = PrivateAttr("")


def order(*items: str, **fields: Any) -> Order:
    made = Order(**fields)
    made.items.extend(items)
    return made


def coded(code: str) -> Order:
    made = Order()
    made._code = code
    return made


PAIRS: dict[str, Callable[[], tuple[Order, Order]]] = {
    "items": lambda: (order("hat"), order("hat", "yacht")),
    "class": lambda: (order(card=Visa()), order(card=Master())),
    "excluded": lambda: (order(pin="1"), order(pin="2")),
    "private": lambda: (coded("1"), coded("2")),
}
ways = pytest.mark.parametrize("what", PAIRS)


@ways
def test_calls_that_the_code_can_tell_apart_are_not_equal(db: Any, what: str) -> None:
    keys: list[str] = []

    @agentrun.tool(effect="idempotent")
    def pay_order(order: Order, idempotency_key: str = "") -> None:
        keys.append(idempotency_key)
        raise TimeoutError

    @agentrun.agent
    def payer() -> None:
        for one in (*PAIRS[what](), PAIRS[what]()[0]):
            with pytest.raises(TimeoutError):
                pay_order(one)

    payer.run()
    assert len(set(keys[:2])) == 2


@ways
def test_another_call_on_a_resume_is_a_divergence(db: Any, what: str) -> None:
    done: list[Order] = []
    first, second = PAIRS[what]()
    now = first

    @agentrun.tool
    def ship_order(order: Order) -> None:
        done.append(order)

    @agentrun.agent
    def shipper() -> None:
        ship_order(now)
        if now is first:
            raise SystemExit

    with pytest.raises(SystemExit):
        shipper.with_options(key="k").run()
    now = second
    with pytest.raises(agentrun.Diverged):
        shipper.with_options(key="k").run()
    assert len(done) == 1


@ways
def test_an_approval_is_for_the_very_order_that_was_shown(db: Any, what: str) -> None:
    done: list[Order] = []
    first, second = PAIRS[what]()
    now = first

    @agentrun.tool(approve=True)
    def buy_order(order: Order) -> None:
        done.append(order)

    @agentrun.agent
    def buyer() -> None:
        buy_order(now)

    with pytest.raises(agentrun.RunHeld):
        buyer.with_options(key="k").run()
    agentrun.approve("k", 1, by="ana")
    now = second
    with pytest.raises(agentrun.Diverged):
        buyer.with_options(key="k").run()
    assert done == []
    now = first
    buyer.with_options(key="k").run()
    assert len(done) == 1


@ways
def test_a_key_belongs_to_one_input(db: Any, what: str) -> None:
    @agentrun.agent
    def keeper(order: Order) -> str:
        return "ok"

    first, second = PAIRS[what]()
    keyed = keeper.with_options(key="k")
    assert keyed.run(first) == "ok"
    assert keyed.run(PAIRS[what]()[0]) == "ok"
    with pytest.raises(agentrun.RunConflict):
        keyed.run(second)
