"""The outside world of the demo: a model, a shop, a mail server and a carrier.

Each keeps its own ledger. The doubles run in their own processes, so they outlive the killed agent;
the shop is two tables in the same database. The numbers that the demo prints at its end come from
these ledgers, and not from agentrun's journal.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

import agentrun
from agentrun.bundled import resource
from agentrun.testing import Call, Carrier, Provider, Reply, SmtpSink

__all__ = ["Provided", "World", "open_world"]

CENTS, BROKEN_CENTS = 4800, 2400
ADDRESS = "5 Kiln Lane, Stoke"
EMAIL = "jo@example.com"
ROOT = Path(agentrun.__file__).parents[1]  # from here the agent's process imports agentrun


@dataclass(frozen=True)
class Provided:
    """A real provider that is used in place of the double."""

    base_url: str | None
    model: str


@dataclass(frozen=True)
class World:
    """The places where the agent acts, and the order that the customer writes about."""

    dsn: str
    order_id: str
    carrier: Carrier
    smtp: SmtpSink
    provider: Provider | None  # None if a real provider is used
    model: str
    base_url: str | None

    @property
    def message(self) -> str:
        """The customer's message."""
        return (
            f"Order {self.order_id}: one of the two mugs came in pieces. "
            "Please refund that one and have it fetched."
        )

    def environment(self) -> dict[str, str]:
        """The environment of a process that runs the agent; it names the places of this world."""
        own = {
            "AGENTRUN_DATABASE_URL": self.dsn,
            "SHOP_DATABASE_URL": self.dsn,
            "SMTP_HOST": self.smtp.host,
            "SMTP_PORT": str(self.smtp.port),
            "CARRIER_URL": self.carrier.url,
            # In lower case, which clients prefer to upper case.
            "no_proxy": _join_optional(
                "127.0.0.1", os.environ.get("no_proxy", os.environ.get("NO_PROXY")), ","
            ),
            "PYTHONPATH": _join_optional(str(ROOT), os.environ.get("PYTHONPATH"), os.pathsep),
        }
        if self.provider is not None:
            own["OPENAI_API_KEY"] = "double"
        if self.base_url is not None:
            own["OPENAI_BASE_URL"] = self.base_url
            # A local server needs no key, but the SDK does.
            own.setdefault("OPENAI_API_KEY", os.environ.get("OPENAI_API_KEY") or "none")
        return {**os.environ, **own}

    def refunds(self) -> list[int]:
        """The refunds of the order, in cents."""
        query = "SELECT cents FROM agentrun_demo.refunds WHERE order_id = %s ORDER BY id"
        with psycopg.connect(self.dsn) as shop:
            return [cents for (cents,) in shop.execute(query, [self.order_id])]


@contextlib.contextmanager
def open_world(dsn: str, provided: Provided | None) -> Iterator[World]:
    """Start the doubles and place the order; all doubles end with the ``with`` block.

    Raises ConfigError if the login may not create the shop's tables.
    """
    order_id = f"A-{secrets.randbelow(9000) + 1000}-{secrets.token_hex(2)}"
    try:
        _place_order(dsn, order_id)
    except psycopg.errors.InsufficientPrivilege as error:
        raise agentrun.ConfigError(
            "the demo keeps its orders in a schema agentrun_demo of the same database, and this "
            f"login may not use or create that schema: {error}. Without AGENTRUN_DATABASE_URL the "
            "demo runs on a Postgres of its own."
        ) from error
    with contextlib.ExitStack() as stack:
        carrier = stack.enter_context(Carrier())
        smtp = stack.enter_context(SmtpSink())
        provider = None
        if provided is None:
            provider = stack.enter_context(Provider(script=_script(order_id)))
        yield World(
            dsn,
            order_id,
            carrier,
            smtp,
            provider,
            model=provided.model if provided else "gpt-5-mini",
            base_url=provider.base_url if provider else provided.base_url if provided else None,
        )


def _join_optional(first: str, others: str | None, between: str) -> str:
    return f"{first}{between}{others}" if others else first


def _place_order(dsn: str, order_id: str) -> None:
    order = (order_id, "Jo Clay", EMAIL, ADDRESS, "2 mugs, 24.00 each", CENTS)
    with psycopg.connect(dsn) as shop:
        # If two demos run at once, only one may create the schema.
        shop.execute("SELECT pg_advisory_xact_lock(hashtext('agentrun demo'))")
        shop.execute(resource("tools", "shop.sql").read_bytes())
        shop.execute("INSERT INTO agentrun_demo.orders VALUES (%s, %s, %s, %s, %s, %s)", order)


def _script(order_id: str) -> list[Reply]:
    """The replies of the model's double, by turn."""
    mail = {
        "to": EMAIL,
        "subject": "Your broken mug",
        "body": "Dear Jo, we have refunded 24.00 for the broken mug. A van fetches it tomorrow "
        f"between 9 and 12 at {ADDRESS}. We are sorry.",
    }
    return [
        Reply("Let me look at the order.", [Call("look_up_order", {"order_id": order_id})]),
        Reply(
            "One of two mugs at 24.00 is broken: I refund that one, have it fetched and write "
            "to the customer.",
            [
                Call("refund_order", {"order_id": order_id, "cents": BROKEN_CENTS}),
                Call("book_pickup", {"order_id": order_id, "address": ADDRESS}),
                Call("send_email", mail),
            ],
        ),
        Reply("Refunded 24.00, booked a van for tomorrow, and told Jo so."),
    ]
