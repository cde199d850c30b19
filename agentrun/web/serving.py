"""The process of `agentrun ui`: its socket, its server, and who may come in."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from agentrun.core.errors import ConfigError
from agentrun.store.database import Database
from agentrun.web.app import WebApp, make_app
from agentrun.web.people import Person, UrlEntry

__all__ = ["check_exposure", "is_loopback", "listen", "make_site", "read_token", "serve"]

_GRACE = 3  # seconds that answers under way have after the end was asked for
_SHORTEST = 16  # characters of a token


class _PageServer(uvicorn.Server):
    """A server that leaves signals to `serve`: uvicorn would raise a signal again after its end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a listener on this host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, token_file: Path | None, trusted: Iterable[str]) -> None:
    """Raise ConfigError for a listener that other machines reach and that anybody may use."""
    if is_loopback(host):
        return
    if token_file is None or not list(trusted):
        raise ConfigError(
            f"other machines can connect to {host}: say who may with --token-file FILE, and by "
            "which name with --trusted-host NAME"
        )


def read_token(file: Path) -> str:
    """The token in a file. Raises ConfigError if it is missing or can be guessed."""
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the token file {file} cannot be read: {error}") from error
    if len(token) < _SHORTEST or any(letter.isspace() for letter in token):
        raise ConfigError(
            f"the token in {file} needs {_SHORTEST} characters without spaces: "
            f"openssl rand -hex 24 > {file}"
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """The socket of the pages; port 0 is one that is free. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error}") from error


def make_site(
    database: Database,
    *,
    person: Person,
    port: int,
    token: str | None,
    allow_decisions: bool,
    hosts: Iterable[str],
) -> tuple[WebApp, UrlEntry]:
    """The application that `agentrun ui` serves, and the entry to it."""
    # Cookies do not tell ports apart, so the name does: several servers may run on one machine.
    entry = UrlEntry(person, cookie=f"agentrun-ui-{port}", token=token)
    app = make_app(
        database,
        authorize=None,
        allow_decisions=allow_decisions,
        sql=True,
        hosts=hosts,
        entry=entry,
    )
    return app, entry


def serve(app: WebApp, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve the pages until SIGTERM or SIGINT."""

    async def live() -> None:
        config = uvicorn.Config(
            app, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, timeout_graceful_shutdown=_GRACE,
        )  # fmt: skip
        server = _PageServer(config)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        ready()  # the socket listens already, so browsers may connect now
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # a second signal ends the process at once
        server.should_exit = True
        await app.site.live.close()
        await serving

    asyncio.run(live())
