"""`python -m benchmarks.crash`: what it counts is what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.direct("each program has a database of its own, which a pooler does not know"),
]

ROOT = Path(__file__).parents[2]


def kill_at_every_message(dsn: str, durability: str) -> tuple[int, list[dict[str, Any]], str]:
    """The exit code, the trials of the loop with this durability, and its row of the table."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash", "one's own", durability, "--points", "0"],
        cwd=ROOT,
        env=os.environ | {"AGENTRUN_DATABASE_URL": dsn},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    lines = done.stdout.splitlines()
    trials = [json.loads(line) for line in lines if line.startswith("{")]
    (row,) = (line for line in lines if line.startswith("| a loop of one's own"))
    return done.returncode, [trial for trial in trials if trial["killed"]], row


def test_a_plain_program_pays_and_acts_again(dsn: str) -> None:
    _, trials, row = kill_at_every_message(dsn, "none")
    assert trials, "the program was killed"
    assert all(trial["ended"] and trial["billed"] >= 4 for trial in trials)
    again = sum(trial["refunds"] - 1 + trial["mails"] - 1 for trial in trials)
    paid = sum(trial["billed"] - 4 for trial in trials)
    most = max(trial["billed"] - 4 for trial in trials)
    assert again >= 2, "a kill near the end repeats both effects"
    assert most >= 3, "a kill near the end repeats the calls before it"
    numbers = [len(trials), paid, most, again, 0, 0, 0, 0]
    assert row == f"| a loop of one's own | none | {' | '.join(map(str, numbers))} |"


def test_a_durable_program_pays_the_call_in_flight_and_acts_once(dsn: str) -> None:
    code, trials, row = kill_at_every_message(dsn, "agentrun")
    assert code == 0
    assert trials, "the program was killed"
    for trial in trials:
        assert trial["billed"] in (4, 5), trial
        assert (trial["refunds"], trial["mails"], trial["answered"]) == (1, 1, True), trial
    asked = sum(trial["asked"] for trial in trials)
    assert asked > 0, "the mail whose answer was lost is a question to a person"
    assert row.endswith(f"| 1 | 0 | 0 | 0 | {asked} | 9 |")
