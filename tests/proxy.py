"""A proxy between a client and a Postgres server that breaks one frame, then behaves.

    with FaultProxy(dsn) as proxy:
        proxy.arm(Fault.CUT_BEFORE, b"INSERT INTO agentrun.journal")
        ...  # connect to proxy.dsn

A frame is one message of the Postgres protocol. Both directions are read frame by frame; the
fault strikes the n-th frame of one of them that holds the given bytes, over all connections, or
the server's first answer to it. `struck` is set once it has. Listens and connects over Unix
sockets or TCP; TLS it does not speak.
"""

from __future__ import annotations

import contextlib
import enum
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, NamedTuple, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

APPEND = b"INSERT INTO agentrun.journal"

Side = Literal["client", "server"]


class Fault(enum.Enum):
    """What happens to a frame."""

    CUT_BEFORE = "the connection is cut, and the frame never arrives"
    CUT_INSIDE = "half of the frame arrives, then the connection is cut"
    CUT_AFTER = "the frame arrives, then the connection is cut"
    STALL = "the frame and all that follows vanish, both ways, and nobody hears of it"
    DELAY = "the frame arrives, but later"


class Frame(NamedTuple):
    sender: Side
    kind: bytes  # its type; empty for a client's first words and the answer whether TLS is spoken
    data: bytes  # as it travels


class _Armed(NamedTuple):
    fault: Fault
    sender: Side
    holding: bytes
    answer: bool


class FaultProxy:
    """``late`` is how many seconds `Fault.DELAY` takes.

    After `Fault.STALL` the server learns that the client hung up, but as late; and the client
    that gave the connection to a tool is told by its keepalives.
    """

    def __init__(self, dsn: str, *, tcp: bool = False, late: float = 1.0) -> None:
        given = conninfo_to_dict(dsn)
        host, port = str(given["host"]), int(given.get("port") or 5432)
        self._target: str | tuple[str, int] = (
            f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        )
        self._folder = Path(tempfile.mkdtemp(prefix="proxy-", dir="/tmp"))
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
            host, port = self._listener.getsockname()
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(f"{self._folder}/.s.PGSQL.{port}")
            self._listener.listen(64)
            host = str(self._folder)
        self.dsn = make_conninfo(dsn, host=host, port=port)
        self.late = late
        self.struck = threading.Event()
        self.victim: Frame | None = None  # the frame that was struck
        self.passed: Counter[Side] = Counter()  # frames so far, by sender
        self._armed: _Armed | None = None
        self._countdown = 0
        self._guard = threading.Lock()
        self._links: list[Link] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def arm(
        self,
        fault: Fault,
        holding: bytes = APPEND,
        *,
        nth: int = 1,
        sender: Side = "client",
        answer: bool = False,
    ) -> None:
        """Strike once: the ``nth`` frame from now on that holds these bytes, or its answer."""
        with self._guard:
            self.struck.clear()
            self.victim = None
            self._armed, self._countdown = _Armed(fault, sender, holding, answer), nth

    def spares(self, link: Link, frame: Frame) -> bool:
        """Whether a frame is not to be struck, nor counted; for subclasses."""
        return False

    def _fault_for(self, link: Link, frame: Frame) -> Fault | None:
        with self._guard:
            self.passed[frame.sender] += 1
            if frame.sender == "server" and link.awaited is not None:
                fault, link.awaited = link.awaited, None
                return fault
            armed = self._armed
            if armed is None or armed.sender != frame.sender or armed.holding not in frame.data:
                return None
            if self.spares(link, frame):
                return None
            self._countdown -= 1
            if self._countdown > 0:
                return None
            self._armed = None
            if not armed.answer:
                return armed.fault
            link.awaited = armed.fault
            return None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                family = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
                server = socket.socket(family)
                try:
                    server.connect(self._target)
                except OSError:
                    client.close()
                    server.close()
                    continue
                link = Link(self, client, server)
                self._links.append(link)
                link.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for link in self._links:
            link.close()
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


class Link:
    """One connection: two threads that pass frames on, and the fault that struck it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.awaited: Fault | None = None  # what is to happen to the server's next frame
        self.lent = False  # a `transaction` tool's body has it: its SQL has no deadline of ours
        self._stalled = False
        self._asked_for_tls = threading.Event()
        self._threads = [
            threading.Thread(target=self._pass_on, args=(self._asked(), client, server)),
            threading.Thread(target=self._pass_on, args=(self._answered(), server, client)),
        ]

    def start(self) -> None:
        for end in (self.client, self.server):
            if end.family == socket.AF_INET:  # frame by frame, Nagle's algorithm would wait
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()
        self.client.close()
        self.server.close()

    def cut(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, frames: Iterator[Frame], source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for frame in frames:
                fault = self.proxy._fault_for(self, frame)
                if fault is Fault.STALL:
                    self._stall()
                if fault is Fault.DELAY:
                    self._struck(frame)
                    time.sleep(self.proxy.late)
                if not self._stalled and fault is not Fault.CUT_BEFORE:
                    part = len(frame.data) // 2 if fault is Fault.CUT_INSIDE else None
                    to.sendall(frame.data[:part])
                if fault is not None and fault is not Fault.DELAY:
                    self._struck(frame)
                    if fault is not Fault.STALL:
                        break
        if not self._stalled:
            self.cut()
        elif source is self.client:
            self._cut_later()

    def _stall(self) -> None:
        self._stalled = True
        if self.lent:
            self._cut_later()

    def _cut_later(self) -> None:
        timer = threading.Timer(self.proxy.late, self.cut)
        timer.daemon = True
        timer.start()

    def _struck(self, frame: Frame) -> None:
        self.proxy.victim = frame
        self.proxy.struck.set()

    def _asked(self) -> Iterator[Frame]:
        """What the client says."""
        with self.client.makefile("rb") as file:
            while True:  # its first words have no type; the last of them is the start-up message
                words = _sized(file.read(4), file)
                code = int.from_bytes(words[4:8])
                tls = code in (80877103, 80877104)  # asks for TLS or GSS
                if tls:
                    self._asked_for_tls.set()
                if words:
                    yield Frame("client", b"", words)
                if not tls:
                    break
            while kind := file.read(1):
                data = kind + _sized(file.read(4), file)
                self._follow(kind, data)
                yield Frame("client", kind, data)

    def _answered(self) -> Iterator[Frame]:
        """What the server says."""
        with self.server.makefile("rb") as file:
            while kind := file.read(1):
                if self._asked_for_tls.is_set():
                    self._asked_for_tls.clear()
                    yield Frame("server", b"", kind)
                    continue
                yield Frame("server", kind, kind + _sized(file.read(4), file))

    def _follow(self, kind: bytes, data: bytes) -> None:
        """A tool's transaction: lent from its BEGIN to the first statement of its checkpoint."""
        if b"BEGIN" in data and kind in b"QP":
            self.lent = True
        elif b"idle_in_transaction_session_timeout" in data or kind == b"X":
            self.lent = False


def _sized(length: bytes, file: BinaryIO) -> bytes:
    """A length of 4 bytes, which counts itself, and what it is the length of."""
    return length + file.read(int.from_bytes(length) - 4) if length else b""
