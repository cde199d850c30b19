"""Booking a pick-up at a carrier (`once`, with a reconcile function).

The carrier books a van for every request it gets, so a request is never repeated on a guess. Our
idempotency key goes along as the booking's reference. After a crash agentrun has `find_pickup`
ask the carrier whether it knows that reference, and records the answer as a decision.
"""

from __future__ import annotations

import os
from typing import Any

import httpx

import agentrun

__all__ = ["book_pickup", "find_pickup"]


def find_pickup(key: str, order_id: str, address: str) -> agentrun.Happened | agentrun.NotHappened:
    """Whether the carrier has booked what was asked for under this key."""
    answer = httpx.get(_pickups(), params={"reference": key}, timeout=30).raise_for_status()
    booked = answer.json()["pickups"]
    return agentrun.Happened(booked[0]) if booked else agentrun.NotHappened()


@agentrun.tool(effect="once", reconcile=find_pickup)
def book_pickup(order_id: str, address: str) -> dict[str, Any]:
    """Have a carrier fetch a parcel tomorrow between 9 and 12.

    Args:
        order_id: the order it belongs to
        address: where to fetch it
    """
    booking = {"reference": agentrun.current_step().key, "order": order_id, "address": address}
    try:
        answer = httpx.post(_pickups(), json=booking, timeout=30)
    except httpx.TransportError as error:
        raise agentrun.ToolTimeout(f"the carrier did not answer: {error}") from error
    if answer.is_server_error:  # like silence, not a no: in doubt, so `find_pickup` is asked
        raise agentrun.ToolTimeout(f"the carrier answered {answer.status_code}")
    if answer.is_client_error:
        raise agentrun.ToolFailed(f"the carrier refused: {answer.text}")
    booked: dict[str, Any] = answer.json()
    return booked


def _pickups() -> str:
    return f"{os.environ['CARRIER_URL']}/pickups"
