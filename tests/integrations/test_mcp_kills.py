"""A client of MCP and its server, each killed at every point: no task is lost, none is done twice.

The client's run calls two agents of the server, one after the other, as tasks. One of the two
processes is killed at its point number N, and started again. All points come with ``--whole``, else
a share of them that AGENTRUN_SEED draws.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import mcp_agents
import pytest
import uvicorn
from killed_servers import PATIENCE, Process, free_port, listening
from mcp_agents import customer, packed

import agentrun
from agentrun.integrations.mcp_server import make_server

SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)
SHARE = 6  # points of each side

pytestmark = pytest.mark.long


@contextmanager
def served(dsn: str, port: int, at: int | None = None) -> Iterator[Process]:
    """A server of the agents, which has begun to listen."""

    def serve() -> None:
        agentrun.connect(dsn)
        app = make_server([mcp_agents.packer]).streamable_http_app()
        uvicorn.run(app, host="127.0.0.1", port=port, log_config=None)

    with listening(serve, port, at) as server:
        yield server


def use(dsn: str, server: Process, key: str, at: int | None = None) -> Process:
    """Let a client have its orders packed, and check that each was, once."""
    orders = [f"{key} first", f"{key} second"]

    def buy() -> None:
        agentrun.connect(dsn)
        go: Callable[[], Any] = lambda: customer.with_options(key=key).run(orders=orders)  # noqa: E731
        while True:
            try:
                go()
                return
            except agentrun.RunFailed:  # the server was away when the run connected
                time.sleep(0.2)
                go = lambda: agentrun.resume(key)  # noqa: E731

    client = Process(buy, at)
    deadline = time.monotonic() + PATIENCE
    while not client.has_ended():
        server.has_ended()
        assert time.monotonic() < deadline, f"{key} takes too long"
        time.sleep(0.01)
    assert customer.with_options(key=key).run(orders=orders) == [f"packed {one}" for one in orders]
    assert [one for one in packed() if one.startswith(f"{key} ")] == orders
    return client


def count_tasks(sql: Any) -> int:
    ((count,),) = sql("SELECT count(*) FROM agentrun.runs WHERE agent = 'mcp_packer'")
    return int(count)


@pytest.mark.parametrize("side", ["client", "server"])
def test_killed_at_every_point_each_task_is_done_once(
    db: Any,
    dsn: str,
    sql: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    side: Literal["client", "server"],
) -> None:
    port = free_port()
    monkeypatch.setenv("OUTSIDE", str(tmp_path))
    monkeypatch.setenv("URL", f"http://127.0.0.1:{port}/mcp")
    with served(dsn, port) as server:
        client = use(dsn, server, "calm")
        passed = (client if side == "client" else server).points
    numbers = list(range(passed))
    if not request.config.getoption("--whole"):
        numbers = random.Random(SEED).sample(numbers, SHARE)
    kills = 0
    for number in numbers:
        key = f"{side}-{number}"
        before = count_tasks(sql)
        with served(dsn, port, number if side == "server" else None) as server:
            client = use(dsn, server, key, number if side == "client" else None)
            kills += client.kills + server.kills
        assert count_tasks(sql) == before + 2, f"{key}, AGENTRUN_SEED={SEED}"
    print(f"{side}: {kills} kills at {len(numbers)} of {passed} points, {2 * len(numbers)} tasks")
    assert kills >= len(numbers) * 0.8  # a point that another run does not reach
