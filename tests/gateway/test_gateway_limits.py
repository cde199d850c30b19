"""A gateway waits for nobody without end, and holds no more than it was told to."""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import servers
from crashing import until
from gateways import Gateway

import agentrun
from agentrun.store import embedded
from agentrun.testing import Fault, Provider

Start = Callable[..., Gateway]
PATH = "/openai/v1/chat/completions"


def opened(gateway: Gateway, stack: ExitStack, text: str = "") -> socket.socket:
    """A connection that said only so much."""
    at = urlsplit(gateway.url)
    conn = stack.enter_context(socket.create_connection((at.hostname, at.port), timeout=30))
    conn.sendall(text.encode())
    return conn


def head(length: int, key: str) -> str:
    lines = [f"POST {PATH} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *([f"Idempotency-Key: {key}"] if key else []), "", ""])


def told(conn: socket.socket) -> str:
    """What comes until the other side closes the connection."""
    pieces = []
    while piece := conn.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces).decode()


def test_who_does_not_go_on_is_cut_off(start: Start, provider: Provider) -> None:
    gateway = start("--read-timeout", "0.5")
    with ExitStack() as stack:
        silent = opened(gateway, stack)
        half_a_head = opened(gateway, stack, f"POST {PATH} HTTP/1.1\r\nHost: loc")
        half_a_body = opened(gateway, stack, head(1000, "k") + '{"model": ')
        passed_through = opened(gateway, stack, head(1000, "") + '{"model": ')
        assert told(silent) == ""
        assert told(half_a_head) == ""
        assert " 408 " in (answer := told(half_a_body)).partition("\r\n")[0], answer
        assert "the rest of the request did not arrive" in answer
        assert " 408 " in told(passed_through).partition("\r\n")[0]
    assert provider.ledger() == []
    assert gateway.post(key="k").status_code == 200


def test_no_more_is_held_than_there_is_room_for(start: Start, provider: Provider) -> None:
    gateway = start("--buffer", "1")
    most = "x" * 700_000  # all but one byte of each request
    with ExitStack() as stack:
        both = [opened(gateway, stack, head(len(most) + 1, key) + most) for key in "ab"]
        (refused,), _, _ = select.select(both, [], [], 60)
        assert refused.recv(1 << 16).startswith(b"HTTP/1.1 503 ")
        too_much = gateway.post("y" * 600_000, key="c")
        assert too_much.status_code == 503
        assert "no memory left for more requests" in too_much.text
    until(lambda: gateway.post("y" * 600_000, key="c").status_code == 200)


def told_of(gateway: Gateway, request: str) -> str:
    with ExitStack() as stack:
        return told(opened(gateway, stack, request))


def test_a_connection_too_many_is_told_so(start: Start) -> None:
    gateway = start("--calls", "1")
    with ExitStack() as stack:
        for _ in range(101):
            opened(gateway, stack)
        asked = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        until(lambda: " 503 " in told_of(gateway, asked).partition("\r\n")[0])
    until(lambda: " 200 " in told_of(gateway, asked).partition("\r\n")[0])


def test_sigterm_ends_it_while_its_database_is_away(
    server: object, new_home: Path, provider: Provider, tmp_path: Path
) -> None:
    dsn = embedded.start(new_home)
    with agentrun.connect(dsn), Gateway(dsn, provider.url, tmp_path / "log") as gateway:
        provider.arm(Fault.hold("effect"))
        codes: list[int] = []
        asking = threading.Thread(target=lambda: codes.append(gateway.post().status_code))
        asking.start()
        provider.wait_for("held")
        servers.kill(new_home)
        late = threading.Thread(target=lambda: codes.append(gateway.post(key="l").status_code))
        late.start()
        until(lambda: gateway.in_flight() == 2)
        provider.release()
        asking.join()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(60) == 0
        late.join()
        assert codes == [200, 503], "an answer that came is handed on, and no call is made"
        log = gateway.log.read_text()
        assert "could not be recorded, because the database is unreachable" in log
        assert "Traceback" not in log
    assert provider.billed() == 1
