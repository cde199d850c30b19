"""Budgets: how much a run may spend, and whether the next call fits.

Before a model call, the most that it can cost is compared with what is left of each budget that
applies: the run's own and those of its parents. The amount granted is reserved until the provider
reports the actual usage. So parallel calls, and calls whose outcome a crash has hidden, cannot
exceed the budget together. A tool call is counted before it is made, and stays counted.

This module is pure arithmetic. `steps/budgets.py` and `store/budgets.py` read and write the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, Decimal
from math import floor
from typing import Literal

from agentrun.core.errors import ConfigError
from agentrun.core.events import Json, Usage
from agentrun.core.money import money

__all__ = ["Budget", "BudgetRefusal", "Grant", "Quote", "Spent", "admit", "grant", "nearly_used"]

LIMITS = ("usd", "tokens", "turns", "model_calls", "tool_calls", "wall")
WARN_AT = Decimal("0.8")  # of a limit
FIRST_TOKENS = Decimal(100_000)  # suggested where a model without a price needs a limit of tokens
MIN_REPLY = 256  # tokens; a model call is refused if less is left, unless the request wants less


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a run may spend, its child runs included. A field that is None sets no limit.

    Args:
        usd: US dollars, by list price. A model without a known price is refused, unless
            ``tokens`` limits it too.
        tokens: tokens of requests and replies together.
        turns: turns. A turn is a model call and the tool calls that its reply asks for.
        model_calls: model calls of any kind, embeddings included.
        tool_calls: tool calls. Each is counted once, however often it is attempted. A call that
            cannot be made is not counted. When this limit is reached, the model first gets
            a message instead of the result, and may answer. The budget counts as exhausted only
            if the model then asks for a tool again.
        wall: seconds since the run was created, waiting included.
        on_exhausted: ``pause``: the run waits in the inbox, where `agentrun approve` raises the
            budget. ``fail``: the run fails with LimitExceeded.

    Raises:
        ConfigError: a limit is not a finite number above 0, or there is no limit.

    Example:
        >>> support.with_options(key="ticket-42", budget=Budget(usd=0.50, tool_calls=20))
    """

    usd: Decimal | float | None = None
    tokens: int | None = None
    turns: int | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    wall: float | None = None
    on_exhausted: Literal["pause", "fail"] = "pause"

    def __post_init__(self) -> None:
        for name, value in self.limits().items():
            if not _is_positive(value):
                raise ConfigError(f"Budget({name}={value!r}): give a finite number above 0")
        if self.usd is not None:
            object.__setattr__(self, "usd", Decimal(str(self.usd)))
        if not self.limits():
            raise ConfigError(f"Budget(): give one of {', '.join(LIMITS)}")
        if self.on_exhausted not in ("pause", "fail"):
            raise ConfigError(f"on_exhausted={self.on_exhausted!r}; choose one of pause, fail")

    def limits(self) -> dict[str, Decimal | float | int]:
        """The limits that this budget sets, by name."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Json]:
        """The budget as the journal stores it. `from_json` reads it."""
        limits = {n: str(v) if n == "usd" else v for n, v in self.limits().items()}
        return {**limits, "on_exhausted": self.on_exhausted}

    @classmethod
    def from_json(cls, recorded: dict[str, Json]) -> Budget:
        """Read a stored budget. Fields that a newer version has added are ignored."""
        return cls(**{n: v for n, v in recorded.items() if n in {f.name for f in fields(cls)}})


@dataclass(frozen=True, slots=True)
class Spent:
    """How much of a budget is used, reservations included.

    ``turns``, ``model_calls`` and ``tool_calls`` do not count the call that is about to be made,
    nor its turn.
    """

    usd: Decimal = Decimal(0)
    tokens: int = 0
    turns: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    wall: float = 0.0
    open_usd: Decimal = Decimal(0)  # the part of ``usd`` that is reserved and not confirmed
    in_flight: bool = False  # a part is reserved for calls under way, which may cost less


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that one model call can use. Prices are US dollars, and None if not known."""

    input_tokens: int
    output_tokens: int = 0  # for each reply
    bounded: bool = True  # the request or the provider limits a reply to `output_tokens` already
    least: int = 0  # the smallest limit on a reply that the provider accepts
    replies: int = 1
    input_cost: Decimal | None = None
    output_price: Decimal | None = None  # for one token
    how: str = ""  # the price list and the estimator used

    def cost(self, written: int) -> Decimal | None:
        """The cost of the call if each reply has ``written`` tokens. None without a price."""
        if self.input_cost is None or self.output_price is None:
            return None
        return self.input_cost + self.output_price * written * self.replies


