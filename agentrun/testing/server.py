"""The process of a double: an HTTP/1.1 server on loopback, its control paths, and its end.

A service interprets a request (`describe`) and answers it (`answer`). Everything else, such as
faults, is the same for every double and implemented here. Requests to the control paths below
``/_double/`` are not recorded and meet no faults:

``POST faults``     arm a list of faults             ``DELETE faults``   disarm all faults
``POST script``     configure the service            ``POST release``    let held requests continue
``GET ledger``      read the ledger                  ``GET wait``        wait for a counter

The process ends on SIGTERM, and after a time without requests. An owned process also ends with its
owner: stdin is a pipe from the owner, and reaches end of file even if the owner is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from agentrun.testing.double_base import (
    BrokenExchange,
    DoubleState,
    EndedAnswer,
    Exchange,
    RefusedRequest,
)
from agentrun.testing.faults import Fault
from agentrun.testing.ledger import Ledger, digest
from agentrun.testing.replies import settings_from
from agentrun.testing.wire import HttpAnswer, HttpRequest, Link, json_answer, read_request

__all__ = ["DoubleService", "Listener", "listen", "run"]

SECRET_HEADERS = {"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"}
TICK_S = 1.0

Handler = Callable[[Link], Awaitable[None]]
Listener = Callable[[DoubleState], contextlib.AbstractAsyncContextManager[int]]


class DoubleService(Protocol):
    """The part of a double that differs from other doubles."""

    keeps_text: bool  # whether the ledger keeps each body as it was sent

    def describe(self, request: HttpRequest) -> dict[str, Any]:
        """The facts against which faults and rules are matched."""
        ...

    def answer(self, request: HttpRequest, state: DoubleState) -> HttpAnswer:
        """Return the answer, without acting: the server records ``HttpAnswer.effect`` later.

        Unless ``delay_s`` is set, no other request is answered before the effect is recorded.
        """
        ...

    def refuse(self, request: HttpRequest, code: int, headers: dict[str, str]) -> HttpAnswer:
        """Return an error answer in the dialect of this service."""
        ...

    def configure(self, settings: dict[str, Any]) -> None:
        """Replace the settings (a script, rules)."""
        ...


class Http:
    """Serves one service over HTTP, with faults, and its control paths."""

    def __init__(self, service: DoubleService, state: DoubleState) -> None:
        self._service = service
        self._state = state

    async def serve(self, link: Link) -> None:
        """Answer the requests of one connection until it closes."""
        while (request := await read_request(link)) is not None:
            if request.path.startswith("/_double/"):
                await link.answer(await self._control(request))
            elif not await self._exchange(link, request):
                return
            if request.headers.get("connection", "").lower() == "close":
                return

    async def _exchange(self, link: Link, request: HttpRequest) -> bool:
        """Answer one request, and return whether the connection can serve another."""
        facts = self._service.describe(request)
        noted = _ledger_fields(request)
        if self._service.keeps_text:
            noted["text"] = request.body.decode("utf-8", "replace")
        exchange = self._state.open(noted, facts, link.disconnected)
        try:
            answer = await self._decide(exchange, request)
            await self._send(exchange, link, _apply_faults(answer, exchange))
        except EndedAnswer as end:
            exchange.mark_broken(str(end))
            await _send_rest(link.finish())
            return link.chunked  # A short body without chunks can only end by closing.
        except (BrokenExchange, ConnectionError) as error:
            exchange.mark_broken(str(error))
            return False
        except asyncio.CancelledError:
            exchange.mark_broken("the double was stopped")
            raise
        return True

    async def _decide(self, exchange: Exchange, request: HttpRequest) -> HttpAnswer:
        try:
            await exchange.reach_received()
        except RefusedRequest as refusal:
            fault = refusal.fault
            return self._service.refuse(request, fault.code, dict(fault.headers))
        answer = self._service.answer(request, self._state)
        await exchange.pause(answer.delay_s)
        return answer

    async def _send(self, exchange: Exchange, link: Link, answer: HttpAnswer) -> None:
        if answer.status >= 400:
            exchange.mark_refused(f"answered {answer.status}")
            await _send_rest(link.answer(answer))
            return
        if answer.effect is not None:
            await exchange.reach_effect(answer.effect)
        await link.send_head(answer)
        await exchange.reach_sent(0, len(answer.chunks))
        for sent, chunk in enumerate(answer.chunks, start=1):
            await exchange.pause(answer.wait(sent - 1))
            if any(fault.action == "truncate" for fault in exchange.faults):
                await link.send_half(chunk)
                raise BrokenExchange("fault: truncated")
            await link.send_chunk(chunk)
            await exchange.reach_sent(sent, len(answer.chunks))
        # There was no await since the last byte, so a client that has it finds this in the ledger.
        exchange.mark_delivered()
        await _send_rest(link.finish())

    async def _control(self, request: HttpRequest) -> HttpAnswer:
        try:
            return await self._obey_control(request)
        except (ValueError, TypeError, KeyError) as error:
            return json_answer({"error": f"{type(error).__name__}: {error}"}, 400)

    async def _obey_control(self, request: HttpRequest) -> HttpAnswer:
        state = self._state
        match request.method, request.path.removeprefix("/_double/"):
            case "POST", "faults":
                state.armed.add([Fault(**data) for data in request.json()])
            case "DELETE", "faults":
                state.armed.clear()
            case "POST", "script":
                self._service.configure(request.json())
            case "POST", "release":
                state.release()
            case "GET", "ledger":
                return HttpAnswer((state.ledger.text().encode(),), {"content-type": "text/plain"})
            case "GET", "wait":
                query = request.query
                timeout = float(query["timeout"])
                reached = await state.wait_until(query["for"], int(query["count"]), timeout)
                return json_answer({"reached": reached, "counts": dict(state.counts)})
            case _:
                return json_answer({"error": f"no control {request.method} {request.path}"}, 404)
        return json_answer({"ok": True})


async def _send_rest(sending: Awaitable[None]) -> None:
    """Send the end of an answer. An error no longer matters: an SDK disconnects at ``[DONE]``."""
    with contextlib.suppress(ConnectionError):
        await sending


def _ledger_fields(request: HttpRequest) -> dict[str, Any]:
    headers = {k: v for k, v in request.headers.items() if k not in SECRET_HEADERS}
    target = request.target
    body = request.content()
    return {
        "method": request.method,
        "path": target,
        "headers": headers,
        "body": body,
        "digest": digest([request.method, target, body]),
    }


def _apply_faults(answer: HttpAnswer, exchange: Exchange) -> HttpAnswer:
    for fault in exchange.faults:
        if fault.action == "malformed":
            answer = answer.with_malformed_chunk()
        if fault.action == "slow":
            answer = answer.with_pace(fault.seconds)
    return answer


@contextlib.asynccontextmanager
async def listen(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """Accept connections on loopback and give each to ``handler``; yields the port."""
    links: set[asyncio.Task[None]] = set()

    async def handle(link: Link) -> None:
        try:
            await handler(link)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # A client may disconnect between two requests.
        finally:
            link.close()

    def accepted(link: Link) -> None:
        task = asyncio.ensure_future(handle(link))
        links.add(task)
        task.add_done_callback(links.discard)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Link.protocol(accepted), "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(links):
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)


def run(
    service: DoubleService,
    *,
    config: str = "",
    beside: Listener | None = None,
    description: str | None = None,
) -> None:
    """The ``main`` of a double: read the command line, and serve until the end.

    ``config`` names an option for a file of settings. ``beside`` is a second listener that shares
    the state of the double. The first line on stdout says where to reach the double, as JSON.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--ledger", type=Path, help="default: a temporary file, removed at the end")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--idle", type=float, default=3600.0, help="end after so many idle seconds")
    parser.add_argument("--owned", action="store_true", help="end when stdin ends")
    if config:
        parser.add_argument(f"--{config}", dest="config", type=Path, help="settings, as JSON")
    options = parser.parse_args()
    faults: list[Fault] = []
    if config and options.config:
        try:
            settings = settings_from(json.loads(options.config.read_text("utf-8")))
            faults = [Fault(**data) for data in settings.pop("faults", [])]
            service.configure(settings)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            parser.error(f"--{config} {options.config} cannot be read: {problem}")
    with contextlib.ExitStack() as stack:
        path = options.ledger or stack.enter_context(_temporary_ledger())
        ledger = stack.enter_context(contextlib.closing(Ledger(path)))
        asyncio.run(_serve_until_end(service, ledger, faults, options, beside))


@contextlib.contextmanager
def _temporary_ledger() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agentrun-double-") as folder:
        yield Path(folder) / "ledger.jsonl"


async def _serve_until_end(
    service: DoubleService,
    ledger: Ledger,
    faults: list[Fault],
    options: argparse.Namespace,
    beside: Listener | None,
) -> None:
    state = DoubleState(ledger)
    state.armed.add(faults)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(listen(Http(service, state).serve, options.port))
        extra = await stack.enter_async_context(beside(state)) if beside else None
        where = {"url": f"http://127.0.0.1:{port}", "port": extra, "ledger": str(ledger.path)}
        sys.stdout.write(json.dumps(where) + "\n")
        sys.stdout.flush()
        await _wait_for_end(state, options)


async def _wait_for_end(state: DoubleState, options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.owned:
        await loop.connect_read_pipe(lambda: _Owner(stop), sys.stdin)
    parent = os.getppid()
    while not stop.is_set() and time.monotonic() - state.touched < options.idle:
        # A forked child of the owner may keep stdin open after the owner has ended.
        if options.owned and os.getppid() != parent:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), TICK_S)


class _Owner(asyncio.Protocol):
    """Stdin of an owned double: its end is the end of the owner."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()
