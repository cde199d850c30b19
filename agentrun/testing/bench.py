"""What every double has in its process: a ledger, armed faults, counters and a gate.

An `Exchange` is one request on its way through the moments of `faults`. The bench is told of
each moment it reaches, so that a test can wait for exactly that and kill a client there,
without a sleep. Nothing here knows HTTP or SMTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from agentrun.testing.faults import Armed, Fault, Moment
from agentrun.testing.ledger import LastEvent, Ledger

__all__ = ["Bench", "Broken", "Ended", "Exchange", "Refused"]


class Broken(Exception):
    """The exchange is over and its connection is to be closed."""


class Ended(Exception):
    """The answer is to end here, properly framed."""


class Refused(Exception):
    """The request is to be answered with an error; it has no effect."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"fault: answered {fault.code}")
        self.fault = fault


class Bench:
    """The shared state of one double; lives in its event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.armed = Armed()
        self.counts: Counter[str] = Counter()
        self.touched = time.monotonic()
        self._changed = asyncio.Event()
        self._released = asyncio.Event()

    def open(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], gone: asyncio.Event
    ) -> Exchange:
        """Begin an exchange: ``request`` is noted, ``facts`` decide which faults it meets."""
        return Exchange(self, self.ledger.received(request), self.armed.strike(facts), gone)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter and wake who waits for one."""
        self.counts[what] += by
        self.touched = time.monotonic()
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, what: str, count: int, timeout: float) -> bool:
        """Wait until a counter has reached ``count``; false after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.counts[what] < count:
                    await self._changed.wait()
        return self.counts[what] >= count

    def release(self) -> None:
        """Let every request that is held now go on."""
        self._released.set()
        self._released = asyncio.Event()

    async def hold(self, gone: asyncio.Event) -> None:
        """Wait for the release, or for the client to be gone."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._released, gone)]
        self.count("held")
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.count("held", -1)
            for wait in waits:
                wait.cancel()


class Exchange:
    """One request and its answer."""

    def __init__(
        self, bench: Bench, request_id: str, faults: tuple[Fault, ...], gone: asyncio.Event
    ) -> None:
        self.id = request_id
        self.faults = faults
        self._bench = bench
        self._gone = gone
        self._took_effect = False

    async def received(self) -> None:
        """The request was read."""
        self._bench.count("received")
        await self._reach("received")
        for fault in self.faults:
            if fault.action == "error":
                raise Refused(fault)

    async def effect(self, facts: Mapping[str, Any]) -> None:
        """The request takes effect: recorded first, then open to faults."""
        self._bench.ledger.effect(self.id, facts)
        self._took_effect = True
        self._bench.count("effect")
        await self._reach("effect")

    async def sent(self, chunks: int, of: int) -> None:
        """So many of all the chunks are out. Does not yield unless a fault strikes."""
        if chunks:
            self._bench.count("chunk")
        await self._reach(chunks, of)

    def delivered(self) -> None:
        """Every byte is out."""
        self._end("delivered", "")

    def refused(self, reason: str) -> None:
        """Answered with an error, without an effect."""
        self._end("refused", reason)

    def broken(self, reason: str) -> None:
        """The answer did not get out whole: a lost answer if it took effect, else a refusal."""
        self._end("aborted" if self._took_effect else "refused", reason)

    async def pause(self, seconds: float) -> None:
        """Wait, unless the client goes; a client that is gone breaks the exchange."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)
        if self._gone.is_set():
            raise Broken("the client is gone")

    async def _reach(self, moment: Moment, of: int = 0) -> None:
        for fault in self.faults:
            if _strikes(fault.at, moment, of):
                await self._suffer(fault)

    async def _suffer(self, fault: Fault) -> None:
        if fault.action == "drop":
            raise Broken(f"fault: dropped at {fault.at}")
        if fault.action == "end":
            raise Ended(f"fault: ended at {fault.at}")
        if fault.action == "hold":
            await self._bench.hold(self._gone)
            await self.pause(0)
        if fault.action == "stall":
            await self.pause(fault.seconds)

    def _end(self, event: LastEvent, reason: str) -> None:
        self._bench.ledger.ended(event, self.id, reason)
        self._bench.count(event)


def _strikes(at: Moment, moment: Moment, of: int) -> bool:
    if isinstance(at, int) and isinstance(moment, int) and at < 0:
        return at == moment - of
    return at == moment
