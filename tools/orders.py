"""Orders of the shop: looking one up (`read`), and refunding it (`transaction`).

The refund is exactly once because agentrun commits it together with the record that it was made.
That takes one database: the shop's tables and agentrun's journal live side by side, and the tool
does nothing but SQL on the connection it is lent. The tables are in ``shop.sql``.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg
from psycopg.rows import dict_row

import agentrun

__all__ = ["look_up_order", "refund_order"]


@agentrun.tool(effect="read")
def look_up_order(order_id: str) -> dict[str, Any]:
    """Look up an order: customer, e-mail, address, items, and what was paid and refunded.

    Args:
        order_id: the order's number, as the customer gives it
    """
    with (
        psycopg.connect(os.environ["SHOP_DATABASE_URL"]) as shop,
        shop.cursor(row_factory=dict_row) as rows,
    ):
        order = rows.execute(
            """SELECT o.*, coalesce(sum(r.cents), 0)::int AS refunded_cents
               FROM agentrun_demo.orders o LEFT JOIN agentrun_demo.refunds r ON r.order_id = o.id
               WHERE o.id = %s GROUP BY o.id""",
            [order_id],
        ).fetchone()
    if order is None:
        raise agentrun.ToolFailed(f"there is no order {order_id!r}")
    return order


@agentrun.tool(effect="transaction")
def refund_order(order_id: str, cents: int) -> dict[str, Any]:
    """Refund an order, or a part of it, to the customer's means of payment.

    Args:
        order_id: the order's number
        cents: how much to refund, in cents
    """
    shop = agentrun.current_step().connection
    order = shop.execute(
        "SELECT cents FROM agentrun_demo.orders WHERE id = %s FOR UPDATE", [order_id]
    ).fetchone()
    if order is None:
        raise agentrun.ToolFailed(f"there is no order {order_id!r}")
    (refunded,) = shop.execute(
        "SELECT coalesce(sum(cents), 0)::int FROM agentrun_demo.refunds WHERE order_id = %s",
        [order_id],
    ).fetchone()
    if not 0 < cents <= order[0] - refunded:
        raise agentrun.ToolFailed(f"between 1 and {order[0] - refunded} cents can be refunded")
    shop.execute(
        "INSERT INTO agentrun_demo.refunds (order_id, cents) VALUES (%s, %s)", [order_id, cents]
    )
    return {"order_id": order_id, "refunded_cents": cents}
