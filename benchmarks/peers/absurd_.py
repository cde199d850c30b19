"""Absurd: `absurd_.py FIGURE DSN`. Its schema comes from absurdctl, the rest from its SDK."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from absurd_sdk import Absurd, AsyncAbsurd

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import sizes


def prepare(dsn: str) -> None:
    control = str(Path(sys.executable).with_name("absurdctl"))
    for command in (["init"], ["create-queue", "bench"]):
        subprocess.run([control, *command, "--database", dsn], capture_output=True)


def sequential(dsn: str, steps: int) -> float:
    app, took = Absurd(dsn, queue_name="bench"), []

    @app.register_task(name="sequential")
    def work(params: Any, ctx: Any) -> int:
        begun = time.perf_counter()
        for n in range(steps):
            ctx.step(f"s{n}", lambda n=n: n)
        took.append(time.perf_counter() - begun)
        return steps

    app.spawn("sequential", {})
    app.work_batch(batch_size=1)
    return took[0] / steps


async def concurrent(dsn: str) -> float:
    app = AsyncAbsurd(dsn, queue_name="bench")

    @app.register_task(name="aseq")
    async def work(params: Any, ctx: Any) -> int:
        for n in range(sizes.RUN_STEPS):
            await ctx.step(f"s{n}", lambda n=n: asyncio.sleep(0, n))
        return 1

    for _ in range(sizes.RUNS):
        await app.spawn("aseq", {})
    begun = time.perf_counter()
    worker = asyncio.create_task(app.start_worker(concurrency=sizes.RUNS))
    await drained(dsn, worker)
    return (time.perf_counter() - begun) / sizes.RUNS / sizes.RUN_STEPS


async def drained(dsn: str, worker: asyncio.Task[None]) -> None:
    """Until the worker has no task left. Raises what ended it."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        while True:
            if worker.done():
                worker.result()
            rows = await conn.execute(
                "SELECT count(*) FROM absurd.t_bench WHERE state <> 'completed'"
            )
            if (await rows.fetchone() or (0,))[0] == 0:
                return
            await asyncio.sleep(0.01)


def in_worker(dsn: str) -> Absurd:
    """A client, and a worker of its own in a thread."""
    worker = Absurd(dsn, queue_name="bench")

    @worker.register_task(name="moment")
    def moment(params: Any, ctx: Any) -> float:
        return ctx.step("moment", time.time)

    threading.Thread(
        target=lambda: worker.start_worker(concurrency=sizes.RUNS), daemon=True
    ).start()
    client = Absurd(dsn, queue_name="bench")
    client.register_task(name="moment")(moment)
    return client


def start(dsn: str) -> float:
    client, waits = in_worker(dsn), []
    for _ in range(sizes.STARTS):
        time.sleep(0.05)
        submitted = time.time()
        task = client.spawn("moment", {})
        waits.append(client.await_task_result(task["task_id"]).result - submitted)
    return sorted(waits)[len(waits) // 2]


def submitted(dsn: str) -> float:
    client = in_worker(dsn)
    begun = time.perf_counter()
    tasks = [client.spawn("moment", {}) for _ in range(sizes.SUBMITTED)]
    for task in tasks:
        client.await_task_result(task["task_id"])
    return (time.perf_counter() - begun) / sizes.SUBMITTED


def measure(figure: str, dsn: str) -> float:
    prepare(dsn)
    match figure:
        case "sequential":
            return sequential(dsn, sizes.STEPS)
        case "async":
            return asyncio.run(concurrent(dsn))
        case "start":
            return start(dsn)
        case "submitted":
            return submitted(dsn)
    raise SystemExit(f"Absurd does not measure {figure}")


if __name__ == "__main__":
    print(json.dumps({"value": measure(*sys.argv[1:])}), flush=True)
    os._exit(0)
