"""The process of the carrier double: an API that books pick-ups, and books again if asked again.

``POST /pickups`` books one and is *not* idempotent: every request that takes effect is another
van. ``GET /pickups?reference=…`` looks them up, which is what a reconcile function can ask.
"""

from __future__ import annotations

from typing import Any

from agentrun.testing.bench import Bench
from agentrun.testing.server import run
from agentrun.testing.wire import Answer, Request, json_answer

__all__ = ["CarrierService"]

FIRST_PICKUP = 1001


class CarrierService:
    """Its ledger is its only state, so a booking survives the carrier itself."""

    def configure(self, settings: dict[str, Any]) -> None:
        """There is nothing to configure."""
        raise ValueError("a carrier has no settings")

    def describe(self, request: Request) -> dict[str, Any]:
        """Method, path, and the body as text."""
        text = request.body.decode("utf-8", "replace")
        return {
            "method": request.method,
            "path": request.path,
            "content": text,
            "conversation": text,
        }

    def answer(self, request: Request, bench: Bench) -> Answer:
        """Book, or look up."""
        match request.method, request.path:
            case "POST", "/pickups":
                return _book(request.content(), bench.ledger.effects)
            case "GET", "/pickups":
                wanted = request.query.get("reference")
                found = [
                    pickup
                    for pickup in bench.ledger.effects
                    if wanted is None or pickup["reference"] == wanted
                ]
                return json_answer({"pickups": found})
            case method, path:
                return json_answer({"error": f"no {method} {path}"}, 404)

    def refuse(self, request: Request, code: int, headers: dict[str, str]) -> Answer:
        """An error answer."""
        return json_answer(
            {"error": f"the carrier double was armed to answer {code}"}, code, headers
        )


def _book(body: Any, booked: list[dict[str, Any]]) -> Answer:
    if not isinstance(body, dict) or not isinstance(body.get("reference"), str):
        return json_answer({"error": "a pick-up needs a JSON object with a `reference`"}, 400)
    pickup = {**body, "id": f"PU-{FIRST_PICKUP + len(booked)}", "status": "booked"}
    return json_answer(pickup, 201, effect=pickup)


if __name__ == "__main__":
    run(CarrierService(), description=__doc__)
