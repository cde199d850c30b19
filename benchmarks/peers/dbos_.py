"""DBOS Transact: `dbos_.py FIGURE DSN`. Default settings; the queue as its documentation has it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dbos import DBOS

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import sizes


@DBOS.step()
def once(n: int) -> int:
    return n


@DBOS.step()
async def aonce(n: int) -> int:
    return n


@DBOS.step()
async def slow(n: int) -> int:
    await asyncio.sleep(sizes.SLEEP)
    return n


@DBOS.workflow()
def sequential(steps: int) -> None:
    for n in range(steps):
        once(n)


@DBOS.workflow()
async def asequential(steps: int) -> None:
    for n in range(steps):
        await aonce(n)


@DBOS.workflow()
async def parallel(count: int) -> None:
    await asyncio.gather(*(slow(n) for n in range(count)))


@DBOS.step()
def moment() -> float:
    return time.time()


@DBOS.workflow()
def started() -> float:
    return moment()


@DBOS.workflow()
def replayed(steps: int, marker: str) -> float:
    begun = time.perf_counter()
    for n in range(steps):
        once(n)
    took = time.perf_counter() - begun
    if not Path(marker).exists():
        Path(marker).write_text("once")
        os.kill(os.getpid(), signal.SIGKILL)
    return took


def timed(action: object) -> float:
    begun = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - begun


async def concurrent() -> None:
    await asyncio.gather(*(asequential(sizes.RUN_STEPS) for _ in range(sizes.RUNS)))


def threads() -> None:
    with ThreadPoolExecutor(sizes.RUNS) as pool:
        list(pool.map(sequential, [sizes.RUN_STEPS] * sizes.RUNS))


def start_latency() -> float:
    waits = []
    for _ in range(sizes.STARTS):
        time.sleep(0.05)
        submitted = time.time()
        waits.append(DBOS.enqueue_workflow("bench", started).get_result() - submitted)
    return sorted(waits)[len(waits) // 2]


def replay(dsn: str) -> float:
    """Seconds a recorded step: in a process killed after its last, and then in this one."""
    if os.environ.get("DBOS_REPLAYED"):
        sequential(1)
        return replayed(sizes.REPLAYED, os.environ["DBOS_REPLAYED"])
    marker = Path(tempfile.gettempdir()) / f"dbos-replayed-{os.getpid()}"
    child = {**os.environ, "DBOS_REPLAYED": str(marker)}
    subprocess.run([sys.executable, __file__, "replay", dsn], env=child, capture_output=True)
    DBOS.launch()  # recovers what this executor left
    handles = DBOS.list_workflows(name="replayed", sort_desc=True, limit=1)
    took = DBOS.retrieve_workflow(handles[0].workflow_id).get_result()
    marker.unlink()
    return took / sizes.REPLAYED


def measure(figure: str, dsn: str) -> float:
    if figure == "replay" and not os.environ.get("DBOS_REPLAYED"):
        return replay(dsn)
    DBOS.launch()
    DBOS.register_queue("bench")
    sequential(5)
    match figure:
        case "sequential":
            return timed(lambda: sequential(sizes.STEPS)) / sizes.STEPS
        case "distant":
            return timed(lambda: sequential(sizes.DISTANT)) / sizes.DISTANT
        case "async":
            return timed(lambda: asyncio.run(concurrent())) / sizes.RUNS / sizes.RUN_STEPS
        case "threads":
            return timed(threads) / sizes.RUNS / sizes.RUN_STEPS
        case "parallel":
            return timed(lambda: asyncio.run(parallel(sizes.PARALLEL)))
        case "start":
            return start_latency()
        case "submitted":
            begun = time.perf_counter()
            handles = [DBOS.enqueue_workflow("bench", started) for _ in range(sizes.SUBMITTED)]
            for handle in handles:
                handle.get_result()
            return (time.perf_counter() - begun) / sizes.SUBMITTED
        case "replay":
            return replay(dsn)
    raise SystemExit(f"DBOS does not measure {figure}")


if __name__ == "__main__":
    figure, dsn = sys.argv[1:]
    DBOS(config={"name": "bench", "system_database_url": dsn, "log_level": "CRITICAL",
                 "application_version": "1"})  # fmt: skip
    value = measure(figure, dsn)
    print(json.dumps({"value": value}), flush=True)
    os._exit(0)
