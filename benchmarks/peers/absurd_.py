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


def claims(dsn: str) -> float:
    """A claim beside as many finished, sleeping and waiting tasks as ours."""
    import psycopg

    app = Absurd(dsn, queue_name="bench")
    kinds = {
        "finished": (sizes.FINISHED, lambda ctx: ctx.step("moment", time.time)),
        "sleeping": (sizes.SLEEPING, lambda ctx: ctx.sleep_for("nap", 10 * 86_400)),
        "waiting": (sizes.WAITING, lambda ctx: ctx.await_event("never")),
    }
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name, (times, body) in kinds.items():
            app.register_task(name=name)(lambda params, ctx, body=body: body(ctx))
            task = app.spawn(name, {})
            app.work_batch()
            for table in ("t_bench", "r_bench", "c_bench", "w_bench"):
                copy(conn, table, task["task_id"], times)
        conn.execute("VACUUM ANALYZE")
    spent = []
    for _ in range(sizes.CLAIMS * sizes.TURNS_OF_CLAIMS):
        app.spawn("finished", {})
        begun = time.perf_counter()
        assert app.claim_tasks()
        spent.append(time.perf_counter() - begun)
    return sorted(spent)[len(spent) // 2]


def copy(conn: Any, table: str, task: str, times: int) -> None:
    """The rows of a task so many times, each with ids of its own."""
    from psycopg import sql

    names = [
        name for (name,) in conn.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = ('absurd.' || %s)::regclass"
            " AND attnum > 0 AND NOT attisdropped ORDER BY attnum", [table])
    ]  # fmt: skip
    ids = {"task_id", "run_id", "last_attempt_run", "owner_run_id"}
    columns = [
        sql.SQL("md5({}::text || n)::uuid" if name in ids else "{}").format(sql.Identifier(name))
        for name in names
    ]
    copied = sql.SQL(
        "INSERT INTO absurd.{table} SELECT {columns}"
        " FROM absurd.{table}, generate_series(1, %s) n WHERE task_id = %s"
    ).format(table=sql.Identifier(table), columns=sql.SQL(", ").join(columns))
    conn.execute(copied, [times, task])


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
        case "claims":
            return claims(dsn)
    raise SystemExit(f"Absurd does not measure {figure}")


if __name__ == "__main__":
    print(json.dumps({"value": measure(*sys.argv[1:])}), flush=True)
    os._exit(0)
