"""A process of ours, to be started and killed: `python -m benchmarks.child KIND DSN …`."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import agentrun
from benchmarks import agents, sizes


def _used() -> tuple[str, float, int]:
    """What this process took so far: MB of memory at its most, seconds of CPU; and its threads."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return f"{int(kilobytes) / 1e3}", time.process_time(), threading.active_count()


def main() -> None:
    kind, dsn, *given = sys.argv[1:]
    with agentrun.connect(dsn):
        match kind:
            case "worker":
                with agentrun.Worker([agents.started], concurrency=sizes.RUNS):
                    print("ready", flush=True)
                    signal.sigwait({signal.SIGTERM})
            case "prune":
                print("ready", flush=True)
                while True:
                    agentrun.prune(timedelta())
                    time.sleep(0.1)
            case "crowd":
                served = [agents.sleeping, agents.waiting, agents.active]
                with agentrun.Worker(served, concurrency=sizes.ACTIVE):
                    for _ in sys.stdin:
                        print(*_used(), flush=True)
            case "long":
                key, marker = given
                print(agents.long.with_options(key=key).run(sizes.LONG, marker), flush=True)
            case "killed":
                key, marker = given
                print(agents.killed.with_options(key=key).run(marker), flush=True)


if __name__ == "__main__":
    main()
