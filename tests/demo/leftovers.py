"""Processes that are found again, whoever is their parent now: by a mark they inherit."""

from __future__ import annotations

from uuid import uuid4

import psutil

MARK = "AGENTRUN_TEST_MARK"


class Marked:
    """The processes that inherited a mark, whoever is their parent now."""

    def __init__(self) -> None:
        self.mark = str(uuid4())

    def alive(self) -> list[str]:
        """The command lines of those that still run."""
        return [" ".join(p.cmdline()) for p in psutil.process_iter() if self._has_mark(p)]

    def _has_mark(self, process: psutil.Process) -> bool:
        try:
            running = process.status() != psutil.STATUS_ZOMBIE
            return running and process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False
