"""Worker processes in a moment: forked from one warmed process that has no threads.

    with Nursery({"work": work}, logs) as nursery:
        pid = nursery.spawn("work", dsn)
        os.kill(pid, signal.SIGKILL)
        nursery.buried()   # {pid: exit status, or minus the signal that ended it}

Start it before the process has threads of its own. A child writes to ``logs/NUMBER-PID``; SIGUSR1
makes it write there where each of its threads stands. Children end with the nursery, and that ends
with its owner.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Action = Callable[..., object]


class Nursery:
    """Holds the warmed process; children are asked for by the name of what they do."""

    def __init__(self, actions: Mapping[str, Action], logs: Path) -> None:
        self.logs = logs
        logs.mkdir(exist_ok=True)
        to_nursery, self._orders = os.pipe()
        self._answers, from_nursery = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
            self._pid = os.fork()
        if self._pid == 0:
            os.close(self._orders)
            os.close(self._answers)
            _Matron(actions, logs, from_nursery).obey(to_nursery)
        os.close(to_nursery)
        os.close(from_nursery)
        self._read = os.fdopen(self._answers)
        self.born: list[int] = []
        self.ended: dict[int, int] = {}

    def spawn(self, action: str, *arguments: Any) -> int:
        """Fork a child that does ``action``; its pid."""
        pid = int(self._ask({"do": action, "with": arguments}))
        self.born.append(pid)
        return pid

    def buried(self) -> dict[int, int]:
        """How each child that has ended did so."""
        self.ended.update({int(pid): code for pid, code in self._ask({"do": "bury"}).items()})
        return self.ended

    def alive(self) -> list[int]:
        """The children that have not ended."""
        ended = self.buried()
        return [pid for pid in self.born if pid not in ended]

    def stacks(self, pid: int) -> str:
        """Where the threads of a child stand, and what it wrote last."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.5)
        return self.written(pid)

    def written(self, pid: int) -> str:
        """What a child wrote last."""
        return "".join(path.read_text()[-20_000:] for path in self.logs.glob(f"*-{pid}"))

    def complaints(self) -> list[str]:
        """What children wrote about errors that nobody expected."""
        texts = [path.read_text() for path in self.logs.iterdir()]
        return [text[-3000:] for text in texts if "Traceback" in text]

    def _ask(self, order: dict[str, Any]) -> Any:
        os.write(self._orders, json.dumps(order).encode() + b"\n")
        return json.loads(self._read.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._orders)
        self._read.close()
        os.waitpid(self._pid, 0)


class _Matron:
    """The warmed process."""

    def __init__(self, actions: Mapping[str, Action], logs: Path, answers: int) -> None:
        self.actions, self.logs, self.answers = actions, logs, answers
        self.alive: set[int] = set()
        self.number = 0

    def obey(self, orders: int) -> None:
        """Follow orders to their end, then end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner
        try:
            with os.fdopen(orders) as lines:
                for line in lines:
                    order = json.loads(line)
                    if order["do"] == "bury":
                        answer: Any = self.bury()
                    else:
                        answer = self.bear(orders, order["do"], order["with"])
                    os.write(self.answers, json.dumps(answer).encode() + b"\n")
            for pid in self.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def bury(self) -> dict[int, int]:
        """Children that have ended since the last time, and how."""
        found = {}
        for child in list(self.alive):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                found[pid] = os.waitstatus_to_exitcode(status)
                self.alive.discard(pid)
        return found

    def bear(self, orders: int, action: str, arguments: list[Any]) -> int:
        """Fork a child; its pid, in the parent."""
        self.number += 1
        pid = os.fork()
        if pid:
            self.alive.add(pid)
            return pid
        os.close(orders)
        os.close(self.answers)
        log = os.open(self.logs / f"{self.number}-{os.getpid()}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)  # pytest has put its own there
        faulthandler.register(signal.SIGUSR1, file=log)
        code = 70
        try:
            self.actions[action](*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
