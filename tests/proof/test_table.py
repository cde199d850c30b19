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


def test_tables_add_up_what_was_counted_and_leave_the_rest_of_the_pages(tmp_path: Path) -> None:
    readme, results, out = tmp_path / "README.md", tmp_path / "RESULTS.md", tmp_path / "run.jsonl"
    evidence = tmp_path / "guarantees.md"
    shutil.copy(table.README, readme)
    shutil.copy(table.EVIDENCE, evidence)
    out.write_text(
        "\n".join(
            [
                line("killed at every point", kills=7, effects=7, recorded_repeated=7),
                line("killed at every point", kills=1_000, effects=9, recorded_repeated=0),
                line("killed, and the resume killed", kills=234, effects=1, recorded_repeated=2),
                line("stopped at every point", schedules=300),
                line("views", journals=5),
                line("live equals resumed", kills=3),
                line("malformed chat", escapes=0),
            ]
        )
    )
    before = "| site-packages | files 20,000, cases 500 | 82.5 | 9 | old |\n"
    results.write_text(
        f"{table.HEAD}{before}| soak | runs 5 | 1.0 | 6 | old |\n"
        "| views | journals 9 | 1.0 | 6 | old |\n"
    )
    table.main([str(out)], readme, evidence, results)
    short, full = (
        next(row for row in page.read_text("utf-8").splitlines() if row.startswith("| 1 |"))
        for page in (readme, evidence)
    )
    assert "1,234 SIGKILLs, 10 effects: 2 repeated" in short
    assert full.startswith(f"{short} 7 | abc1234 | `pytest ")
    assert "| soak | runs 5 | 1.0 | 6 | old |\n| stopped" in results.read_text("utf-8")
    assert "killed 3 times and 20,000 files" in readme.read_text("utf-8")
    assert "| views | journals 5, cases 1 | 0.5 | 7 | abc1234 |" in results.read_text("utf-8")
    assert "| views | journals 9" not in results.read_text("utf-8")

    def around(text: str) -> list[str]:
        return [text.partition(table.BEGIN)[0], text.partition(table.END)[2]]

    for page, origin in (readme, table.README), (evidence, table.EVIDENCE):
        assert around(page.read_text("utf-8")) == around(origin.read_text("utf-8"))
        assert all(around(page.read_text("utf-8")))


def test_both_pages_say_the_same_of_all_guarantees() -> None:
    """The README has the first columns of what the evidence has."""

    def rows(page: Path) -> list[str]:
        text = page.read_text("utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
        return text.splitlines()[2:]

    short, full = rows(table.README), rows(table.EVIDENCE)
    claims = [f"| {n} | {one.claim} |" for n, one in enumerate(table.GUARANTEES, 1)]
    assert all(row.startswith(claim) for row, claim in zip(short, claims, strict=True))
    assert all(long.startswith(row) for row, long in zip(short, full, strict=True))


def test_a_guarantee_that_nothing_stands_behind_is_not_published(tmp_path: Path) -> None:
    readme, out = tmp_path / "README.md", tmp_path / "run.jsonl"
    readme.write_text(f"before\n{table.BEGIN}{table.END}after\n")
    before = readme.read_bytes()
    out.write_text(line("views", values=1))
    with pytest.raises(AssertionError, match="nothing was counted of killed"):
        table.main([str(out)], readme, readme, tmp_path / "RESULTS.md")
    assert readme.read_bytes() == before
