"""Text that cannot be compressed away: words in an order that never comes again."""

from __future__ import annotations

import base64
import random

from benchmarks import sizes


def new_text(turn: int) -> str:
    """`TURN_BYTES` characters, the same for the same turn."""
    data = random.Random(turn).randbytes(sizes.TURN_BYTES)
    return base64.b64encode(data).decode()[: sizes.TURN_BYTES]
