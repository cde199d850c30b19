"""How an amount of US dollars is written, for messages and for every viewer."""

from __future__ import annotations

from decimal import Decimal

__all__ = ["money"]


def money(amount: Decimal) -> str:
    """US dollars, with the four to six decimals that model calls need."""
    text = f"{amount:.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${int(whole):,}.{cents.ljust(2 if not cents or amount >= 100 else 4, '0')}"
