"""The state that every double has in its process: a ledger, armed faults, counters and a gate.

An `Exchange` is one request on its way through the moments that `faults` lists. It counts each
moment that it reaches in the `DoubleState`, so that a test can wait for exactly that moment and
kill a client there, without a sleep. This module is independent of HTTP and SMTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from agentrun.testing.faults import ArmedFaults, Fault, Moment
from agentrun.testing.ledger import LastEvent, Ledger

__all__ = ["BrokenExchange", "DoubleState", "EndedAnswer", "Exchange", "RefusedRequest"]


class BrokenExchange(Exception):
    """The exchange is over and its connection is to be closed."""


class EndedAnswer(Exception):
    """The answer is to end here, properly framed."""


class RefusedRequest(Exception):
    """The request is to be answered with an error; it has no effect."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"fault: answered {fault.code}")
        self.fault = fault


class DoubleState:
    """The shared state of one double; lives in its event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.armed = ArmedFaults()
        self.counts: Counter[str] = Counter()
        self.touched = time.monotonic()
        self._changed = asyncio.Event()
        self._released = asyncio.Event()

    def open(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], disconnected: asyncio.Event
    ) -> Exchange:
        """Begin an exchange: record ``request``, and choose the faults that match ``facts``."""
        return Exchange(
            self, self.ledger.record_request(request), self.armed.faults_for(facts), disconnected
        )

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter, and wake every `wait_until`."""
        self.counts[what] += by
        self.touched = time.monotonic()
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_until(self, what: str, count: int, timeout: float) -> bool:
        """Wait until a counter has reached ``count``; return false after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.counts[what] < count:
                    await self._changed.wait()
        return self.counts[what] >= count

    def release(self) -> None:
        """Let every request that is held now continue."""
        self._released.set()
        self._released = asyncio.Event()

    async def hold(self, disconnected: asyncio.Event) -> None:
        """Wait until the request is released or the client has disconnected."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._released, disconnected)]
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
        self,
        state: DoubleState,
        request_id: str,
        faults: tuple[Fault, ...],
        disconnected: asyncio.Event,
    ) -> None:
        self.id = request_id
        self.faults = faults
        self._state = state
        self._disconnected = disconnected
        self._took_effect = False

    async def reach_received(self) -> None:
        """Reach ``"received"``: the request was read."""
        self._state.count("received")
        await self._reach("received")
        for fault in self.faults:
            if fault.action == "error":
                raise RefusedRequest(fault)

    async def reach_effect(self, facts: Mapping[str, Any]) -> None:
        """Reach ``"effect"``: the ledger records the effect, then faults may strike."""
        self._state.ledger.record_effect(self.id, facts)
        self._took_effect = True
        self._state.count("effect")
        await self._reach("effect")

    async def reach_sent(self, chunks: int, of: int) -> None:
        """Reach chunk number ``chunks`` ``of`` all. Does not yield unless a fault strikes."""
        if chunks:
            self._state.count("chunk")
        await self._reach(chunks, of)

    def mark_delivered(self) -> None:
        """Record that every byte of the answer was sent."""
        self._end("delivered", "")

    def mark_refused(self, reason: str) -> None:
        """Record that the request was answered with an error and had no effect."""
        self._end("refused", reason)

    def mark_broken(self, reason: str) -> None:
        """Record that the answer was not sent whole: aborted if it had an effect, else refused."""
        self._end("aborted" if self._took_effect else "refused", reason)

    async def pause(self, seconds: float) -> None:
        """Wait so many seconds. Raise BrokenExchange if the client disconnects meanwhile."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._disconnected.wait(), seconds)
        if self._disconnected.is_set():
            raise BrokenExchange("the client has disconnected")

    async def _reach(self, moment: Moment, of: int = 0) -> None:
        for fault in self.faults:
            if _strikes(fault.at, moment, of):
                await self._suffer(fault)

    async def _suffer(self, fault: Fault) -> None:
        if fault.action == "drop":
            raise BrokenExchange(f"fault: dropped at {fault.at}")
        if fault.action == "end":
            raise EndedAnswer(f"fault: ended at {fault.at}")
        if fault.action == "hold":
            await self._state.hold(self._disconnected)
            await self.pause(0)
        if fault.action == "stall":
            await self.pause(fault.seconds)

    def _end(self, event: LastEvent, reason: str) -> None:
        self._state.ledger.record_end(event, self.id, reason)
        self._state.count(event)


def _strikes(at: Moment, moment: Moment, of: int) -> bool:
    if isinstance(at, int) and isinstance(moment, int) and at < 0:
        return at == moment - of
    return at == moment
