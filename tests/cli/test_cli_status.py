"""What people are told of a run that is under way, decided, or waits for a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import pytest
from command_line import Cli, Write
from terminal import printed

from agentrun.cli.options import Status
from agentrun.core.events import RunStatus
from agentrun.testing import Provider, Reply

CLERK = """
import agentrun

@agentrun.tool(approve=True)
def pay(cents: int) -> str:
    return f"paid {cents}"

@agentrun.agent
def clerk(cents: int) -> str:
    return pay(cents)
"""
ASKS = """
import os
import agentrun
from openai import OpenAI

@agentrun.agent
def asks() -> str:
    client = agentrun.wrap(OpenAI(base_url=os.environ["DOUBLE"], api_key="k"))
    asked = [{"role": "user", "content": "hi"}]
    reply = client.chat.completions.create(model="gpt-5-mini", messages=asked)
    return reply.choices[0].message.content
"""
TWICE = """
import asyncio
import agentrun

@agentrun.tool(approve=True)
async def pay(cents: int) -> str:
    return f"paid {cents}"

@agentrun.agent
async def clerk() -> list:
    async def one(cents: int) -> str:
        with agentrun.branch(str(cents)):
            return await pay(cents)
    return await asyncio.gather(one(1), one(2))
"""
NOBODY = "no live worker knows agent 'clerk': start one with `agentrun worker FILE`"


def until(told: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not told():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@contextmanager
def started(dsn: str, *args: object, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "agentrun", *map(str, args)]
    process = subprocess.Popen(
        command, env={**os.environ, "AGENTRUN_DATABASE_URL": dsn, **env},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def shown(cli: Cli, *args: object) -> str:
    return str(cli(*args).stdout)


def test_a_call_of_a_live_process_is_running_and_of_a_dead_one_possibly_billed(
    cli: Cli, dsn: str, write: Write
) -> None:
    billing = "select billing from agentrun.spend"
    with Provider(script=[Reply("late", delay_s=600)]) as provider:
        file = write(ASKS)
        with started(dsn, "run", file, "--key", "k", DOUBLE=provider.base_url) as process:
            until(lambda: bool(provider.ledger()))
            alive = [shown(cli, "show", "k"), shown(cli, "export", "k", "--md"),
                     shown(cli, "export", "k", "--html")]  # fmt: skip
            assert all("· running" in told for told in alive)
            assert not any("possibly billed" in told for told in alive)
            assert "running" in shown(cli, "sql", billing)
            process.send_signal(signal.SIGKILL)
            process.wait()
            until(lambda: "owner dead" in shown(cli, "ls"))
            dead = shown(cli, "show", "k")
            assert "running (owner dead)" in dead
            assert "open · 1 possibly billed" in dead
            assert "possibly billed" in shown(cli, "export", "k", "--md")
            assert "possibly billed" in shown(cli, "sql", billing)


@pytest.fixture
def held(cli: Cli, write: Write) -> str:
    """The file of a run `k` that waits for an approval, and has no worker."""
    file = str(write(CLERK))
    assert cli("run", file, 500, "--key", "k").exit_code == 3
    return file


def test_the_inbox_of_one_run(cli: Cli, held: str) -> None:
    assert cli("run", held, 700, "--key", "other").exit_code == 3
    assert len(json.loads(shown(cli, "inbox", "--json"))) == 2
    (listed,) = json.loads(shown(cli, "inbox", "k", "--json"))
    assert (listed["key"], listed["reason"]) == ("k", "step 1, pay, waits for an approval")
    assert cli("inbox", "nobody").exit_code == 4


@pytest.mark.parametrize("how", ["approve", "reject"])
def test_what_is_decided_and_not_taken_up_is_told_as_that(
    cli: Cli, dsn: str, held: str, how: str
) -> None:
    told = cli(how, "k", 1, "--by", "ana", "--reason", "so").stderr
    assert NOBODY in told
    assert "`agentrun resume k FILE`, or run your program again" in told
    assert "a worker goes on" not in told
    (row,) = json.loads(shown(cli, "ls", "--json"))
    assert (row["status"], row["decided_at"] is None) == ("held", False)
    assert "decided, not taken up yet" in shown(cli, "ls")
    assert printed("--dsn", dsn, "ls").splitlines()[1].startswith("decided  k ")
    assert f"decided, step 1, pay: {how} by ana: so, not taken up yet; {NOBODY}" in (
        shown(cli, "show", "k")
    )
    (listed,) = json.loads(shown(cli, "inbox", "--json"))
    assert (listed["key"], listed["step"], listed["waits_for"]) == ("k", 1, "decided")
    assert NOBODY in shown(cli, "inbox")
    assert json.loads(shown(cli, "show", "k", "--json"))["decided"][0]["decision"] == how
    cli("resume", "k", held)
    assert "decided," not in shown(cli, "show", "k")
    assert json.loads(shown(cli, "inbox", "--json")) == []
    assert json.loads(shown(cli, "ls", "--json"))[0]["decided_at"] is None


def test_a_run_that_asks_for_something_else_too_is_held(cli: Cli, dsn: str, write: Write) -> None:
    assert cli("run", write(TWICE), "--key", "k").exit_code == 3
    first, second = (row["step"] for row in json.loads(shown(cli, "inbox", "--json")))
    cli("approve", "k", first)
    assert json.loads(shown(cli, "ls", "--json"))[0]["decided_at"] is None
    waits = {row["step"]: row["waits_for"] for row in json.loads(shown(cli, "inbox", "--json"))}
    assert waits == {first: "decided", second: "decision"}


def test_a_worker_goes_on_only_where_one_lives_that_takes_the_queue(
    cli: Cli, dsn: str, write: Write
) -> None:
    file = write(CLERK)
    assert NOBODY in cli("submit", file, 1, "--key", "a").stderr
    with started(dsn, "worker", file):
        until(lambda: json.loads(shown(cli, "ls", "--json"))[0]["status"] == "held")
        assert "a worker goes on with the run" in cli("approve", "a", 1).stderr
        assert "no live worker" not in cli("submit", file, 1, "--key", "b").stderr
        told = cli("submit", file, 1, "--key", "c", "--queue", "slow").stderr
        assert "no live worker that knows agent 'clerk' serves queue 'slow'" in told
        assert "`agentrun worker FILE --queue slow`" in told


def test_ls_takes_every_status_of_a_run() -> None:
    assert list(Status) == list(get_args(RunStatus))
