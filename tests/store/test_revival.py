"""The embedded server dies under processes that use it: a real SIGKILL of a real postmaster."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from servers import kill, postmaster

from agentrun.store import embedded, revival
from agentrun.store.connection import connect, open_transaction

PROGRAM = """
import sys
import agentrun

@agentrun.step(effect="idempotent")
def work(n):
    if n == 2:
        print("half", flush=True)
        sys.stdin.readline()
    return n

@agentrun.agent(name="a")
def agent(count: int):
    return [work(n) for n in range(count)]

print(agent.with_options(key=sys.argv[1]).run(5), flush=True)
"""


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test uses, this process uses no longer after it."""
    monkeypatch.setattr(revival, "_used", {})


@contextlib.contextmanager
def running(home: Path, key: str) -> Iterator[subprocess.Popen[str]]:
    """A process whose run waits, half done, for a line on its stdin."""
    environment = {**os.environ, "AGENTRUN_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, key],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def starts(home: Path) -> int:
    return embedded.where(home).log.read_text().count("starting PostgreSQL")


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_finish_their_runs_though_the_server_is_killed(
    new_home: Path, processes: int
) -> None:
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(running(new_home, f"k{n}")) for n in range(processes)]
        for process in runs:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
        kill(new_home)
        for process in runs:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in runs:
            out, err = process.communicate(timeout=120)
            assert (out, process.returncode) == ("[0, 1, 2, 3, 4]\n", 0), err
    assert starts(new_home) == 2  # at first, and by one of them


def test_a_server_that_cannot_start_is_not_started_in_a_loop_and_says_why(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = revival.use(new_home)
    settings = embedded.where(new_home).data / "postgresql.conf"
    good = settings.read_text()
    kill(new_home)
    settings.write_text(good + "\nno_such_setting = 1\n")
    with pytest.raises(psycopg.OperationalError, match="no_such_setting"):
        connect(dsn)
    said = embedded.where(new_home).log.read_text()
    for _ in range(3):  # within the pause: the reason again, and no further start
        with pytest.raises(psycopg.OperationalError, match="no_such_setting"):
            open_transaction(dsn)
    assert embedded.where(new_home).log.read_text() == said
    settings.write_text(good)
    monkeypatch.setattr(revival._used[dsn], "not_before", 0.0)
    connect(dsn).close()
    assert revival._used[dsn].pause == revival.FIRST_PAUSE


def test_a_server_that_was_stopped_on_purpose_stays_stopped(new_home: Path) -> None:
    dsn = revival.use(new_home)
    embedded.stop(new_home)
    with pytest.raises(psycopg.OperationalError, match="doctor --stop"):
        connect(dsn)
    assert revival.use(new_home) == dsn  # whoever begins starts it
    connect(dsn).close()
    kill(new_home)
    connect(dsn).close()


def test_a_server_that_only_refuses_is_left_alone(new_home: Path) -> None:
    dsn = revival.use(new_home)
    server = postmaster(new_home)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(embedded.where(new_home).dsn("nowhere"))
    assert not revival.revive(dsn, psycopg.OperationalError("too many connections"))
    assert postmaster(new_home) == server


def test_a_server_of_somebody_else_is_not_ours_to_start(new_home: Path) -> None:
    dsn = embedded.start(new_home)  # as by another process: this one was given the DSN
    kill(new_home)
    with pytest.raises(psycopg.OperationalError):
        connect(dsn)
    assert starts(new_home) == 1
