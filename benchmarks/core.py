"""What durability costs: `python benchmarks/core.py`. One JSON line a figure, then a table.

Every figure stands beside its yardstick, measured in the same minutes on the same server, in
interleaved repeats; read the ratios, machines are noisy. Nothing is turned off: fsync is on, and
the embedded server has its defaults.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from openai import OpenAI

import agentrun
from agentrun.testing import Provider

REPEATS = 5
STEPS = 300


@agentrun.tool
def once(n: int) -> int:
    return n


@agentrun.tool
async def aonce(n: int) -> int:
    return n


@agentrun.agent
def sequential(steps: int) -> None:
    for n in range(steps):
        once(n)


@agentrun.agent
async def asequential(steps: int) -> None:
    for n in range(steps):
        await aonce(n)


def plain_inserts(dsn: str) -> float:
    """Seconds for one INSERT and commit, psycopg, prepared."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS plain (n int PRIMARY KEY, v text)")
        conn.execute("TRUNCATE plain")
        return per_step(lambda: [
            conn.execute("INSERT INTO plain VALUES (%s, %s)", (n, "x" * 200)) for n in range(STEPS)
        ])  # fmt: skip


def per_step(action: Callable[[], object], steps: int = STEPS) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) / steps


def concurrent() -> float:
    """Seconds a `once` step takes, 50 async runs at once."""

    async def all_runs() -> None:
        await asyncio.gather(*(asequential.arun(40) for _ in range(50)))

    return per_step(lambda: asyncio.run(all_runs()), 50 * 40)


def model_calls(durable: bool, provider: Provider) -> float:
    client = OpenAI(base_url=provider.base_url, api_key="k")

    def calls() -> None:
        for n in range(40):
            message: Any = {"role": "user", "content": f"hello {n}"}
            client.chat.completions.create(model="gpt-5-mini", messages=[message])

    with client:
        if not durable:
            return per_step(calls, 40)
        agentrun.wrap(client)
        return per_step(agentrun.agent(name="talk")(calls).run, 40)


def takeover(dsn: str, folder: Path) -> float:
    """Seconds from SIGKILL to the next new step in another process, at default settings."""
    key = f"takeover-{time.time_ns()}"
    pids, times = folder / f"{key}.pid", folder / f"{key}.time"

    @agentrun.agent(name="takeover")
    def work() -> None:
        once(1)
        if not pids.exists():
            pids.write_text(str(os.getpid()))
            signal.pause()
        once(2)
        times.write_text(str(time.time()))

    def child() -> None:
        agentrun.connect(dsn)
        work.with_options(key=key).run()

    first = fork(child)
    while not pids.exists():
        time.sleep(0.005)
    time.sleep(0.05)
    second = fork(child)  # waits for the run
    time.sleep(0.3)
    os.kill(first, signal.SIGKILL)
    killed = time.time()
    os.waitpid(first, 0)
    os.waitpid(second, 0)
    return float(times.read_text()) - killed


def fork(action: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    return pid


def main() -> None:
    database = agentrun.connect()
    dsn = database.dsn
    with database.connection() as conn:
        server = conn.execute("SHOW server_version").fetchone()
    print(f"Python {platform.python_version()}, psycopg {psycopg.__version__}, server {server}, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    figures: dict[str, list[float]] = {}
    with Provider() as provider, tempfile.TemporaryDirectory() as folder:
        asyncio.run(asequential.arun(20))
        for _ in range(REPEATS):
            for name, measure in {
                "plain insert + commit": lambda: plain_inserts(dsn),
                "once step, one run, sync": lambda: per_step(lambda: sequential.run(STEPS)),
                "once step, 50 async runs": concurrent,
                "model call, plain": lambda: model_calls(False, provider),
                "model call, recorded": lambda: model_calls(True, provider),
                "SIGKILL to next step": lambda: takeover(dsn, Path(folder)),
            }.items():
                figures.setdefault(name, []).append(measure())
    for name, values in figures.items():
        print(json.dumps({"figure": name, "seconds": [round(v, 6) for v in values]}))
    median = {name: statistics.median(values) for name, values in figures.items()}
    yard = median["plain insert + commit"]
    for name, value in median.items():
        print(f"{name:28} {value * 1000:10.3f} ms   {value / yard:7.2f} x an insert")
    extra = median["model call, recorded"] - median["model call, plain"]
    print(f"{'wrap adds to a model call':28} {extra * 1000:10.3f} ms")
    database.close()


if __name__ == "__main__":
    sys.exit(main())
