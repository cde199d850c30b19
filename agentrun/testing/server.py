"""A double as a process: an HTTP/1.1 server on loopback, its control paths, and its end.

A service says what a request means (`describe`) and how it is answered (`answer`); everything
that can happen on the way is the same for every double and is here. Control paths, below
``/_double/``, are outside the ledger and meet no faults:

``POST faults``     arm (a list of faults)           ``DELETE faults``   disarm all
``POST script``     the service's own settings       ``POST release``    let what is held go on
``GET ledger``      the ledger as it is now          ``GET wait``        until a counter is reached

The process ends on SIGTERM, after an idle life, and, when it is owned, with its owner: the end
of file on stdin tells it so, even if the owner was killed.
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

from agentrun.testing.bench import Bench, Broken, Ended, Exchange, Refused
from agentrun.testing.faults import Fault
from agentrun.testing.ledger import Ledger, digest
from agentrun.testing.wire import Answer, Link, Request, json_answer, read_request

__all__ = ["Listener", "Service", "listen", "run"]

SECRET_HEADERS = {"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"}
TICK_S = 1.0

Handler = Callable[[Link], Awaitable[None]]
Listener = Callable[[Bench], contextlib.AbstractAsyncContextManager[int]]


class Service(Protocol):
    """What one double does; everything else is shared."""

    def describe(self, request: Request) -> dict[str, Any]:
        """The facts that faults and rules are matched against."""

    def answer(self, request: Request, bench: Bench) -> Answer:
        """How to answer. Does nothing itself: ``Answer.effect`` is what will be recorded, and
        unless ``delay_s`` is set no other request is answered in between.
        """

    def refuse(self, request: Request, code: int, headers: dict[str, str]) -> Answer:
        """An error answer in the dialect of this service."""

    def configure(self, settings: dict[str, Any]) -> None:
        """Take new settings (a script, rules)."""


class Http:
    """Serves one service over HTTP, with faults, and its control paths."""

    def __init__(self, service: Service, bench: Bench) -> None:
        self._service = service
        self._bench = bench

    async def serve(self, link: Link) -> None:
        """Answer the requests of one connection until it closes."""
        while (request := await read_request(link)) is not None:
            if request.path.startswith("/_double/"):
                await link.answer(await self._control(request))
            elif not await self._exchange(link, request):
                return
            if request.headers.get("connection", "").lower() == "close":
                return

    async def _exchange(self, link: Link, request: Request) -> bool:
        """Answer one request; whether the connection can go on."""
        facts = self._service.describe(request)
        exchange = self._bench.open(_noted(request), facts, link.gone)
        try:
            answer = await self._decide(exchange, request)
            await self._send(exchange, link, _spoiled(answer, exchange))
        except Ended as end:
            exchange.broken(str(end))
            await _last_words(link.finish())
            return link.chunked  # Without chunks a short body has no proper end but the close.
        except (Broken, ConnectionError) as error:
            exchange.broken(str(error))
            return False
        except asyncio.CancelledError:
            exchange.broken("the double was stopped")
            raise
        return True

    async def _decide(self, exchange: Exchange, request: Request) -> Answer:
        try:
            await exchange.received()
        except Refused as refusal:
            fault = refusal.fault
            return self._service.refuse(request, fault.code, dict(fault.headers))
        answer = self._service.answer(request, self._bench)
        await exchange.pause(answer.delay_s)
        return answer

    async def _send(self, exchange: Exchange, link: Link, answer: Answer) -> None:
        if answer.status >= 400:
            exchange.refused(f"answered {answer.status}")
            await _last_words(link.answer(answer))
            return
        if answer.effect is not None:
            await exchange.effect(answer.effect)
        await link.send_head(answer)
        await exchange.sent(0, len(answer.chunks))
        for sent, chunk in enumerate(answer.chunks, start=1):
            await exchange.pause(answer.wait(sent - 1))
            if any(fault.action == "truncate" for fault in exchange.faults):
                await link.send_half(chunk)
                raise Broken("fault: truncated")
            await link.send_chunk(chunk)
            await exchange.sent(sent, len(answer.chunks))
        # No yield since the last byte: who has seen it will find this line in the ledger.
        exchange.delivered()
        await _last_words(link.finish())

    async def _control(self, request: Request) -> Answer:
        try:
            return await self._controlled(request)
        except (ValueError, TypeError, KeyError) as error:
            return json_answer({"error": f"{type(error).__name__}: {error}"}, 400)

    async def _controlled(self, request: Request) -> Answer:
        bench = self._bench
        match request.method, request.path.removeprefix("/_double/"):
            case "POST", "faults":
                bench.armed.add([Fault(**data) for data in request.json()])
            case "DELETE", "faults":
                bench.armed.clear()
            case "POST", "script":
                self._service.configure(request.json())
            case "POST", "release":
                bench.release()
            case "GET", "ledger":
                return Answer((bench.ledger.text().encode(),), {"content-type": "text/plain"})
            case "GET", "wait":
                query = request.query
                timeout = float(query["timeout"])
                reached = await bench.until(query["for"], int(query["count"]), timeout)
                return json_answer({"reached": reached, "counts": dict(bench.counts)})
            case _:
                return json_answer({"error": f"no control {request.method} {request.path}"}, 404)
        return json_answer({"ok": True})


async def _last_words(sending: Awaitable[None]) -> None:
    """Send what no longer changes the outcome: the SDK itself hangs up at ``[DONE]``."""
    with contextlib.suppress(ConnectionError):
        await sending


def _noted(request: Request) -> dict[str, Any]:
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


def _spoiled(answer: Answer, exchange: Exchange) -> Answer:
    for fault in exchange.faults:
        if fault.action == "malformed":
            answer = answer.malformed()
        if fault.action == "slow":
            answer = answer.paced(fault.seconds)
    return answer


@contextlib.asynccontextmanager
async def listen(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """Accept connections on loopback and give each to ``handler``; yields the port."""
    links: set[asyncio.Task[None]] = set()

    async def handle(link: Link) -> None:
        try:
            await handler(link)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The client went away between two requests: its right.
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
    service: Service,
    *,
    config: str = "",
    beside: Listener | None = None,
    description: str | None = None,
) -> None:
    """The ``main`` of a double: read the command line, serve, and end in good order.

    ``config`` names an option for a file of settings, ``beside`` a second listener that shares
    the bench. The first line on stdout says where to reach the double, as JSON.
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
        settings = json.loads(options.config.read_text("utf-8"))
        faults = [Fault(**data) for data in settings.pop("faults", [])]
        service.configure(settings)
    with contextlib.ExitStack() as stack:
        path = options.ledger or stack.enter_context(_temporary_ledger())
        ledger = stack.enter_context(contextlib.closing(Ledger(path)))
        asyncio.run(_life(service, ledger, faults, options, beside))


@contextlib.contextmanager
def _temporary_ledger() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agentrun-double-") as folder:
        yield Path(folder) / "ledger.jsonl"


async def _life(
    service: Service,
    ledger: Ledger,
    faults: list[Fault],
    options: argparse.Namespace,
    beside: Listener | None,
) -> None:
    bench = Bench(ledger)
    bench.armed.add(faults)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(listen(Http(service, bench).serve, options.port))
        extra = await stack.enter_async_context(beside(bench)) if beside else None
        where = {"url": f"http://127.0.0.1:{port}", "port": extra, "ledger": str(ledger.path)}
        sys.stdout.write(json.dumps(where) + "\n")
        sys.stdout.flush()
        await _until_the_end(bench, options)


async def _until_the_end(bench: Bench, options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.owned:
        await loop.connect_read_pipe(lambda: _Owner(stop), sys.stdin)
    parent = os.getppid()
    while not stop.is_set() and time.monotonic() - bench.touched < options.idle:
        # A forked child of the owner may hold stdin open after the owner's death.
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
