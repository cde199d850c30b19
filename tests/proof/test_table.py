"""The published tables say what was counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import table


def line(matrix: str, **numbers: int) -> str:
    told = {"matrix": matrix, "case": "a", "seed": 7, "commit": "abc1234", "seconds": 30}
    return json.dumps({**told, "numbers": numbers})


def test_tables_add_up_what_was_counted_and_leave_the_rest_of_the_readme(tmp_path: Path) -> None:
    readme, results, out = tmp_path / "README.md", tmp_path / "RESULTS.md", tmp_path / "run.jsonl"
    shutil.copy(table.README, readme)
    out.write_text(
        "\n".join(
            [
                line("killed at every point", kills=7, effects=7, recorded_repeated=7),
                line("killed at every point", kills=1_000, effects=9, recorded_repeated=0),
                line("killed, and the resume killed", kills=234, effects=1, recorded_repeated=2),
                line("stopped at every point", schedules=300),
                line("views", journals=5),
            ]
        )
    )
    table.main([str(out)], readme, results)
    row = next(row for row in readme.read_text("utf-8").splitlines() if row.startswith("| 1 |"))
    assert "1,234 SIGKILLs, 10 effects: 2 repeated" in row
    assert "| 7 | abc1234 |" in row
    assert "| views | journals 5, cases 1 | 0.5 | 7 | abc1234 |" in results.read_text("utf-8")

    def around(text: str) -> list[str]:
        return [text.partition(table.BEGIN)[0], text.partition(table.END)[2]]

    assert around(readme.read_text("utf-8")) == around(table.README.read_text("utf-8"))
    assert all(around(readme.read_text("utf-8")))


def test_a_guarantee_that_nothing_stands_behind_is_not_published(tmp_path: Path) -> None:
    readme, out = tmp_path / "README.md", tmp_path / "run.jsonl"
    shutil.copy(table.README, readme)
    before = readme.read_bytes()
    out.write_text(line("views"))
    with pytest.raises(AssertionError, match="nothing was counted of killed"):
        table.main([str(out)], readme, tmp_path / "RESULTS.md")
    assert readme.read_bytes() == before
