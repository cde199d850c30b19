"""The process of a gateway: its socket, its server, and its shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import h11
import httpx
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentrun.core.errors import ConfigError
from agentrun.gateway.call_registry import CallRegistry
from agentrun.gateway.guard import Door, GatewayLimits
from agentrun.gateway.service import GatewayService, upstreams
from agentrun.gateway.upstream import client
from agentrun.store.answers import Answers
from agentrun.store.database import OpenDatabase
from agentrun.store.patience import PROCESS

__all__ = ["Door", "GatewayLimits", "is_loopback", "listen", "listen_at", "serve", "upstreams"]

GRACE = 5  # seconds that readers have for the rest of their answers after the last call has ended
BACKLOG = 512


class _GatewayServer(uvicorn.Server):
    """A server that leaves signals to `serve`: uvicorn would raise a signal again after its end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _TimedConnection(H11Protocol):
    """A connection that is closed if the head of a request does not arrive in time."""

    silence: float  # seconds to wait for the head of a request
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.silence, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits = self.conn.their_state is h11.IDLE  # for the rest of a head
        if not waits:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.silence, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a listener on this host."""
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
        raise ConfigError(f"cannot listen on {host}, port {port}: {error}") from error


def listen_at(place: Path) -> socket.socket:
    """Listen at a Unix socket that only this user can open. Raises ConfigError."""
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        if place.is_socket():
            place.unlink()  # left by a gateway that was killed
        listener.bind(str(place))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"the gateway cannot listen at {place}: {error}") from error
    finally:
        os.umask(before)
    return listener


def serve(
    database: OpenDatabase,
    listener: socket.socket,
    providers: Mapping[str, httpx.URL],
    *,
    keep: timedelta,
    timeout: float,
    limits: GatewayLimits,
    door: Door,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; then make no new call, and end when all calls have ended.

    If the database is unreachable at that time, the ends of calls that cannot be recorded within
    seconds are given up. A second signal ends the process at once: the calls under way are lost,
    and the next gateway counts them as possibly billed.
    """

    async def life() -> None:
        answers = Answers(database)
        async with client() as upstream:
            registry = CallRegistry(answers, upstream, room=limits.calls)
            service = GatewayService(
                registry,
                upstream,
                providers,
                timeout=timeout,
                secret=answers.secret(),
                door=door,
                limits=limits,
            )
            tidying = asyncio.create_task(registry.tidy(keep))
            await _until_drained(_server(service, limits), service, listener, ready)
            tidying.cancel()

    asyncio.run(life())


def _server(service: GatewayService, limits: GatewayLimits) -> _GatewayServer:
    # The gateway passes on a broken answer by breaking the connection on purpose. Uvicorn would
    # log that as an error.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing" not in record.msg
    )
    config = uvicorn.Config(
        service,
        http=type("Timed", (_TimedConnection,), {"silence": limits.silence}),
        limit_concurrency=limits.connections,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    return _GatewayServer(config)


async def _until_drained(
    server: _GatewayServer,
    service: GatewayService,
    listener: socket.socket,
    ready: Callable[[], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    ready()  # the socket listens already, so clients may connect now
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)  # a second signal ends the process at once
    # From now on, do not wait long for the database. Calls may still take their time.
    PROCESS.hurry()
    for accepting in server.servers:
        accepting.close()
    await service.drain()
    server.should_exit = True
    await serving
