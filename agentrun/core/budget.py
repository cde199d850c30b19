"""What a run may spend: pure arithmetic over what is spent and what the next call may cost.

Before a model call its worst case is compared with what every budget above it has left; what is
granted is reserved, and stands until the provider has told what was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from math import floor
from typing import Literal

from agentrun.core.errors import ConfigError
from agentrun.core.events import Json, Usage

__all__ = ["Budget", "Grant", "Quote", "Refusal", "Spent", "grant", "nearly_used"]

LIMITS = ("usd", "tokens", "turns", "model_calls", "wall")
WARN_AT = Decimal("0.8")  # of a limit
WORTH_ASKING = 256  # tokens; for a shorter reply than this nobody is asked, unless they want less


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend in all, its children included; a field that is None is no limit.

    Args:
        usd: US dollars, by list price. A model without a known price is refused, unless
            ``tokens`` limits it too.
        tokens: of requests and replies together.
        turns: model calls with the tool calls that they asked for.
        model_calls: of any kind, embeddings too.
        wall: seconds since the run was created, waiting included.
        on_exhausted: ``pause`` into the inbox, where `agentrun approve` raises it, or ``fail``
            with LimitExceeded.

    Raises:
        ConfigError: a limit is not a number above 0, or none is given.
    """

    usd: Decimal | float | None = None
    tokens: int | None = None
    turns: int | None = None
    model_calls: int | None = None
    wall: float | None = None
    on_exhausted: Literal["pause", "fail"] = "pause"

    def __post_init__(self) -> None:
        for name, value in self.limits().items():
            if not _positive(value):
                raise ConfigError(f"Budget({name}={value!r}): give a finite number above 0")
        if self.usd is not None:
            object.__setattr__(self, "usd", Decimal(str(self.usd)))
        if not self.limits():
            raise ConfigError(f"Budget(): give one of {', '.join(LIMITS)}")
        if self.on_exhausted not in ("pause", "fail"):
            raise ConfigError(f"on_exhausted={self.on_exhausted!r}; choose one of pause, fail")

    def limits(self) -> dict[str, Decimal | float | int]:
        """The limits that are given, by name."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Json]:
        """As it is recorded; `from_json` is the way back."""
        limits = {n: str(v) if n == "usd" else v for n, v in self.limits().items()}
        return {**limits, "on_exhausted": self.on_exhausted}

    @classmethod
    def from_json(cls, recorded: dict[str, Json]) -> Budget:
        """The budget that was recorded; fields of a newer version are left out."""
        return cls(**{n: v for n, v in recorded.items() if n in {f.name for f in fields(cls)}})


@dataclass(frozen=True, slots=True)
class Spent:
    """What has been used of a budget, reservations included.

    ``turns`` and ``model_calls`` count those that the next call is no part of.
    """

    usd: Decimal = Decimal(0)
    tokens: int = 0
    turns: int = 0
    model_calls: int = 0
    wall: float = 0.0
    open_usd: Decimal = Decimal(0)  # of ``usd``: reserved, not confirmed
    in_flight: bool = False  # some of it by calls under way now, which may cost less


@dataclass(frozen=True, slots=True)
class Quote:
    """What one call may use at most. Prices are US dollars; None where the model has no price."""

    input_tokens: int
    output_tokens: int = 0  # of each reply
    bounded: bool = True  # request or provider see to that; else the request must be told
    least: int = 0  # the smallest limit on a reply that the provider takes
    replies: int = 1
    input_cost: Decimal | None = None
    output_price: Decimal | None = None  # of one token
    how: str = ""  # who says so: price list and estimator

    def cost(self, written: int) -> Decimal | None:
        """Of the call, should each reply have so many tokens."""
        if self.input_cost is None or self.output_price is None:
            return None
        return self.input_cost + self.output_price * written * self.replies


@dataclass(frozen=True, slots=True)
class Grant:
    """The call may be made, and this much is reserved for it."""

    input_tokens: int
    output_tokens: int  # of all replies
    cost: Decimal | None
    cap: int | None  # of each reply, which the request must be told; None: it need not be
    how: str = ""  # as of the quote

    @property
    def usage(self) -> Usage:
        """As it is recorded with the intent."""
        return Usage(self.input_tokens, self.output_tokens, cost=self.cost, priced_by=self.how)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The call may not be made: ``holder`` is the index of the budget that does not allow it."""

    holder: int
    limit: str  # which one, by name
    reason: str  # what is spent of it, and what the call may take
    wait: bool = False  # calls under way may leave room for it


