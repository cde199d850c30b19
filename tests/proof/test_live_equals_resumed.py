"""What an agent saw is what it sees again: random agents, killed and resumed.

Each agent runs once undisturbed. Then it runs again, is killed at a point, and resumed by a process
with another hash seed, which is killed as well, until it comes to its end. All that its code saw
must be what the undisturbed one saw; what is drawn anew in each run (`~`), what its own first
process saw.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seen
from matrix import SEED, Proof

from agentrun.testing import Provider

HERE = Path(__file__).parent
MOST = 80  # processes that one agent may take
ALL, SHARE = 520, 12


class Interpreter:
    """A Python with a hash seed of its own that forks a process for each order."""

    def __init__(self, hash_seed: int, dsn: str, url: str) -> None:
        path = os.pathsep.join(sys.path)
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "seen.py"), dsn, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def play(self, seed: str, key: str, at: int, trace: Path) -> int:
        """How the process ended that played this agent, and was struck at its ``at``-th point."""
        order = {"seed": seed, "key": key, "at": at, "trace": str(trace)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def interpreters(dsn: str, provider: Provider) -> Iterator[tuple[Interpreter, Interpreter]]:
    pair = Interpreter(1, dsn, provider.base_url), Interpreter(2, dsn, provider.base_url)
    yield pair
    for one in pair:
        one.end()


class Execution:
    """What one execution of an agent saw: its own code, in order; others by their names.

    Others are bodies of tools, children, and whoever reads the items of an agent that yields.
    """

    def __init__(self) -> None:
        self.own: list[Any] = []
        self.others: dict[str, list[str]] = {}


def executions(path: Path) -> list[Execution]:
    """What a process saw. A run that waited for a person begins anew once that has decided."""
    found: list[Execution] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        who, what = json.loads(line)
        if who == "given" or not found:
            found.append(Execution())
        if who.split()[0] in ("body", "child", "item", "~body"):
            found[-1].others.setdefault(who, []).append(what)
        else:
            found[-1].own.append([who, what])
    return found


def drawn_apart(own: list[Any]) -> list[Any]:
    return [[who, None if who.startswith("~") else what] for who, what in own]


def durable(own: list[Any]) -> int:
    """How many of the lines stand in the journal for sure: those before the last effect.

    What only reads is handed out before its record is durable, since nothing depends on it yet.
    """
    effects = [at for at, (who, _) in enumerate(own) if who not in ("~clock", "~read", "looked")]
    return effects[-1] if effects else 0


def compare(undisturbed: Path, traces: list[Path]) -> None:
    """All that any process saw is what the undisturbed one saw, as far as it came."""
    first = executions(undisturbed)
    every = [one for trace in traces for one in executions(trace)]
    expected = first[-1].own
    longest = max((one.own for one in reversed(every)), key=len)
    assert drawn_apart(longest) == drawn_apart(expected)[: len(longest)]
    assert every[-1].own[-1] == expected[-1]
    inside: dict[str, list[str]] = {}
    for one in first:
        for who, shown in one.others.items():
            inside[who] = max(inside.get(who, []), shown, key=len)
    agree(first, expected, inside)
    agree(every, longest, inside)


def agree(every: list[Execution], longest: list[Any], inside: dict[str, list[str]]) -> None:
    """Executions of one run saw the same: what is drawn anew in each run as well."""
    for one in every:
        own = one.own
        if own[:1] and own[0][0] != "returned":  # of a run that had ended, one sees the result
            assert drawn_apart(own) == drawn_apart(longest[: len(own)])
            assert own[: durable(own)] == longest[: durable(own)]
        for who, shown in one.others.items():
            if not who.startswith("~"):
                # A child's lines begin anew in each process, too.
                assert shown == inside[who][: len(shown)]


def take_turns(
    pair: tuple[Interpreter, Interpreter],
    folder: Path,
    seed: str,
    first: int | None = None,
    lives: tuple[int, int] = (2, 8),
) -> int:
    """Play an agent through all its deaths, and compare; returns how often it was killed.

    It lives for so many points each time; with ``first`` it is killed once, at that point.
    """
    chance = random.Random(f"{seed} deaths")
    undisturbed = folder / "undisturbed"
    if not undisturbed.exists():
        assert pair[0].play(seed, f"{seed} undisturbed", 0, undisturbed) == seen.DONE
    traces: list[Path] = []
    for n in range(MOST):
        at = chance.randint(*lives) if first is None else first if n == 0 else 0
        traces.append(folder / f"{first}-{n}")
        status = pair[(n + 1) % 2].play(seed, f"{seed} killed {first}", at, traces[-1])
        if status == seen.DONE:
            compare(undisturbed, traces)
            return n
        assert status == seen.STRUCK
    raise AssertionError(f"the agent {seed} came to no end in {MOST} processes")


@pytest.mark.long
def test_killed_at_every_point_an_agent_sees_the_same_again(
    interpreters: Any, tmp_path: Path
) -> None:
    """One agent, each point."""
    seed = f"{SEED} every point"
    try:
        for at in range(1, 500):
            if take_turns(interpreters, tmp_path, seed, at) == 0:
                return
    except BaseException as error:
        error.add_note(f"AGENTRUN_SEED={SEED}: {seen.style(seed)} {seen.program(seed)}")
        raise


@pytest.mark.long
def test_an_agent_that_meets_every_kind_sees_it_again(
    interpreters: Any, tmp_path: Path, proof: Proof
) -> None:
    """Every type, exception, interface of a model and shape, by agents of each style."""
    for case in proof.cases("live equals resumed, every kind", seen.STYLES, 1):
        with case:
            folder = tmp_path / case.name
            folder.mkdir()
            seed = f"{SEED} {seen.EVERY} {case.name}"
            killed = take_turns(interpreters, folder, seed, lives=(30, 90))
            case.count(kills=killed)
            assert killed


@pytest.mark.long
def test_killed_again_and_again_agents_see_the_same_again(
    interpreters: Any, tmp_path: Path, proof: Proof
) -> None:
    """Random agents; AGENTRUN_SEED draws them."""
    for case in proof.cases("live equals resumed", [f"{n:03}" for n in range(ALL)], SHARE):
        with case:
            seed = f"{SEED} {case.name}"
            folder = tmp_path / case.name
            folder.mkdir()
            try:
                case.count(kills=take_turns(interpreters, folder, seed))
            except BaseException as error:
                error.add_note(f"{seen.style(seed)} {seen.program(seed)}")
                raise
