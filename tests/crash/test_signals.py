"""SIGTERM and one Ctrl-C end a process whose database is away: real processes, signals, servers."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from servers import kill, postmaster

import agentrun
from agentrun.store import embedded

PROGRAM = """
import asyncio, signal, sys, time
import agentrun

how, effects, dsn = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)

@agentrun.step(effect="idempotent")
def work(n):
    with open(effects, "a") as file:
        print(n, file=file)
    if n == 1 and "again" not in how:
        print("half", flush=True)
        sys.stdin.readline()
    return n

@agentrun.agent(name="a")
def agent(count: int):
    done = []
    for n in range(count):
        done.append(work(n))
        if n == 1 and how == "exit":
            sys.exit(3)
    return done

@agentrun.agent(name="b")
async def async_agent(count: int):
    return [await asyncio.to_thread(work, n) for n in range(count)]

agentrun.connect(dsn)
if how in ("run", "exit", "again"):
    print(agent.with_options(key="k").run(4), flush=True)
elif how == "arun":
    print(asyncio.run(async_agent.with_options(key="k").arun(4)), flush=True)
elif how == "await again":
    print(asyncio.run(async_agent.with_options(key="k").arun(4)), flush=True)
elif how == "worker":
    agent.with_options(key="k").submit(4)
    with agentrun.Worker([agent]):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        while True:
            time.sleep(0.05)
"""


@contextlib.contextmanager
def away(home: Path, how: str) -> Iterator[None]:
    """The server does not answer, or is not there."""
    if how == "killed":
        kill(home)
        yield
        embedded.start(home)
        return
    first = postmaster(home)
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def begun(how: str, effects: Path, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, how, str(effects), embedded.where(home).dsn()]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


CASES = [
    *[
        ("stopped", how, number)
        for how in ("run", "arun", "worker")
        for number in (signal.SIGTERM, signal.SIGINT)
    ],
    ("killed", "arun", signal.SIGINT),
    ("killed", "exit", None),
]


@pytest.mark.parametrize(("outage", "how", "number"), CASES)
def test_a_process_ends_though_its_database_is_away(
    new_home: Path, tmp_path: Path, outage: str, how: str, number: int | None
) -> None:
    effects = tmp_path / "effects"
    agentrun.connect(embedded.start(new_home)).close()
    with begun(how, effects, new_home) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "half\n"
            with away(new_home, outage):
                process.stdin.write("\n")
                process.stdin.flush()
                if number is not None:
                    process.send_signal(number)
                out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    expected = {None: 3, signal.SIGTERM: 143, signal.SIGINT: 130}
    codes = {expected[number], -signal.SIGINT} | ({1} if how == "worker" else set())
    assert process.returncode in codes, err
    assert out == ""
    assert "run 'k': its last" in err, err
    assert "could not be written" in err
    again = "await again" if how == "arun" else "again"
    with begun(again, effects, new_home) as process:
        out, err = process.communicate(timeout=90)
    assert out == "[0, 1, 2, 3]\n", err
    performed = effects.read_text().split()
    assert sorted(set(performed)) == ["0", "1", "2", "3"]
    assert performed.count("0") == performed.count("3") == 1
    assert performed.count("1") <= 2  # its outcome may not have been written