@dataclass(frozen=True, slots=True)
class Grant:
    """The call may be made. The fields say how much is reserved for it."""

    input_tokens: int
    output_tokens: int  # for all replies together
    cost: Decimal | None
    cap: int | None  # the limit for each reply that the request must set; None: none needed
    how: str = ""  # `how` of the quote

    @property
    def usage(self) -> Usage:
        """The reservation as the intent of the attempt records it."""
        return Usage(self.input_tokens, self.output_tokens, cost=self.cost, priced_by=self.how)


@dataclass(frozen=True, slots=True)
class BudgetRefusal:
    """The call may not be made. ``holder`` is the index of the budget that does not allow it."""

    holder: int
    limit: str  # the name of the limit
    reason: str  # how much of the limit is used, and how much the call may need
    suggested: dict[str, Json]  # a larger limit that allows the call, by name
    wait: bool = False  # the call may fit once calls under way have ended and cost less


def grant(budgets: Sequence[tuple[Budget, Spent]], quote: Quote) -> Grant | BudgetRefusal:
    """Decide about a model call. A grant fits into all of the budgets.

    If less is left than the replies may need, the grant limits the length of each reply.
    """
    written = quote.output_tokens
    for index, (budget, spent) in enumerate(budgets):
        if (limit := _reached_limit(budget, spent, quote)) is not None:
            wait = spent.in_flight and limit in ("usd", "tokens")
            reason = _describe_refusal(limit, budget, spent, quote)
            suggested = _suggest_for_model_call(limit, budget, spent, quote)
            return BudgetRefusal(index, limit, reason, suggested, wait)
        written = min([written, *_tokens_left(budget, spent, quote).values()])
    cap = None if written == quote.output_tokens and quote.bounded else written
    used = quote.input_tokens, written * quote.replies
    return Grant(*used, quote.cost(written), cap, quote.how)


def admit(budgets: Sequence[tuple[Budget, Spent]], wanted: int) -> tuple[int, BudgetRefusal | None]:
    """How many of ``wanted`` tool calls all budgets allow, and the refusal of the others."""
    allowed, refusal = wanted, None
    for index, (budget, spent) in enumerate(budgets):
        if budget.tool_calls is None:
            continue
        left = max(0, budget.tool_calls - spent.tool_calls)
        if left < allowed:
            allowed = left
            reason = _describe_usage("tool_calls", budget, spent)
            suggested = _suggest("tool_calls", budget, spent.tool_calls + wanted)
            refusal = BudgetRefusal(index, "tool_calls", reason, suggested)
    return allowed, refusal


def nearly_used(budget: Budget, spent: Spent) -> list[str]:
    """The limits that are used to 80 % or more, as text: ``"tokens: 900 of 1,000"``."""
    return [
        _describe_usage(name, budget, spent)
        for name, limit in budget.limits().items()
        if getattr(spent, name) >= WARN_AT * Decimal(str(limit))
    ]


def _reached_limit(budget: Budget, spent: Spent, quote: Quote) -> str | None:
    """The name of the first limit that does not allow the call. None if all do."""
    if budget.turns is not None and spent.turns >= budget.turns:
        return "turns"
    if budget.model_calls is not None and spent.model_calls >= budget.model_calls:
        return "model_calls"
    if budget.wall is not None and spent.wall >= budget.wall:
        return "wall"
    if budget.usd is not None and budget.tokens is None and quote.cost(0) is None:
        return "usd"
    enough = _shortest_reply(quote)
    rooms = _tokens_left(budget, spent, quote)
    return next((limit for limit, room in rooms.items() if room < enough), None)


