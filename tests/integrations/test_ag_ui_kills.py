"""A server of AG-UI, killed at every point while a front end reads: the front end notices a pause.

The server is the worker of the runs as well. All points come with ``--whole``, else a share of them
that AGENTRUN_SEED draws.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ag_ui_desk
import pytest
import uvicorn
from ag_ui_desk import SCRIPT, served_desk
from front_end import FrontEnd, comparable, verify
from killed_servers import Process, free_port, listening
from outside_tools import kept

import agentrun
from agentrun.integrations.ag_ui import run_key
from agentrun.testing import Fault, Provider

SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)
SHARE = 6  # points
SLOWLY = [  # so that texts come in pieces
    reply if isinstance(reply, str) else type(reply)(reply.text, reply.tool_calls, pace_s=0.2)
    for reply in SCRIPT
]


@pytest.fixture
def serve(
    db: Any, dsn: str, provider: Provider, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    monkeypatch.setattr(ag_ui_desk.client, "base_url", provider.base_url)

    def serve(port: int) -> None:
        agentrun.connect(dsn)
        uvicorn.run(served_desk(), host="127.0.0.1", port=port, log_config=None)

    return serve  # type: ignore[return-value]


def converse(server: Process, port: int, thread: str, **options: Any) -> FrontEnd:
    front = FrontEnd(f"http://127.0.0.1:{port}/", thread, between=server.has_ended, **options)
    front.converse("r")
    verify(front.events)
    ids = [id_ for id_, _ in front.sent]
    assert len(set(ids)) == len(ids)
    return front


def count_possibly_billed(sql: Any, thread: str) -> int:
    spend = "SELECT count(*) FROM agentrun.spend WHERE key = %s AND billing = 'possibly billed'"
    ((count,),) = sql(spend, run_key(thread, "r"))
    return int(count)


def test_killed_while_a_text_comes_the_front_end_reads_on(
    serve: Any, provider: Provider, sql: Any
) -> None:
    provider.say(SLOWLY)
    port = free_port()
    with listening(lambda: serve(port), port) as server:
        calm = converse(server, port, "calm")
        provider.arm(Fault.hold(at=4, when={"turn": 0}))
        killed = False

        def kill_after_text() -> None:
            nonlocal killed
            server.has_ended()
            seen = [event["type"] for event in front.events]
            if "TEXT_MESSAGE_CONTENT" in seen and not killed:
                os.kill(server.pid, 9)
                killed = True

        front = FrontEnd(f"http://127.0.0.1:{port}/", "killed", each=True, between=kill_after_text)
        front.converse("r")
        assert server.kills == 1
    assert comparable(front.events) == comparable(calm.events)
    assert len(provider.effects()) == 2 * len(SCRIPT) + 1  # the call that was under way
    assert kept() == ["5 cents", "5 cents", "7", "7"]
    assert count_possibly_billed(sql, "killed") == 1


@pytest.mark.long
def test_killed_at_every_point_the_front_end_sees_each_event_once(
    serve: Any, provider: Provider, request: pytest.FixtureRequest, sql: Any
) -> None:
    provider.say(SLOWLY)
    port, draw = free_port(), random.Random(SEED)
    with listening(lambda: serve(port), port) as server:
        calm = converse(server, port, "calm")
        passed = server.points
    numbers = list(range(passed))
    if not request.config.getoption("--whole"):
        numbers = draw.sample(numbers, SHARE)
    kills = again = 0
    for number in numbers:
        before, acts = len(provider.effects()), len(kept())
        cuts = draw.choice([1 << 40, 700])
        with listening(lambda: serve(port), port, number) as server:
            front = converse(server, port, f"killed-{number}", cut=lambda _, most=cuts: most)
            kills += server.kills
        assert comparable(front.events) == comparable(calm.events), f"{number}, {SEED}"
        billed = len(provider.effects()) - before
        assert len(SCRIPT) <= billed <= len(SCRIPT) + server.kills  # what was under way
        again += billed - len(SCRIPT)
        assert len(kept()) == acts + 2
        assert billed <= len(SCRIPT) + count_possibly_billed(sql, f"killed-{number}")
    print(f"{kills} kills at {len(numbers)} of {passed} points; {again} calls were under way")
    assert kills >= len(numbers) * 0.8  # a point that another run does not reach
