"""The outside of the bundled support agent, for `agentrun crashtest --world`: shop, mail, carrier.

The doubles end with the process that imports this. Each run finds the shop as it was.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg

from agentrun.bundled import resource
from agentrun.testing import Carrier, SmtpSink

ORDER = ("A-1", "Jo Clay", "jo@example.com", "5 Kiln Lane", "2 mugs, 24.00 each", 4800)

carrier, smtp = Carrier().start(), SmtpSink().start()
os.environ.update(
    SHOP_DATABASE_URL=os.environ["AGENTRUN_DATABASE_URL"],
    CARRIER_URL=carrier.url,
    SMTP_HOST=smtp.host,
    SMTP_PORT=str(smtp.port),
)


def world() -> Any:
    """Open the shop with one order and no refund; returns how the outside is told."""
    with psycopg.connect(os.environ["SHOP_DATABASE_URL"]) as shop:
        shop.execute(resource("tools", "shop.sql").read_bytes())
        shop.execute("TRUNCATE agentrun_demo.refunds, agentrun_demo.orders")
        shop.execute("INSERT INTO agentrun_demo.orders VALUES (%s, %s, %s, %s, %s, %s)", ORDER)
    return state


def state() -> dict[str, int]:
    """Vans and mails, those with the same Message-ID as one."""
    return {"vans": len(carrier.pickups()), "mails": smtp.distinct()}