def _shortest_reply(quote: Quote) -> int:
    """The tokens that each reply needs at least."""
    return max(quote.least, min(quote.output_tokens, MIN_REPLY))


def _suggest_for_model_call(
    limit: str, budget: Budget, spent: Spent, quote: Quote
) -> dict[str, Json]:
    """A larger limit that allows the model call which ``limit`` does not allow."""
    cost = quote.cost(_shortest_reply(quote))
    if limit == "usd" and cost is not None:
        return _suggest(limit, budget, spent.usd + cost)
    if limit in ("usd", "tokens"):  # without a price, a limit of tokens lets the call pass
        written = _shortest_reply(quote) * quote.replies
        return _suggest("tokens", budget, spent.tokens + quote.input_tokens + written)
    if limit == "wall":  # as much time again, since the clock goes on while the run is held
        return _suggest(limit, budget, Decimal(str(spent.wall)) + Decimal(str(budget.wall)))
    return _suggest(limit, budget, getattr(spent, limit) + 1)


def _suggest(limit: str, budget: Budget, needed: Decimal | int) -> dict[str, Json]:
    """Twice the limit or what is needed, whichever is more, rounded up to two digits."""
    old = budget.limits().get(limit)
    doubled = FIRST_TOKENS if old is None else Decimal(str(old)) * 2
    larger = max(doubled, Decimal(needed))
    unit = Decimal(1).scaleb(larger.adjusted() - 1)
    rounded = (larger / unit).to_integral_value(ROUND_CEILING) * unit
    return {limit: int(rounded) if rounded == int(rounded) else float(rounded)}


def _tokens_left(budget: Budget, spent: Spent, quote: Quote) -> dict[str, int]:
    """The tokens that each limit leaves for each reply. Below 0: not enough for the request."""
    rooms = {}
    least = quote.cost(0)
    if budget.usd is not None and least is not None:
        left = Decimal(budget.usd) - spent.usd - least
        price = (quote.output_price or Decimal(0)) * quote.replies
        affordable = floor(left / price) if price else quote.output_tokens
        rooms["usd"] = affordable if left >= 0 else -1
    if budget.tokens is not None:
        left_tokens = budget.tokens - spent.tokens - quote.input_tokens
        rooms["tokens"] = left_tokens // quote.replies
    return rooms


def _describe_refusal(limit: str, budget: Budget, spent: Spent, quote: Quote) -> str:
    """The reason of a refusal: how much of the limit is used, and how much the call may need."""
    used = _describe_usage(limit, budget, spent)
    if limit not in ("usd", "tokens"):
        return used
    cost = quote.cost(quote.output_tokens)
    if limit == "tokens":
        wanted = f"{quote.input_tokens + quote.output_tokens * quote.replies:,}"
    elif cost is None:
        return f"{used}, and the price of the model is not known: set a limit of tokens as well"
    else:
        wanted = _amount("usd", cost)
    open_ = f" ({_amount('usd', spent.open_usd)} of it not confirmed)" if spent.open_usd else ""
    return f"{used}{open_}, and it may take {wanted}"


def _describe_usage(limit: str, budget: Budget, spent: Spent) -> str:
    used, most = getattr(spent, limit), getattr(budget, limit)
    return f"{limit}: {_amount(limit, used)} of {_amount(limit, most)}"


def _amount(limit: str, amount: Decimal | float) -> str:
    return money(Decimal(amount)) if limit == "usd" else f"{amount:,.0f}"


def _is_positive(value: Json) -> bool:
    try:
        return 0 < Decimal(str(value)) < Decimal("Infinity")
    except ArithmeticError:  # no number, or NaN
        return False
