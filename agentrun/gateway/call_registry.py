"""Decides which requests share an upstream call or a stored answer, and makes the calls.

The problem: an agent is killed while a model call is in flight. Its successor sends the same
request again, with the same key, and must not cause a second bill.

The rule: for each key there is at most one call under way, and at most one stored answer. A request
joins the call under way in this gateway. Otherwise the rows of its key in `gateway_calls` decide:

* an answered call: its stored answer is served;
* an open call of a live gateway: wait until that gateway has recorded its end;
* none of these: insert a row with the intent, commit it, and only then send the request. The key
  and number of a row are unique, so if two gateways try this at once, one of them fails and reads
  the rows again.

An open call of a dead gateway is marked as lost. It may have been billed, so it counts as a doubt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TypeVar

import httpx

from agentrun.core.errors import Parking
from agentrun.core.log import logger
from agentrun.gateway.shared_answer import AnswerHead, AnswerInProgress, GatewayRefusal
from agentrun.gateway.upstream import GatewayRequest, headers_from, judge_response, was_not_sent
from agentrun.store.answers import Answers, AnswerState, CallEnd, OpenedCall

__all__ = ["CallRegistry", "draining_refusal"]

T = TypeVar("T")

LARGEST = 256 << 20  # bytes; a longer answer is broken off
CONNECTIONS = 4  # to the database at a time
POLL = 0.5  # seconds between checks of a call that another gateway has under way
TIDY = 60.0  # seconds between searches for calls of dead gateways and for old answers


class CallRegistry:
    """The calls of one gateway. At most ``room`` of them are under way at once."""

    def __init__(self, answers: Answers, upstream: httpx.AsyncClient, *, room: int) -> None:
        self._answers = answers
        self._upstream = upstream
        self._room = asyncio.Semaphore(room)
        self._in_progress: dict[Hashable, AnswerInProgress] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="agentrun-gateway")
        self.draining = False

    @property
    def under_way(self) -> int:
        """How many calls have not ended yet, or are not recorded yet."""
        return len(self._tasks)

    async def find_or_begin(self, request: GatewayRequest) -> tuple[AnswerInProgress, bool]:
        """Return the answer to a request, and whether another request began it."""
        while (answer := self._in_progress.get(request.place)) is not None:
            if not answer.is_unusable:
                return answer, True
            await answer.closed.wait()
        if self.draining:
            raise draining_refusal()
        answer = self._in_progress[request.place] = AnswerInProgress()
        task = asyncio.create_task(self._perform(request, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer, False

    async def drain(self) -> None:
        """Accept no new calls, and return when all calls under way have ended and are recorded."""
        self.draining = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def tidy(self, keep: timedelta) -> None:
        """Mark calls of dead gateways and remove old answers, periodically, until cancelled."""
        while True:
            try:
                await self._ask_database(partial(self._answers.remove_old_calls, keep))
            except Parking:
                return  # the process is about to end
            except Exception:
                logger.exception("old answers could not be removed")
            await asyncio.sleep(TIDY)

    async def _perform(self, request: GatewayRequest, answer: AnswerInProgress) -> None:
        try:
            opened = await self._begin_call(request, answer)
            if opened is not None:
                try:
                    await self._call(request, answer, opened)
                finally:
                    self._room.release()
        except GatewayRefusal as refusal:
            answer.refuse(refusal)
        except Parking:
            answer.refuse(draining_refusal())
        except Exception:
            logger.exception("the gateway failed at a call (Idempotency-Key %s)", request.key)
            answer.refuse(GatewayRefusal(500, "gateway_failed", "the gateway failed; see its log"))
        finally:
            del self._in_progress[request.place]
            answer.closed.set()

    async def _begin_call(
        self, request: GatewayRequest, answer: AnswerInProgress
    ) -> OpenedCall | None:
        """Begin an upstream call: its intent is committed, and it has a place in the room.

        Return None if a stored answer was served instead.
        """
        while True:
            known = await self._calls_under_key(request.name)
            _refuse_another(request, known)
            for one in known:
                if one.status == "answered" and await self._serve(request, answer, one):
                    return None
            if any(one.status == "open" for one in known):
                await asyncio.sleep(POLL)  # another gateway makes the call, and will record its end
                continue
            answer.doubts = sum(one.status in ("broken", "lost") for one in known)
            if answer.doubts and request.fail_in_doubt:
                raise _in_doubt(request, answer.doubts)
            if opened := await self._open_call(request, known):
                return opened

    async def _calls_under_key(self, key: str) -> list[AnswerState]:
        """The recorded calls under a key. Every open call among them belongs to a live gateway.

        If the gateway of an open call is dead, its calls are marked as lost and read again.
        """
        while True:
            known = await self._ask_database(partial(self._answers.calls_for_key, key))
            holders = {one.gateway for one in known if one.status == "open"}
            buried = [
                await self._ask_database(partial(self._answers.close_calls_of_dead, name))
                for name in holders
            ]
            if not any(buried):
                return known

    async def _open_call(
        self, request: GatewayRequest, known: list[AnswerState]
    ) -> OpenedCall | None:
        await self._room.acquire()
        opened: OpenedCall | None = None
        try:
            opened = await self._ask_database(
                partial(
                    self._answers.begin,
                    request.name,
                    max((one.call for one in known), default=0) + 1,
                    fingerprint=request.fingerprint,
                    upstream=request.upstream,
                    path=request.path,
                )
            )
        finally:
            if opened is None:
                self._room.release()
        return opened

    async def _serve(
        self, request: GatewayRequest, answer: AnswerInProgress, known: AnswerState
    ) -> bool:
        """Serve a stored answer; return False if it has been removed meanwhile."""
        stored = await self._ask_database(partial(self._answers.answer, request.name, known.call))
        if stored is None:
            return False
        answer.stored = True
        answer.begin(AnswerHead(stored.status, stored.headers))
        answer.add(stored.body)
        answer.end(whole=True)
        return True

    async def _call(
        self, request: GatewayRequest, answer: AnswerInProgress, opened: OpenedCall
    ) -> None:
        ending = CallEnd("broken", "the gateway failed")
        try:
            ending = await self._fetch(request, answer)
        finally:
            if ending.status != "answered":
                logger.warning(
                    "%s%s (Idempotency-Key %s): %s, %s",
                    *(request.upstream, request.path, request.key, ending.status, ending.reason),
                )
            await self._record_end(request, opened, ending)

    async def _record_end(
        self, request: GatewayRequest, opened: OpenedCall, ending: CallEnd
    ) -> None:
        try:
            await self._ask_database(partial(self._answers.end, opened, ending))
        except Parking:
            logger.warning(
                "%s%s (Idempotency-Key %s): %s, which could not be recorded, because the database "
                "is unreachable. The next gateway will count the call as lost and possibly billed",
                *(request.upstream, request.path, request.key, ending.status),
            )

    async def _fetch(self, request: GatewayRequest, answer: AnswerInProgress) -> CallEnd:
        """Send the request, pass its answer to the readers, and return how the call ended."""
        try:
            response = await self._upstream.send(request.request(), stream=True)
        except httpx.HTTPError as error:
            return _end_without_head(answer, error)
        head = AnswerHead(response.status_code, headers_from(response, decoded=True))
        answer.begin(head)
        cut = await _read_body(response, answer)
        if answer.size > LARGEST:
            answer.end(whole=False, broken=True)
            return CallEnd("broken", f"longer than {LARGEST} bytes", head.status)
        ending = await asyncio.to_thread(judge_response, request, head, answer.read(), cut)
        broken = cut is not None or (ending.status == "broken" and head.status < 300)
        answer.end(whole=ending.status == "answered", broken=broken)
        return ending

    async def _ask_database(self, action: Callable[[], T]) -> T:
        """Run a database action in a thread. It waits while the database is unreachable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)


