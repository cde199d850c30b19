"""Agents on both sides of MCP: what a server offers, and a client that calls it in a run.

A tool acts in the folder OUTSIDE: it writes a file named by its key. A file ``die`` there makes
it kill its process, once the run that the file names has recorded that its call is a task. A file
``wait`` makes it wait until the file is removed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import mcp
import mcp.types

import agentrun
from agentrun.integrations import mcp_server
from agentrun.integrations.mcp import Tasks, durable


def outside() -> Path:
    return Path(os.environ["OUTSIDE"])


@agentrun.tool(effect="idempotent", name="mcp_pack")
async def pack(order: str, idempotency_key: str = "") -> str:
    """Pack an order, once for each key."""
    (outside() / f"{idempotency_key}.packed").write_text(order)
    if (outside() / "die").exists():
        await _call_is_recorded((outside() / "die").read_text())
        os.kill(os.getpid(), signal.SIGKILL)
    while (outside() / "wait").exists():
        await asyncio.sleep(0.02)
    return f"packed {order}"


async def _call_is_recorded(key: str) -> None:
    """Wait until the run ``key``, if one is named, has recorded its call; 30 seconds at most."""
    deadline = time.monotonic() + 30
    while key and time.monotonic() < deadline:
        steps = (await agentrun.atranscript(key)).steps
        if any(step.name == "mcp_packer" and step.status == "ok" for step in steps):
            return
        await asyncio.sleep(0.02)


@agentrun.tool(approve=True, name="mcp_pay")
def pay(cents: int) -> dict[str, int]:
    """Pay, if a person approves it."""
    return {"paid": cents}


@agentrun.agent(name="mcp_packer")
async def packer(order: str) -> str:
    """Pack an order.

    Args:
        order: the number of the order.
    """
    if order == "none":
        raise ValueError("there is no such order")
    return await pack(order)


@agentrun.agent(name="mcp_payer")
def payer(cents: int) -> dict[str, int]:
    """Pay some cents."""
    return pay(cents)


def packed() -> list[str]:
    """The orders that were packed, each as often as it was packed under a key of its own."""
    return sorted(file.read_text() for file in outside().glob("*.packed"))


async def approve(context: Any, params: mcp.types.ElicitRequestParams) -> mcp.types.ElicitResult:
    """The person at the client, who approves everything and notes what was asked."""
    with (outside() / "asked").open("a") as file:
        file.write(f"{params.message}\n")
    return mcp.types.ElicitResult(action="accept", content={"decision": "approve"})


def connect(**options: Any) -> mcp.Client:
    """A client of the server at URL, or else of one in this process, for which others work."""
    here = mcp_server.make_server([packer, payer], answers=True, worker=False)
    at: Any = os.environ.get("URL") or here
    return mcp.Client(at, extensions=[Tasks()], **options)


@agentrun.agent(name="mcp_customer")
async def customer(*, orders: list[str]) -> list[str]:
    """Has orders packed, one after the other."""
    async with connect() as shop:
        durable(shop)
        results = [await shop.call_tool("mcp_packer", {"order": order}) for order in orders]
        return [result.content[0].text for result in results]  # type: ignore[union-attr]


@agentrun.agent(name="mcp_cashier")
async def cashier() -> Any:
    """Pays by a server that asks the person at this client."""
    async with connect(elicitation_callback=approve) as shop:
        result = await durable(shop).call_tool("mcp_payer", {"cents": 5})
        return result.structured_content
