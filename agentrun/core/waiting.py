"""Requests that wait for a person, and the list of them that people see."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from agentrun.core.budget import LIMITS
from agentrun.core.events import Effect, Json
from agentrun.core.viewable import Viewable

__all__ = ["Inbox", "Waiting", "suggested_limits"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request that waits for a person, as `inbox` returns it.

    The command `agentrun inbox` and the view `inbox` list the same requests.

    Example:
        >>> for waiting in agentrun.inbox():
        ...     print(waiting.key, waiting.step, waiting.waits_for, waiting.name, waiting.args)
    """

    key: str
    agent: str
    step: int | None  # the number for `approve`, `reject`, `resolve`; None: the run as a whole
    # "doubt": resolve it. "decision": approve or reject it, or see the reason. "divergence": the
    # code asks for another step than this one; the reason lists the ways on and their prices.
    waits_for: str
    name: str | None  # of the tool
    effect: Effect | None
    attempt: int | None
    args: Json  # the arguments of the call
    idempotency_key: str | None
    reason: str
    since: datetime
    fingerprint: str | None  # of the exact request; None: no letter can answer it
    masked: Json = None  # how many values in the arguments are masked, by kind
    # A larger limit that allows the next call, as {"usd": 2}. None: it is not about a budget.
    suggested_budget: Json = None


def suggested_limits(suggested_budget: Json) -> str:
    """A suggested budget as arguments, ``usd=2``; empty if the request is not about a budget.

    The text may be copied into a shell or a program, so only names and numbers are in it.
    """
    limits = suggested_budget if isinstance(suggested_budget, dict) else {}
    return ", ".join(
        f"{name}={Decimal(str(value)):f}" for name, value in limits.items()
        if name in LIMITS and isinstance(value, int | float) and not isinstance(value, bool)
    )  # fmt: skip


class Inbox(Viewable, list[Waiting]):
    """The requests that `inbox` found, the oldest first.

    It prints each request with the calls that decide it, and is a card for each in a notebook.

    Example:
        >>> print(agentrun.inbox())   # a call names the request that you see, and no later one
    """

    form = "inbox"

    def __repr__(self) -> str:
        return f"<Inbox of {len(self)} requests>"
