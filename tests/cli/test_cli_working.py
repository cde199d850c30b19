"""`submit`, `worker`, `approve`, `reject`, `cancel` as a person uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, Write

from agentrun.testing import Provider

AGENT = """
import agentrun

@agentrun.tool(approve=True)
def pay(cents: int) -> str:
    return f"paid {cents}"

@agentrun.agent
def clerk(cents: int) -> str:
    try:
        return pay(cents)
    except agentrun.ToolFailed as error:
        return str(error)
"""


@pytest.fixture
def agent_file(tmp_path: Path) -> str:
    file = tmp_path / "clerk_agent.py"
    file.write_text(AGENT)
    return str(file)


@pytest.fixture
def working(dsn: str, agent_file: str) -> Any:
    """A worker process on that file, drained by SIGTERM."""
    process = worker(dsn, agent_file)
    yield process
    process.send_signal(signal.SIGTERM)
    assert_drains(process)


def worker(dsn: str, agent_file: str) -> subprocess.Popen[str]:
    environment = os.environ | {"AGENTRUN_DATABASE_URL": dsn}
    command = [sys.executable, "-m", "agentrun", "worker", agent_file]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def assert_drains(process: subprocess.Popen[str]) -> None:
    try:
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, told
    assert "drained" in told


def status(cli: Cli, key: str) -> str:
    rows = json.loads(cli("ls", "--json").stdout)
    return str(next(row["status"] for row in rows if row["key"] == key))


def until(cli: Cli, key: str, wanted: str) -> None:
    deadline = time.monotonic() + 60
    while status(cli, key) != wanted:
        assert time.monotonic() < deadline, status(cli, key)
        time.sleep(0.05)


def test_a_submitted_run_is_approved_and_done(cli: Cli, agent_file: str, working: Any) -> None:
    submitted = cli("submit", agent_file, "500", "--key", "k")
    assert submitted.stdout.strip() == "k"
    until(cli, "k", "held")
    assert cli("approve", "k", "1", "--by", "ada", "--arguments", '{"cents": 5}').exit_code == 0
    until(cli, "k", "done")
    assert "paid 5" in cli("show", "k").stdout


def test_a_rejected_call_is_told(cli: Cli, agent_file: str, working: Any) -> None:
    cli("submit", agent_file, "500", "--key", "k")
    until(cli, "k", "held")
    assert cli("reject", "k", "1", "--reason", "too much").exit_code == 0
    until(cli, "k", "done")
    assert "too much" in cli("show", "k").stdout


def test_a_queued_run_is_cancelled(cli: Cli, agent_file: str) -> None:
    cli("submit", agent_file, "500", "--key", "k")
    assert json.loads(cli("cancel", "k", "--json").stdout) == {"key": "k", "status": "cancelled"}
    assert cli("cancel", "k").exit_code == 1


SPENDER = """
import os
import agentrun
from openai import OpenAI

@agentrun.agent(budget=agentrun.Budget(model_calls=1, usd=1))
def spender() -> str:
    client = agentrun.wrap(OpenAI(base_url=os.environ["DOUBLE"], api_key="k"))
    for question in ("one", "two"):
        asked = [{"role": "user", "content": question}]
        reply = client.chat.completions.create(model="gpt-5-mini", messages=asked)
    return reply.choices[0].message.content
"""


def test_a_budget_is_raised(cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider() as provider:
        monkeypatch.setenv("DOUBLE", provider.base_url)
        file = write(SPENDER)
        assert cli("run", file, "--key", "k").exit_code == 3
        (waits,) = json.loads(cli("inbox", "--json").stdout)
        assert waits["commands"][0] == "agentrun approve k 2 --budget model_calls=2"
        assert waits["suggested_budget"] == {"model_calls": 2}
        assert "agentrun" not in waits["reason"]
        for wrong in ("pounds=2", "usd=much", "usd=-1", "usd"):
            assert cli("approve", "k", "2", "--budget", wrong).exit_code == 2
        mere = cli("approve", "k", "2")
        assert mere.exit_code == 1
        assert "--budget model_calls=2" in mere.stderr
        given = cli("approve", "k", "2", "--budget", "model_calls=2", "--budget", "usd=2")
        assert given.exit_code == 0
        assert "echo: two" in cli("resume", "k", file).stdout
        assert "larger budget" not in cli("show", "k").stdout
        assert "possibly billed" not in cli("show", "k").stdout


def test_what_does_not_wait_cannot_be_approved(cli: Cli, agent_file: str) -> None:
    cli("submit", agent_file, "500", "--key", "k")
    assert cli("approve", "k", "1").exit_code == 1


def test_a_worker_that_was_stopped_as_it_was_told_to_end_drains_when_it_goes_on(
    dsn: str, agent_file: str
) -> None:
    """The signal then comes to any of its threads, and must be noticed by the main one."""
    processes = [worker(dsn, agent_file) for _ in range(3)]
    for process in processes:
        assert process.stderr is not None
        assert "drains" in process.stderr.readline()
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
            process.send_signal(number)
            time.sleep(0.05)  # nemesis
    for process in processes:
        assert_drains(process)
