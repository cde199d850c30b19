"""`agentrun compare`: keys and files, text and JSON, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Cli, Write


def test_compare_exits_0_for_equal_runs_and_1_for_different_ones(
    cli: Cli, write: Write, tmp_path: Path
) -> None:
    file = write()
    for key, cents in (("first", 5), ("equal", 5), ("other", 6)):
        assert cli("run", f"{file}:payer", cents, "--key", key).exit_code == 0
    equal = cli("compare", "first", "equal")
    assert (equal.exit_code, equal.stderr) == (0, "")
    assert "the runs are the same; 1 step: 1 same" in equal.stdout
    different = cli("compare", "first", "other")
    assert different.exit_code == 1
    assert "≠ 1      pay(cents=5) · step 1 · differs" in different.stdout
    assert "argument cents 5 → 6" in different.stdout

    exported = tmp_path / "other.jsonl"
    assert cli("export", "other", "-o", exported).exit_code == 0
    page = tmp_path / "first.html"
    assert cli("export", "first", "-o", page).exit_code == 0
    as_json = cli("compare", page, exported, "--json")
    assert as_json.exit_code == 1
    found = json.loads(as_json.stdout)
    assert found["first_difference"] == "1"
    assert [found[name]["key"] for name in "ab"] == ["first", "other"]
    assert found["steps"][0]["changes"][0] == "argument cents 5 → 6"
    assert cli("compare", page, "nowhere").exit_code == 4
