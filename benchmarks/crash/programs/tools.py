"""What the tools of every program do, and what a program is started with. Not counted as edits."""

import json
import os
import urllib.request

QUESTION = "Order 7 arrived broken. Please refund it."
KEY = "ticket-7"  # of the run, in whatever way a framework names its runs
MODEL = "gpt-5-mini"
DSN = os.environ["DATABASE_URL"]


def find_order(order_id: str) -> str:
    """Find an order."""
    return _post("orders", {"order_id": order_id})


def refund(order_id: str, cents: int, key: str | None = None) -> str:
    """Refund an order."""
    return _post("refunds", {"order_id": order_id, "cents": cents}, key)


def send_mail(order_id: str, text: str) -> str:
    """Write to the customer."""
    return _post("mails", {"order_id": order_id, "text": text})


def _post(path: str, body: dict, key: str | None = None) -> str:
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    url = f"{os.environ['SHOP_URL']}/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
