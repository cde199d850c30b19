"""Makes the published tables of what the matrices counted.

    pytest -m long tests/proof --whole --out run.jsonl
    python tests/proof/table.py run.jsonl

It writes `RESULTS.md` here, a line a matrix. It writes the guarantees into the README: each claim
and the numbers behind it. `docs/guarantees.md` gets more: the seed and the commit at which the
numbers were seen, and the command that shows them. Lines of matrices that were not run stay, and
the guarantees count all lines.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README, EVIDENCE = ROOT / "README.md", ROOT / "docs" / "guarantees.md"
RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- guarantees: written by tests/proof/table.py -->\n", "<!-- /guarantees -->\n"
HEAD = """\
# What the matrices of faults counted

Written by `tests/proof/table.py` from the output of `pytest -m long tests/proof --whole --out …`.
A number that is called repeated, changed, lost, without decision, escapes or leaks has to be 0.

| matrix | counted | minutes of its cases | seed | commit |
|---|---|---|---|---|
"""


COLUMNS = ("#", "guarantee", "seen", "seed", "commit", "shown by")
SHORT = 3  # of these columns are in the README


@dataclass
class Seen:
    """What one matrix, or several, counted."""

    numbers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    seeds: set[str] = field(default_factory=set)
    commits: set[str] = field(default_factory=set)

    def take(self, case: dict[str, Any]) -> None:
        """Take in a case."""
        self.numbers.update(case["numbers"], cases=1)
        self.seconds += case["seconds"]
        self.seeds.add(str(case["seed"]))
        self.commits.add(case["commit"])

    def add(self, other: Seen) -> None:
        """Take in another matrix."""
        self.numbers.update(other.numbers)
        self.seconds += other.seconds
        self.seeds |= other.seeds
        self.commits |= other.commits


@dataclass(frozen=True)
class Guarantee:
    claim: str
    numbers: str  # what is told, with {names} of what was counted
    matrices: tuple[str, ...]  # how their names begin
    file: str  # of tests/proof
    also: str  # tests of every run of the suite

    def cells(self, number: int, found: dict[str, Seen]) -> tuple[str, ...] | None:
        """What is told of the guarantee, by column; None where nothing of it was counted."""
        seen = Seen()
        for matrix, part in found.items():
            if matrix.startswith(self.matrices):
                seen.add(part)
        if not seen.numbers:
            return None
        return (
            str(number),
            self.claim,
            self.numbers.format_map(Told(seen.numbers)),
            listed(seen.seeds),
            listed(seen.commits),
            f"`pytest -m long {self.file} --whole`; `pytest {self.also}`",
        )

    def row(self, cells: tuple[str, ...] | None, before: str) -> str:
        """The line of the guarantee; the one in ``before`` where nothing of it was counted."""
        if cells is not None:
            return line(cells)
        kept = [old for old in before.splitlines(keepends=True) if f"| {self.claim} |" in old]
        assert kept, f"nothing was counted of {' and '.join(self.matrices)}"
        return kept[0]


def line(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |\n"


class Told(dict[str, str]):
    """Numbers as they are told; what was never counted is none."""

    def __init__(self, numbers: Counter[str]) -> None:
        super().__init__((name, f"{number:,}") for name, number in numbers.items())

    def __missing__(self, name: str) -> str:
        return "0"


KILLED = ("killed",)
GUARANTEES = [
    Guarantee(
        "A recorded step is never performed again.",
        "{kills} SIGKILLs, {effects} effects: {recorded_repeated} repeated",
        KILLED,
        "tests/proof/test_crashes.py",
        "tests/crash tests/steps/test_model_steps.py",
    ),
    Guarantee(
        "A crash repeats at most the effects that were in flight, only those declared `read` or "
        "`idempotent`, with the same idempotency key.",
        "{kills} SIGKILLs: {in_flight_repeated} repeated that were in flight, none more than once "
        "a crash; 0 under another key",
        KILLED,
        "tests/proof/test_crashes.py",
        "tests/crash/test_loops.py tests/steps/test_doubt.py",
    ),
    Guarantee(
        "Each attempt of a `once` effect is sent at most once, and a further attempt exists only "
        "by a recorded decision.",
        "{once_effects} effects under {kills} SIGKILLs: {once_without_decision} again without one",
        KILLED,
        "tests/proof/test_crashes.py",
        "tests/steps/test_doubt.py tests/crash/test_loops.py",
    ),
    Guarantee(
        "A `transaction` effect commits together with its checkpoint: exactly once.",
        "{transactions} effects under {kills} SIGKILLs: each once",
        KILLED,
        "tests/proof/test_crashes.py",
        "tests/steps/test_transactions.py tests/steps/test_doubt.py",
    ),
    Guarantee(
        "A worker that lost its run cannot change the run's journal.",
        "{schedules} stopped and woken: {journals_changed} journals changed",
        ("stopped",),
        "tests/proof/test_zombies.py",
        "tests/store/test_append_stress.py tests/crash/test_ownership.py",
    ),
    Guarantee(
        "A transcript is a function of the journal alone: rebuilding it makes no network call and "
        "writes nothing.",
        "{values} random journals: every view answers",
        ("views",),
        "tests/proof/test_payloads.py",
        "tests/core/test_transcript.py tests/view",
    ),
    Guarantee(
        "What the agent's code saw is what it sees again after a resume, bit for bit.",
        "random agents killed {kills} times and {files} files written by agents that were killed: "
        "0 differences",
        ("live equals resumed", "site-packages"),
        "tests/proof/test_live_equals_resumed.py tests/proof/test_site_packages.py",
        "tests/values/test_values.py tests/values/test_exceptions.py",
    ),
    Guarantee(
        "No ordinary event leaves a run without a way on that repeats nothing, and each way on "
        "says its price.",
        "{cases} malformed replies and streams: {escapes} errors other than the SDK's own",
        ("malformed",),
        "tests/proof/test_malformed.py",
        "tests/crash/test_killed_deploys.py tests/lifecycle/test_deploys.py "
        "tests/steps/test_bad_answers.py",
    ),
]


def main(
    files: Iterable[str],
    readme: Path = README,
    evidence: Path = EVIDENCE,
    results: Path = RESULTS,
) -> None:
    found: dict[str, Seen] = {}
    for case in read(files):
        found.setdefault(case["matrix"], Seen()).take(case)
    told = results.read_text("utf-8").removeprefix(HEAD) if results.exists() else ""
    lines = {old.split(" | ")[0].removeprefix("| "): old for old in told.splitlines(keepends=True)}
    counted = {matrix: read_line(text) for matrix, text in lines.items()} | found
    pages = [written(readme, counted, SHORT), written(evidence, counted, len(COLUMNS))]
    for page, text in zip((readme, evidence), pages, strict=True):
        page.write_text(text, "utf-8")
    lines |= {item[0]: result(item) for item in found.items()}
    results.write_text(HEAD + "".join(text for _, text in sorted(lines.items())), "utf-8")


def written(page: Path, found: dict[str, Seen], columns: int) -> str:
    """The text of a page with the guarantees in so many columns; the rest of it as it was."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    assert after, f"{page} lacks {BEGIN.strip()} or {END.strip()}"
    rows = [line(COLUMNS[:columns]), f"|{'---|' * columns}\n"]
    for number, guarantee in enumerate(GUARANTEES, 1):
        cells = guarantee.cells(number, found)
        rows.append(guarantee.row(cells and cells[:columns], old))
    return before + BEGIN + "".join(rows) + END + after


def read(files: Iterable[str]) -> Iterable[dict[str, Any]]:
    """The cases that were noted as done; of one that was done again, the last time."""
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        for case in map(json.loads, Path(file).read_text("utf-8").splitlines()):
            cases[case["matrix"], case["case"]] = case
    return cases.values()


def result(item: tuple[str, Seen]) -> str:
    matrix, seen = item
    numbers = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in seen.numbers.items())
    minutes = f"{seen.seconds / 60:.1f}"
    return f"| {matrix} | {numbers} | {minutes} | {listed(seen.seeds)} | {listed(seen.commits)} |\n"


def read_line(text: str) -> Seen:
    """What a line of the results says, as `result` wrote it."""
    _, counted, minutes, seeds, commits = text.strip("| \n").split(" | ")
    numbers: Counter[str] = Counter()
    for part in counted.split(", "):
        name, _, number = part.rpartition(" ")
        numbers[name.replace(" ", "_")] = int(number.replace(",", ""))
    return Seen(numbers, float(minutes) * 60, set(seeds.split(", ")), set(commits.split(", ")))


def listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


if __name__ == "__main__":
    main(sys.argv[1:])