def draining_refusal() -> GatewayRefusal:
    """The refusal of a request that comes while the gateway is shutting down."""
    return GatewayRefusal(503, "draining", "the gateway is shutting down and makes no new call")


async def _read_body(response: httpx.Response, answer: AnswerInProgress) -> httpx.HTTPError | None:
    """Read the body into ``answer``; return the error that ended it early, if any."""
    try:
        async for piece in response.aiter_bytes():
            answer.add(piece)
            if answer.size > LARGEST:
                break
    except httpx.HTTPError as error:
        return error
    finally:
        with contextlib.suppress(httpx.HTTPError):
            await response.aclose()
    return None


def _end_without_head(answer: AnswerInProgress, error: httpx.HTTPError) -> CallEnd:
    name = type(error).__name__
    reason = f"{name}: {error}" if str(error) else name
    if isinstance(error, httpx.LocalProtocolError):
        answer.refuse(
            GatewayRefusal(400, "protocol", f"it cannot be passed on ({reason})", retry=False)
        )
        return CallEnd("refused", reason)
    if was_not_sent(error):
        answer.refuse(GatewayRefusal(502, "not_sent", f"the upstream was not reached ({reason})"))
        return CallEnd("refused", reason)
    message = f"the call was sent and no answer came ({reason}): it is possibly billed"
    answer.refuse(GatewayRefusal(502, "answer_lost", message, lost=True))
    return CallEnd("broken", reason)


def _refuse_another(request: GatewayRequest, known: list[AnswerState]) -> None:
    """Raise a refusal if the key has an answer, or a call under way, of a different request."""
    bound = [one for one in known if one.status in ("answered", "open")]
    if any(one.fingerprint != request.fingerprint for one in bound):
        raise GatewayRefusal(
            422,
            "idempotency_key_reused",
            f"the Idempotency-Key {request.key!r} belongs to another request: the body, the path "
            "or the upstream differs. A new call needs a new key.",
            retry=False,
        )


def _in_doubt(request: GatewayRequest, doubts: int) -> GatewayRefusal:
    calls = "a call" if doubts == 1 else f"{doubts} calls"
    return GatewayRefusal(
        409,
        "in_doubt",
        f"{calls} with the Idempotency-Key {request.key!r} may have been billed, and the answer is "
        "lost. Without Agentrun-On-Doubt: fail the call is made again.",
        retry=False,
    )