def grant(budgets: Sequence[tuple[Budget, Spent]], quote: Quote) -> Grant | Refusal:
    """What all of the budgets allow of a call."""
    written = quote.output_tokens
    for index, (budget, spent) in enumerate(budgets):
        if (limit := _reached(budget, spent, quote)) is not None:
            wait = spent.in_flight and limit in ("usd", "tokens")
            return Refusal(index, limit, _told(limit, budget, spent, quote), wait)
        written = min([written, *_rooms(budget, spent, quote).values()])
    cap = None if written == quote.output_tokens and quote.bounded else written
    used = quote.input_tokens, written * quote.replies
    return Grant(*used, quote.cost(written), cap, quote.how)


def nearly_used(budget: Budget, spent: Spent) -> list[str]:
    """Of the limits that are used to 80 % or more, how far: ``"tokens: 900 of 1,000"``."""
    return [
        _of(name, budget, spent)
        for name, limit in budget.limits().items()
        if getattr(spent, name) >= WARN_AT * Decimal(str(limit))
    ]


def _reached(budget: Budget, spent: Spent, quote: Quote) -> str | None:
    """The limit that does not allow the call, by name."""
    if budget.turns is not None and spent.turns >= budget.turns:
        return "turns"
    if budget.model_calls is not None and spent.model_calls >= budget.model_calls:
        return "model_calls"
    if budget.wall is not None and spent.wall >= budget.wall:
        return "wall"
    if budget.usd is not None and budget.tokens is None and quote.cost(0) is None:
        return "usd"
    enough = max(quote.least, min(quote.output_tokens, WORTH_ASKING))
    rooms = _rooms(budget, spent, quote)
    return next((limit for limit, room in rooms.items() if room < enough), None)


def _rooms(budget: Budget, spent: Spent, quote: Quote) -> dict[str, int]:
    """The most tokens that each limit leaves each reply; below 0: not even the request."""
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


def _told(limit: str, budget: Budget, spent: Spent, quote: Quote) -> str:
    """What is spent of a limit, and what the next call may take of it."""
    used = _of(limit, budget, spent)
    if limit not in ("usd", "tokens"):
        return used
    cost = quote.cost(quote.output_tokens)
    if limit == "tokens":
        wanted = f"{quote.input_tokens + quote.output_tokens * quote.replies:,}"
    elif cost is None:
        return f"{used}, and the price of the model is not known: only tokens can hold it"
    else:
        wanted = _amount("usd", cost)
    open_ = f" ({_amount('usd', spent.open_usd)} of it not confirmed)" if spent.open_usd else ""
    return f"{used}{open_}, and it may take {wanted}"


def _of(limit: str, budget: Budget, spent: Spent) -> str:
    used, most = getattr(spent, limit), getattr(budget, limit)
    return f"{limit}: {_amount(limit, used)} of {_amount(limit, most)}"


def _amount(limit: str, amount: Decimal | float) -> str:
    if limit != "usd":
        return f"{amount:,.0f}"
    text = f"{amount:,.4f}"
    return "$" + (text[:-2] if text.endswith("00") else text)


def _positive(value: Json) -> bool:
    try:
        return 0 < Decimal(str(value)) < Decimal("Infinity")
    except ArithmeticError:  # no number, or NaN
        return False
