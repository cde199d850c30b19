"""Budgets as arithmetic: what is granted, refused, capped and said."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun import Budget, ConfigError
from agentrun.core.budget import BudgetRefusal, Grant, Quote, Spent, admit, grant, nearly_used

PRICED: Any = {"input_cost": Decimal("0.01"), "output_price": Decimal("0.00001")}


def granted(budget: Budget, spent: Spent, quote: Quote) -> Grant:
    found = grant([(budget, spent)], quote)
    assert isinstance(found, Grant)
    return found


def refused(budget: Budget, spent: Spent, quote: Quote) -> BudgetRefusal:
    found = grant([(budget, spent)], quote)
    assert isinstance(found, BudgetRefusal)
    return found


def test_what_fits_is_reserved_whole_and_not_capped() -> None:
    found = granted(Budget(usd=1), Spent(), Quote(1000, 4000, **PRICED))
    assert found == Grant(1000, 4000, Decimal("0.05"), None)


def test_a_reply_is_capped_to_what_is_left() -> None:
    found = granted(Budget(usd=1), Spent(usd=Decimal("0.98")), Quote(1000, 4000, **PRICED))
    assert (found.cap, found.cost) == (1000, Decimal("0.02"))
    found = granted(Budget(tokens=5000), Spent(tokens=1000), Quote(1000, 4000, replies=2))
    assert (found.cap, found.output_tokens) == (1500, 3000)


def test_a_request_that_nobody_else_holds_is_told_its_limit() -> None:
    assert granted(Budget(usd=1), Spent(), Quote(1, 4000, bounded=False, **PRICED)).cap == 4000


def test_nobody_is_asked_for_a_stump() -> None:
    almost = Spent(usd=Decimal("0.9895"))
    found = refused(Budget(usd=1), almost, Quote(1000, 4000, **PRICED))
    assert found.reason == "usd: $0.9895 of $1.00, and it may take $0.0500"
    assert granted(Budget(usd=1), almost, Quote(1000, 50, **PRICED)).cap is None


def test_a_refusal_may_pass_while_calls_are_under_way() -> None:
    spent = Spent(usd=Decimal(1), open_usd=Decimal("0.6"), in_flight=True)
    found = refused(Budget(usd=1), spent, Quote(1, 4000, **PRICED))
    assert found.wait
    assert "usd: $1.00 of $1.00 ($0.6000 of it not confirmed)" in found.reason


@pytest.mark.parametrize(
    ("budget", "spent", "says"),
    [
        (Budget(turns=3), Spent(turns=3), "turns: 3 of 3"),
        (Budget(model_calls=3), Spent(model_calls=3), "model_calls: 3 of 3"),
        (Budget(wall=60), Spent(wall=60.5), "wall: 60 of 60"),
        (Budget(tokens=900), Spent(tokens=500), "tokens: 500 of 900, and it may take 5,000"),
        (Budget(usd=1), Spent(), "price of the model is not known"),
    ],
)
def test_every_limit_refuses(budget: Budget, spent: Spent, says: str) -> None:
    assert says in refused(budget, spent, Quote(1000, 4000)).reason


def test_small_amounts_are_told_as_viewers_tell_them() -> None:
    tiny = Spent(usd=Decimal("0.000012"))
    found = refused(Budget(usd=0.00005), tiny, Quote(1000, 4000, **PRICED))
    assert found.reason == "usd: $0.000012 of $0.00005, and it may take $0.0500"


@pytest.mark.parametrize(
    ("budget", "spent", "suggested"),
    [
        (Budget(usd=0.00005), Spent(), {"usd": 0.013}),  # 0.01256 is needed
        (Budget(usd=0.5), Spent(usd=Decimal("0.495")), {"usd": 1}),
        (Budget(usd=0.5), Spent(usd=Decimal(3)), {"usd": 3.1}),
        (Budget(tokens=100), Spent(tokens=50), {"tokens": 1400}),  # 1,306 are needed
        (Budget(turns=3), Spent(turns=3), {"turns": 6}),
        (Budget(turns=3), Spent(turns=40), {"turns": 41}),
        (Budget(model_calls=60), Spent(model_calls=60), {"model_calls": 120}),
        (Budget(wall=60), Spent(wall=500.5), {"wall": 570}),
    ],
)
def test_what_is_suggested_is_enough_and_readable(
    budget: Budget, spent: Spent, suggested: dict[str, Any]
) -> None:
    found = refused(budget, spent, Quote(1000, 4000, **PRICED))
    assert found.suggested == suggested
    granted(Budget(**suggested), spent, Quote(1000, 4000, **PRICED))


def test_a_limit_of_tokens_is_suggested_for_a_model_without_a_price() -> None:
    quote = Quote(1000, 4000)
    assert refused(Budget(usd=1), Spent(), quote).suggested == {"tokens": 100_000}
    found = refused(Budget(usd=1), Spent(tokens=200_000), quote)
    assert found.suggested == {"tokens": 210_000}
    granted(Budget(usd=1, tokens=210_000), Spent(tokens=200_000), quote)


@given(
    limit=st.decimals("0.000001", 10, places=6),
    spent=st.decimals(0, 100, places=6),
    input_cost=st.decimals(0, 1, places=6),
    price=st.decimals(0, "0.001", places=8),
    written=st.integers(0, 200_000),
    tokens=st.integers(1, 10_000),
)
def test_each_limit_is_raised_once_at_most(
    limit: Decimal, spent: Decimal, input_cost: Decimal, price: Decimal, written: int, tokens: int
) -> None:
    quote = Quote(tokens, written, input_cost=input_cost, output_price=price)
    limits: dict[str, Any] = {"usd": limit, "tokens": 500, "turns": 1, "wall": 2.5}
    used = Spent(usd=spent, tokens=tokens, turns=3, wall=float(spent) + 3)
    raised: list[str] = []
    while not isinstance(found := grant([(Budget(**limits), used)], quote), Grant):
        assert found.limit not in raised
        raised.append(found.limit)
        limits |= found.suggested


def test_a_model_without_a_price_counts_in_tokens() -> None:
    found = granted(Budget(usd=1, tokens=9000), Spent(), Quote(1000, 4000))
    assert (found.cost, found.cap) == (None, None)


def test_an_inner_budget_holds_as_well_as_an_outer_one() -> None:
    quote = Quote(0, 4000, input_cost=Decimal(0), output_price=Decimal("0.00001"))
    outer, inner = (Budget(usd=10), Spent()), (Budget(usd=1), Spent(usd=Decimal("0.97")))
    found = grant([outer, inner], quote)
    assert isinstance(found, Grant)
    assert found.cap == 3000
    found = grant([outer, (Budget(usd=1), Spent(usd=Decimal(1)))], quote)
    assert isinstance(found, BudgetRefusal)
    assert found.holder == 1


@given(
    limit=st.decimals("0.01", 100, places=4),
    spent=st.decimals(0, 100, places=6),
    input_cost=st.decimals(0, 1, places=6),
    price=st.decimals(0, "0.001", places=8),
    written=st.integers(0, 200_000),
    replies=st.integers(1, 5),
)
def test_what_is_granted_never_passes_the_limit(
    limit: Decimal, spent: Decimal, input_cost: Decimal, price: Decimal, written: int, replies: int
) -> None:
    quote = Quote(10, written, replies=replies, input_cost=input_cost, output_price=price)
    found = grant([(Budget(usd=limit), Spent(usd=spent))], quote)
    if isinstance(found, Grant):
        assert found.cost is not None
        assert spent + found.cost <= limit


def test_what_is_nearly_used_is_told() -> None:
    spent = Spent(usd=Decimal("0.8"), tokens=10)
    assert nearly_used(Budget(usd=1, tokens=1000), spent) == ["usd: $0.8000 of $1.00"]


@pytest.mark.parametrize(
    "budget", [Budget(usd=0.1, turns=3), Budget(wall=1.5, on_exhausted="fail")]
)
def test_a_budget_is_recorded_without_loss(budget: Budget) -> None:
    assert Budget.from_json({**budget.to_json(), "of a newer version": 1}) == budget


@pytest.mark.parametrize("wrong", [{}, {"usd": 0}, {"usd": -1}, {"tokens": float("nan")},
                                   {"wall": float("inf")}, {"usd": "much"},
                                   {"turns": 1, "on_exhausted": "shrug"}])  # fmt: skip
def test_a_budget_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        Budget(**wrong)


def test_of_tool_calls_the_first_ones_are_admitted_that_every_budget_allows() -> None:
    outer, inner = (Budget(tool_calls=9), Spent(tool_calls=7)), (Budget(usd=1), Spent())
    assert admit([outer, inner], 2) == (2, None)
    allowed, refusal = admit([outer, (Budget(tool_calls=3), Spent(tool_calls=2))], 5)
    assert allowed == 1
    assert refusal == BudgetRefusal(1, "tool_calls", "tool_calls: 2 of 3", {"tool_calls": 7})
    assert admit([(Budget(tool_calls=3), Spent(tool_calls=4))], 1)[0] == 0
