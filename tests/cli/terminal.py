"""A terminal of a given width, in which a test runs the command line."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Screen:
    """What a process has written to its terminal so far, and its keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process, self._descriptor = process, descriptor
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._descriptor, 65_536)
            except OSError:  # Linux ends the reading side so
                return
            if not piece:
                return
            self._written += piece

    @property
    def raw(self) -> str:
        return self._written.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """The text without the sequences that style it and move the cursor."""
        return _STYLE.sub("", self.raw).replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def wait(self, timeout: float = 90) -> int:
        """Wait until the process has ended; return its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def until(self, holds: Callable[[str], bool], timeout: float = 90) -> None:
        deadline = time.monotonic() + timeout
        while not holds(self.text):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)


@contextmanager
def screen(*args: object, columns: int = 80, **env: str) -> Iterator[Screen]:
    """`python -m agentrun …` in a terminal; killed at the end if it still runs."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PAGER": "cat", **env}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "AGENTRUN_PAGER"):
        if name not in env:
            environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "agentrun", *map(str, args)],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = Screen(process, ours)
    try:
        yield shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def printed(*args: object, columns: int = 80, code: int = 0, **env: str) -> str:
    """What a command prints in a terminal until it has ended."""
    with screen(*args, columns=columns, **env) as shown:
        ended = shown.wait()
        assert ended == code, shown.text
        return shown.text
