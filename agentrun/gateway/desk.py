"""Which requests share a call, which are answered from the database, and the calls themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TypeVar

import httpx

from agentrun.core.log import logger
from agentrun.gateway.held import Head, Held, Refusal
from agentrun.gateway.upstream import Ask, headers_from, judged, not_sent
from agentrun.store.answers import Answers, Ending, Known, Opened

__all__ = ["Desk", "draining"]

T = TypeVar("T")

LARGEST = 256 << 20  # bytes of an answer that is kept
CONNECTIONS = 4  # to the database at a time
POLL = 0.5  # seconds between looks at a call that another gateway has under way
TIDY = 60.0  # seconds between looks for what dead gateways lost, and what is old


class Desk:
    """Holds the calls of one gateway. ``room`` is how many may be under way at once."""

    def __init__(self, answers: Answers, upstream: httpx.AsyncClient, *, room: int) -> None:
        self._answers = answers
        self._upstream = upstream
        self._room = asyncio.Semaphore(room)
        self._held: dict[Hashable, Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="agentrun-gateway")
        self.draining = False

    @property
    def under_way(self) -> int:
        """How many requests are being answered, or written down."""
        return len(self._tasks)

    async def hold(self, ask: Ask) -> tuple[Held, bool]:
        """The answer to a request, and whether another request began it."""
        while (held := self._held.get(ask.place)) is not None:
            if not held.spent:
                return held, True
            await held.settled.wait()
        if self.draining:
            raise draining()
        held = self._held[ask.place] = Held()
        task = asyncio.create_task(self._perform(ask, held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return held, False

    async def drain(self) -> None:
        """Make no new calls; return when those under way are answered and written down."""
        self.draining = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def tidy(self, keep: timedelta) -> None:
        """Look after the table from time to time, until cancelled."""
        while True:
            try:
                await self._stored(partial(self._answers.tidy, keep))
            except Exception:
                logger.exception("old answers could not be removed")
            await asyncio.sleep(TIDY)

    async def _perform(self, ask: Ask, held: Held) -> None:
        try:
            opened = await self._begun(ask, held)
            if opened is not None:
                try:
                    await self._call(ask, held, opened)
                finally:
                    self._room.release()
        except Refusal as refusal:
            held.refuse(refusal)
        except Exception:
            logger.exception("the gateway failed at a call (Idempotency-Key %s)", ask.key)
            held.refuse(Refusal(500, "gateway_failed", "the gateway failed; see its log"))
        finally:
            del self._held[ask.place]
            held.settled.set()

    async def _begun(self, ask: Ask, held: Held) -> Opened | None:
        """A call with its intent written down and a place in the room; None: it was answered."""
        while True:
            known = await self._known(ask.key)
            _refuse_another(ask, known)
            for one in known:
                if one.status == "answered" and await self._serve(ask, held, one):
                    return None
            if any(one.status == "open" for one in known):
                await asyncio.sleep(POLL)  # another gateway has it, and will write it down
                continue
            held.doubts = sum(one.status in ("broken", "lost") for one in known)
            if held.doubts and ask.fail_in_doubt:
                raise _in_doubt(ask, held.doubts)
            if opened := await self._opened(ask, known):
                return opened

    async def _known(self, key: str) -> list[Known]:
        """The calls under a key; those that are open belong to gateways that live."""
        while True:
            known = await self._stored(partial(self._answers.known, key))
            holders = {one.gateway for one in known if one.status == "open"}
            buried = [await self._stored(partial(self._answers.bury, name)) for name in holders]
            if not any(buried):
                return known

    async def _opened(self, ask: Ask, known: list[Known]) -> Opened | None:
        await self._room.acquire()
        opened: Opened | None = None
        try:
            opened = await self._stored(
                partial(
                    self._answers.begin,
                    ask.key,
                    max((one.call for one in known), default=0) + 1,
                    fingerprint=ask.fingerprint,
                    upstream=ask.upstream,
                    path=ask.path,
                )
            )
        finally:
            if opened is None:
                self._room.release()
        return opened

    async def _serve(self, ask: Ask, held: Held, known: Known) -> bool:
        """Hand out a stored answer; False if it is gone."""
        answer = await self._stored(partial(self._answers.answer, ask.key, known.call))
        if answer is None:
            return False
        held.stored = True
        held.begin(Head(answer.status, answer.headers))
        held.add(answer.body)
        held.end(kept=True)
        return True

    async def _call(self, ask: Ask, held: Held, opened: Opened) -> None:
        ending = Ending("broken", "the gateway failed")
        try:
            ending = await self._fetched(ask, held)
        finally:
            if ending.status != "answered":
                logger.warning(
                    "%s%s (Idempotency-Key %s): %s, %s",
                    *(ask.upstream, ask.path, ask.key, ending.status, ending.reason),
                )
            await self._stored(partial(self._answers.end, opened, ending))

    async def _fetched(self, ask: Ask, held: Held) -> Ending:
        """Make the call and hand it on as it comes; what became of it."""
        try:
            response = await self._upstream.send(ask.request(), stream=True)
        except httpx.HTTPError as error:
            return _without_head(held, error)
        head = Head(response.status_code, headers_from(response, decoded=True))
        held.begin(head)
        cut = await _body(response, held)
        if held.size > LARGEST:
            held.end(kept=False, broken=True)
            return Ending("broken", f"longer than {LARGEST} bytes", head.status)
        ending = await asyncio.to_thread(judged, ask, head, held.read(), cut)
        broken = cut is not None or (ending.status == "broken" and head.status < 300)
        held.end(kept=ending.status == "answered", broken=broken)
        return ending

    async def _stored(self, action: Callable[[], T]) -> T:
        """Ask the database, in a thread: while it is away this waits."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)


def draining() -> Refusal:
    """What is told to those who come too late."""
    return Refusal(503, "draining", "the gateway is about to end, and makes no new call")


async def _body(response: httpx.Response, held: Held) -> httpx.HTTPError | None:
    """Take in the body; the error that ended it early, if any."""
    try:
        async for piece in response.aiter_bytes():
            held.add(piece)
            if held.size > LARGEST:
                break
    except httpx.HTTPError as error:
        return error
    finally:
        with contextlib.suppress(httpx.HTTPError):
            await response.aclose()
    return None


def _without_head(held: Held, error: httpx.HTTPError) -> Ending:
    name = type(error).__name__
    reason = f"{name}: {error}" if str(error) else name
    if not_sent(error):
        held.refuse(Refusal(502, "not_sent", f"the upstream was not reached ({reason})"))
        return Ending("refused", reason)
    told = f"the call was sent and no answer came ({reason}): it is possibly billed"
    held.refuse(Refusal(502, "answer_lost", told, lost=True))
    return Ending("broken", reason)


def _refuse_another(ask: Ask, known: list[Known]) -> None:
    """A key that has an answer, or is about to, belongs to one request."""
    bound = [one for one in known if one.status in ("answered", "open")]
    if any(one.fingerprint != ask.fingerprint for one in bound):
        raise Refusal(
            422,
            "idempotency_key_reused",
            f"the Idempotency-Key {ask.key!r} belongs to another request: the body, the path or "
            "the upstream differ. A new call needs a new key.",
            retry=False,
        )


def _in_doubt(ask: Ask, doubts: int) -> Refusal:
    calls = "a call" if doubts == 1 else f"{doubts} calls"
    return Refusal(
        409,
        "in_doubt",
        f"{calls} with the Idempotency-Key {ask.key!r} may have been billed, and the answer is "
        "lost. Without Agentrun-On-Doubt: fail the call is made again.",
        retry=False,
    )
