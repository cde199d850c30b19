"""What the tools of the frameworks' agents do. They act in the folder OUTSIDE.

`look` reads. `act` writes a file named by the key, so that a repetition with the same key does no
harm.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import agentrun

KEY = "k"  # of the models; nobody checks it


def models_url() -> str:
    """Where the models are; a crash test sends the calls to its own double in any case."""
    return os.environ.get("MODELS_URL", "https://models.invalid/v1")


def look(order: str) -> str:
    return f"order {order} is ready"


def act(order: str) -> str:
    """Act once for each key, however often it is called with that key."""
    return keep_file(order, agentrun.current_step().key)


def keep_file(order: str, key: str) -> str:
    outside = Path(os.environ["OUTSIDE"])
    (outside / f"{key}.kept").write_text(order)
    if (outside / f"die at {order}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return f"kept {order}"


def kept() -> list[str]:
    """The orders that were kept, each once for each key."""
    return sorted(path.read_text() for path in Path(os.environ["OUTSIDE"]).glob("*.kept"))
