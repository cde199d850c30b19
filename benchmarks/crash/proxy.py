"""A TCP proxy that kills a process at a message, before it passes the message on.

All traffic of a program under test passes such proxies: to the model, to the shop and to Postgres.
They share one `Killer`, which counts messages in both directions. A message is what one read
returns. A kill before message n is a kill after message n - 1, so every state between two messages
can be reached, whatever framework the program uses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial

__all__ = ["Killer", "Proxy"]


class Killer:
    """Counts the messages of a program, and kills its process group before one of them.

    ``kill_at`` is the number of that message, counted from the first request to the model.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.pid: int | None = None
        self.messages = 0
        self.killed = False
        self._counts = False
        self._guard = threading.Lock()

    def may_pass(self, *, of_first: bool, to_model: bool) -> bool:
        """Count a message of the first process; false if that is dead, or is killed instead."""
        with self._guard:
            if self.killed:
                return not of_first
            self._counts = self._counts or to_model
            self.messages += self._counts
            if self._counts and self.messages == self.kill_at and self.pid is not None:
                self.killed = True
                os.killpg(self.pid, signal.SIGKILL)
                return False
            return True


class Proxy:
    """Listens on a port of loopback, and passes messages on to ``target``.

    ``target`` is a port of loopback, or the path of a Unix socket. ``is_model`` says that the model
    is there.
    """

    def __init__(self, killer: Killer, target: int | str, *, is_model: bool = False) -> None:
        self._killer, self._target, self._is_model = killer, target, is_model
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening, and cut every connection."""
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                if isinstance(self._target, str):
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(self._target)
                else:
                    server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                of_first = not self._killer.killed
                for source, to in ((client, server), (server, client)):
                    to_model = self._is_model and source is client
                    may_pass = partial(self._killer.may_pass, of_first=of_first, to_model=to_model)
                    passing = threading.Thread(
                        target=_pass_on, args=(source, to, may_pass), daemon=True
                    )
                    passing.start()


def _pass_on(source: socket.socket, to: socket.socket, may_pass: Callable[[], bool]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if not may_pass():
                break
            to.sendall(data)
    for end in (source, to):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
