"""Waiting, for sync and async callers alike."""

from __future__ import annotations

import asyncio
import time

from agentrun.core.flow import Op


def pause(seconds: float) -> Op[None]:
    """Wait ``seconds`` without holding up an event loop."""
    return Op(lambda: time.sleep(seconds), lambda: asyncio.sleep(seconds))
