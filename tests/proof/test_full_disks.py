"""The disk of the data or of the log is full: runs wait, lose nothing, go on when there is room.

Two small disks of their own, one for the tables and one for the write-ahead log. A full one for
tables fails statements; a full one for the log takes the server down.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from crashing import World
from invariants import assert_invariants
from servers import fill, free, small_disk

import agentrun
from agentrun.store import embedded

if TYPE_CHECKING:
    from matrix import Proof

pytestmark = pytest.mark.long

STEPS = 8
RUNS = 3
# 60 KB a step that no compression makes smaller than half, nor the one step refer to another.
TEXTS = [os.urandom(30_000).hex() for _ in range(STEPS)]
SEGMENT = 16 << 20  # bytes of a file of the log
# Of the log, one new file is left, so that its disk is soon full.
SETTINGS = {"checkpoint_timeout": "1h", "max_wal_size": "64MB", "wal_recycle": "off"}


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """A server with its data on one small disk, its log on another; its DSN, and the disks."""
    folder.parent.chmod(0o755)  # as root, Postgres runs as somebody else, who must pass
    folder.mkdir()
    disks = {"data": folder / "data", "wal": folder / "wal"}
    with small_disk(disks["data"], 150), small_disk(disks["wal"], 100):
        embedded.start(disks["data"])
        embedded.stop(disks["data"])
        log = embedded.where(disks["data"]).data / "pg_wal"
        subprocess.run(["mv", log, disks["wal"]], check=True)  # which keeps the owner
        log.symlink_to(disks["wal"] / "pg_wal")
        try:
            yield embedded.start(disks["data"], options=SETTINGS), disks
        finally:
            embedded.stop(disks["data"])


def fill_up(dsn: str, full: str, disk: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_switch_wal()")
        conn.execute("CHECKPOINT")
        fill(disk, but=8 << 20 if full == "wal" else 0)
        if full == "wal":
            (at,) = conn.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone() or (0,)
            left = SEGMENT - int(at) % SEGMENT  # of which pages and records need some themselves
            nearly = int(left * 0.996) - 50_000
            with contextlib.suppress(psycopg.Error):  # other runs may have needed the rest
                conn.execute("SELECT pg_logical_emit_message(false, '', repeat('x', %s))", [nearly])


def agent_of(world: World, strike: dict[int, Callable[[], None]]) -> Any:
    """Eight steps of 60 KB each; in the first run something happens, once, in one of them."""

    @agentrun.tool
    def act(run: int, n: int) -> str:
        world.act(f"{run} act {n}")
        if run == 0:
            strike.pop(n, lambda: None)()
        return f"{n}{TEXTS[n]}"

    @agentrun.tool(effect="transaction")
    def count(run: int, n: int) -> str:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (run,))
        if run == 0:
            strike.pop(n, lambda: None)()
        return TEXTS[n]

    @agentrun.agent
    def fills(run: int) -> list[int]:
        return [len((count if n % 4 == 2 else act)(run, n)) for n in range(STEPS)]

    return fills


def until_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + 120
    while not any("waiting for the database" in record.getMessage() for record in caplog.records):
        assert time.monotonic() < deadline, "no run says that it waits"
        time.sleep(0.05)


def test_runs_wait_for_room_and_lose_nothing(
    new_home: Path, tmp_path: Path, proof: Proof, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{full} full at step {step}" for full in ("data", "wal") for step in range(STEPS)]
    for case in proof.cases("full disk", names, share=2):
        with case, server(new_home / case.name.replace(" ", "-")) as (dsn, disks):
            full = case.name.split()[0]
            world = World(tmp_path / case.name)
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("CREATE TABLE counted (run int)")
            strike = partial(fill_up, dsn, full, disks[full])
            agent = agent_of(world, {int(case.name[-1]): strike})
            caplog.clear()
            with agentrun.connect(dsn), agentrun.Worker([agent], concurrency=RUNS):
                handles = [agent.submit(run) for run in range(RUNS)]
                until_it_waits(caplog)
                free(disks[full])
                embedded.start(disks["data"])  # should it have given up
                lengths = [handle.result(timeout=120) for handle in handles]
            transaction, other = len(TEXTS[0]), len(TEXTS[0]) + 1
            assert lengths == [[transaction if n % 4 == 2 else other for n in range(STEPS)]] * RUNS
            effects = [f"{run} act {n}" for run in range(RUNS) for n in range(STEPS) if n % 4 != 2]
            assert sorted(world.effects) == effects
            with psycopg.connect(dsn) as conn:
                rows = conn.execute("SELECT run, count(*) FROM counted GROUP BY 1 ORDER BY 1")
                assert rows.fetchall() == [(run, STEPS // 4) for run in range(RUNS)]
            assert_invariants(dsn)
            case.count(runs=RUNS, lost=0)
