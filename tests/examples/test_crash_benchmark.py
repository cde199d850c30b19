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
        [sys.executable, "-m", "benchmarks.crash", "loop", durability, "--points", "0"],
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
    last = trials[-1]
    assert (last["billed"], last["refunds"], last["mails"], last["ended"]) == (8, 2, 2, True)
    again = sum(trial["refunds"] - 1 + trial["mails"] - 1 for trial in trials)
    paid = sum(trial["billed"] - 4 for trial in trials)
    assert (
        row
        == f"| a loop of one's own | none | {len(trials)} | {paid} | 4 | {again} | 0 | 0 | 0 | 0 |"
    )


def test_a_durable_program_pays_the_call_in_flight_and_acts_once(dsn: str) -> None:
    code, trials, row = kill_at_every_message(dsn, "agentrun")
    assert code == 0
    assert len(trials) > 30
    for trial in trials:
        assert trial["billed"] in (4, 5), trial
        assert (trial["refunds"], trial["mails"], trial["answered"]) == (1, 1, True), trial
    asked = sum(trial["asked"] for trial in trials)
    assert 0 < asked < 5, "the mail whose answer was lost is a question to a person"
    assert row.endswith(f"| 1 | 0 | 0 | 0 | {asked} | 9 |")
