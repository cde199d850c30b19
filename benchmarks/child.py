"""A process of ours, to be started and killed: `python -m benchmarks.child KIND DSN …`."""

from __future__ import annotations

import signal
import sys
import time
from datetime import timedelta

import agentrun
from benchmarks import agents, sizes


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
            case "long":
                key, marker = given
                print(agents.long.with_options(key=key).run(sizes.LONG, marker), flush=True)
            case "killed":
                key, marker = given
                print(agents.killed.with_options(key=key).run(marker), flush=True)


if __name__ == "__main__":
    main()
