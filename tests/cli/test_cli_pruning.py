"""`agentrun prune` as a person, or a timer, uses it."""

from __future__ import annotations

import json

import pytest
from command_line import Cli, Write


@pytest.fixture
def runs(cli: Cli, write: Write) -> Cli:
    """Runs ticket-1 and ticket-10, done, and a file to run them again."""
    for key in ("ticket-1", "ticket-10"):
        assert cli("run", write(), 5, "--key", key).exit_code == 0
    return cli


def test_a_dry_run_counts_and_the_real_one_removes_as_many(runs: Cli) -> None:
    asked = ("prune", "--older-than", "0s")
    told = json.loads(runs(*asked, "--dry-run", "--json").stdout)
    assert (told.pop("dry_run"), told["runs"]) == (True, 2)
    assert told["events"] == sum(
        len(runs("export", key, "--jsonl").stdout.splitlines()) for key in ("ticket-1", "ticket-10")
    )
    line = runs(*asked).stdout
    assert line.startswith(f"removed: 2 runs ({told['events']} events, ")
    again = json.loads(runs(*asked, "--json").stdout)
    assert again.pop("dry_run") is False
    assert set(again) == {"runs", "events", "bytes", "workers", "keys", "blobs"}
    assert set(again.values()) == {0}


def test_what_is_too_young_or_ended_otherwise_stays(runs: Cli) -> None:
    for asked in (
        ("--older-than", "1d"),
        ("--older-than", "0s", "--status", "failed,cancelled"),
        ("--older-than", "0s", "--agent", "other"),
    ):
        assert json.loads(runs("prune", *asked, "--json").stdout)["runs"] == 0
    assert len(json.loads(runs("ls", "--json").stdout)) == 2


def test_a_pruned_key_says_so_and_never_stands_for_a_longer_one(runs: Cli, write: Write) -> None:
    assert runs("prune", "--older-than", "0s").exit_code == 0
    assert runs("run", write(), 5, "--key", "ticket-11").exit_code == 0
    for command in (
        ("show", "ticket-1"), ("watch", "ticket-1"), ("export", "ticket-1", "--md"),
        ("cancel", "ticket-1"), ("resume", "ticket-1", write()),
        ("run", write(), 5, "--key", "ticket-1"), ("submit", write(), 5, "--key", "ticket-1"),
    ):  # fmt: skip
        refused = runs(*command)
        assert (refused.exit_code, refused.stdout) == (4, ""), command
        assert "run 'ticket-1' was pruned on 20" in refused.stderr
    freed = json.loads(runs("prune", "--forget-keys", "0s", "--json").stdout)
    assert (freed["runs"], freed["keys"]) == (0, 2)
    assert runs("run", write(), 5, "--key", "ticket-1").exit_code == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "--older-than"),
        (("--older-than", "30"), "as in 30d"),
        (("--older-than", "-1d"), "as in 30d"),
        (("--forget-keys", "1y"), "as in 30d"),
        (("--older-than", "1d", "--status", "done,running"), "cancelled, done, failed"),
    ],
)
def test_what_cannot_be_read_is_refused(cli: Cli, asked: tuple[str, ...], said: str) -> None:
    refused = cli("prune", *asked)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert said in refused.stderr
