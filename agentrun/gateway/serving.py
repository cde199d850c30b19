"""The process of a gateway: its socket, its server, and its end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_address

import httpx
import uvicorn

from agentrun.core.errors import ConfigError
from agentrun.gateway.desk import Desk
from agentrun.gateway.service import Service, upstreams
from agentrun.gateway.upstream import client
from agentrun.store.answers import Answers
from agentrun.store.database import Database

__all__ = ["is_loopback", "listen", "serve", "upstreams"]

GRACE = 5  # seconds that readers have for the rest of an answer, once all calls have ended
BACKLOG = 512


class _Server(uvicorn.Server):
    """The signals are ours: uvicorn would end by the signal that it was told."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """The socket of a gateway; port 0 is one that is free. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"the gateway cannot listen on {host}, port {port}: {error}") from error


def serve(
    database: Database,
    listener: socket.socket,
    providers: Mapping[str, httpx.URL],
    *,
    keep: timedelta,
    timeout: float,
    calls: int,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; then make no new call, and end when the others have.

    A second signal ends it at once: calls under way are lost, and told so by the next gateway.
    """

    async def life() -> None:
        answers = Answers(database)
        async with client() as upstream:
            desk = Desk(answers, upstream, room=calls)
            service = Service(desk, upstream, providers, timeout=timeout)
            tidying = asyncio.create_task(desk.tidy(keep))
            await _until_drained(service, listener, ready)
            tidying.cancel()

    asyncio.run(life())


def _server(service: Service) -> _Server:
    # A broken answer is passed on as a connection that breaks, which is no error of ours.
    logging.getLogger("uvicorn.error").addFilter(lambda told: "without completing" not in told.msg)
    config = uvicorn.Config(
        service,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config)


async def _until_drained(
    service: Service, listener: socket.socket, ready: Callable[[], None]
) -> None:
    server = _server(service)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    told = asyncio.create_task(stop.wait())
    ready()  # the socket has been listening since before
    await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)  # the next one ends the process as it always does
    for accepting in server.servers:
        accepting.close()
    await service.drain()
    server.should_exit = True
    await serving
