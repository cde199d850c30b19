"""A proxy between a client and a Postgres socket that breaks one message, then behaves.

    with FaultProxy(dsn) as proxy:
        proxy.arm(Fault.CUT_AFTER, b"INSERT INTO agentrun.journal")
        ...  # connect to proxy.dsn

The fault strikes the first message from a client that contains the given bytes, or the n-th one.
`struck` is set once it has.
"""

from __future__ import annotations

import contextlib
import enum
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

APPEND = b"INSERT INTO agentrun.journal"


class Fault(enum.Enum):
    CUT_BEFORE = "the connection is cut, and the server never sees the message"
    CUT_AFTER = "the server answers, and the connection is cut instead of passing that on"
    BLACK_HOLE_BEFORE = "the message and all that follows vanish; the connection stays open"
    BLACK_HOLE_AFTER = "the server answers; that and all that follows vanish"
    LATE = "the answer comes, but later"


class FaultProxy:
    def __init__(self, dsn: str, *, late: float = 1.0) -> None:
        given = conninfo_to_dict(dsn)
        name = f".s.PGSQL.{given.get('port', 5432)}"
        self._folder = Path(tempfile.mkdtemp(prefix="proxy-", dir="/tmp"))
        self._target = str(Path(str(given["host"])) / name)
        self._late = late
        self._armed: tuple[Fault, bytes] | None = None
        self._countdown = 0
        self._guard = threading.Lock()
        self._open: list[socket.socket] = []
        self.struck = threading.Event()
        self.dsn = make_conninfo(dsn, host=str(self._folder))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / name))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def arm(self, fault: Fault, holding: bytes = APPEND, *, nth: int = 1) -> None:
        """Strike once, at the ``nth`` message from now on that holds these bytes."""
        with self._guard:
            self.struck.clear()
            self._armed, self._countdown = (fault, holding), nth

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._target)
                except OSError:
                    client.close()
                    server.close()
                    continue
                self._open += [client, server]
                _Link(self, client, server).start()

    def _fault_for(self, message: bytes) -> Fault | None:
        with self._guard:
            if self._armed is None or self._armed[1] not in message:
                return None
            self._countdown -= 1
            if self._countdown > 0:
                return None
            fault, self._armed = self._armed[0], None
            return fault

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for end in self._open:
            _shut(end)
            end.close()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Link:
    """One connection: two threads that copy, and the fault that struck it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.fault: Fault | None = None

    def start(self) -> None:
        for copy in (self._upwards, self._downwards):
            threading.Thread(target=copy, daemon=True).start()

    def _upwards(self) -> None:
        for message in _messages(self.client):
            if self.fault in (Fault.BLACK_HOLE_BEFORE, Fault.BLACK_HOLE_AFTER):
                continue
            self.fault = self.proxy._fault_for(message) or self.fault
            if self.fault is Fault.BLACK_HOLE_BEFORE:
                self.proxy.struck.set()
                continue
            if self.fault is Fault.CUT_BEFORE:
                break
            with contextlib.suppress(OSError):
                self.server.sendall(message)
        self._cut()

    def _downwards(self) -> None:
        for message in _messages(self.server):
            if self.fault is Fault.BLACK_HOLE_AFTER:
                self.proxy.struck.set()
                continue
            if self.fault is Fault.CUT_AFTER:
                break
            if self.fault is Fault.LATE:
                self.fault = None
                self.proxy.struck.set()
                time.sleep(self.proxy._late)
            with contextlib.suppress(OSError):
                self.client.sendall(message)
        if self.fault is not Fault.BLACK_HOLE_BEFORE:
            self._cut()

    def _cut(self) -> None:
        _shut(self.client)
        _shut(self.server)
        if self.fault is not None:
            self.proxy.struck.set()


def _messages(source: socket.socket) -> Iterator[bytes]:
    """What arrives, piece by piece, until the other side is gone."""
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 20):
            yield piece


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
