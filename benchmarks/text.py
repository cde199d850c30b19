"""What a conversation brings: text that cannot be compressed away, and English prose that can."""

from __future__ import annotations

import base64
import random
from functools import cache
from pydoc_data.topics import topics

from benchmarks import sizes


def new_text(turn: int) -> str:
    """`TURN_BYTES` characters at random, the same for the same turn."""
    data = random.Random(turn).randbytes(sizes.TURN_BYTES)
    return base64.b64encode(data).decode()[: sizes.TURN_BYTES]


def prose(turn: int) -> str:
    """As many of the manual of Python, which every Python has; another piece for another turn."""
    manual = _manual()
    start = turn * 2311 % (len(manual) - sizes.TURN_BYTES)
    return manual[start : start + sizes.TURN_BYTES]


@cache
def _manual() -> str:
    return "".join(topics.values()).encode("ascii", "ignore").decode()
