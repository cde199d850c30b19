"""What the tests of the command line share: an agent's file, and the types of their fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]
Write = Callable[..., Path]

APP = """
import os
import agentrun

@agentrun.tool(effect="once")
def pay(cents: int) -> dict:
    if os.environ.get("DIE"):
        os._exit(9)
    return {"paid": cents}

@agentrun.agent
def payer(cents: int, note: str = "-") -> dict:
    print("paying")
    return {**pay(cents), "note": note}

if __name__ == "__main__":
    raise SystemExit("executed as a script")
"""
