"""The process of the carrier double: an API that books pick-ups, without idempotency.

Every ``POST /pickups`` that takes effect books another van. ``GET /pickups?reference=…`` lists the
bookings of a reference; a reconcile function can call it.
"""

from __future__ import annotations

from typing import Any

from agentrun.testing.double_base import DoubleState
from agentrun.testing.server import run
from agentrun.testing.wire import HttpAnswer, HttpRequest, json_answer

__all__ = ["CarrierService"]

FIRST_PICKUP = 1001


class CarrierService:
    """Keeps no state but its ledger, so a booking survives a restart of the double."""

    keeps_text = False

    def configure(self, settings: dict[str, Any]) -> None:
        """Refuse settings: a carrier has none."""
        raise ValueError("a carrier has no settings")

    def describe(self, request: HttpRequest) -> dict[str, Any]:
        """Method, path, and the body as text."""
        text = request.body.decode("utf-8", "replace")
        return {
            "method": request.method,
            "path": request.path,
            "content": text,
            "conversation": text,
        }

    def answer(self, request: HttpRequest, state: DoubleState) -> HttpAnswer:
        """Book a pick-up, or list bookings."""
        match request.method, request.path:
            case "POST", "/pickups":
                return _book(request.content(), state.ledger.effects)
            case "GET", "/pickups":
                wanted = request.query.get("reference")
                found = [
                    pickup
                    for pickup in state.ledger.effects
                    if wanted is None or pickup["reference"] == wanted
                ]
                return json_answer({"pickups": found})
            case method, path:
                return json_answer({"error": f"no {method} {path}"}, 404)

    def refuse(self, request: HttpRequest, code: int, headers: dict[str, str]) -> HttpAnswer:
        """An error answer."""
        return json_answer(
            {"error": f"the carrier double was armed to answer {code}"}, code, headers
        )


def _book(body: Any, booked: list[dict[str, Any]]) -> HttpAnswer:
    if not isinstance(body, dict) or not isinstance(body.get("reference"), str):
        return json_answer({"error": "a pick-up needs a JSON object with a `reference`"}, 400)
    pickup = {**body, "id": f"PU-{FIRST_PICKUP + len(booked)}", "status": "booked"}
    return json_answer(pickup, 201, effect=pickup)


if __name__ == "__main__":
    run(CarrierService(), description=__doc__)
