"""Makes the published tables of what the matrices counted.

    pytest -m long tests/proof --whole --out run.jsonl
    python tests/proof/table.py run.jsonl

It writes `RESULTS.md` here, a line a matrix, and the guarantees in the README: the claim, the
numbers behind it, the seed and the commit they were seen at, and the command that shows them.
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
README, RESULTS = ROOT / "README.md", Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- guarantees: written by tests/proof/table.py -->\n", "<!-- /guarantees -->\n"
HEAD = """\
# What the matrices of faults counted

Written by `tests/proof/table.py` from the output of `pytest -m long tests/proof --whole --out …`.
A number that is called repeated, changed, lost, without decision, escapes or leaks has to be 0.

| matrix | counted | minutes of its cases | seed | commit |
|---|---|---|---|---|
"""


COLUMNS = """\
| # | guarantee | seen | seed | commit | shown by |
|---|---|---|---|---|---|
"""


@dataclass
class Seen:
    """What one matrix, or several, counted."""

    numbers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    seeds: set[str] = field(default_factory=set)
    commits: set[str] = field(default_factory=set)

    def take(self, line: dict[str, Any]) -> None:
        """Take in a case."""
        self.numbers.update(line["numbers"], cases=1)
        self.seconds += line["seconds"]
        self.seeds.add(str(line["seed"]))
        self.commits.add(line["commit"])

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

    def row(self, number: int, found: dict[str, Seen]) -> str:
        seen = Seen()
        for matrix, part in found.items():
            if matrix.startswith(self.matrices):
                seen.add(part)
        assert seen.numbers, f"nothing was counted of {' and '.join(self.matrices)}"
        told = self.numbers.format_map(Told(seen.numbers))
        cells = (
            str(number),
            self.claim,
            told,
            listed(seen.seeds),
            listed(seen.commits),
            f"`pytest -m long {self.file} --whole`; `pytest {self.also}`",
        )
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
        "tests/crash tests/runner/test_models.py",
    ),
    Guarantee(
        "A crash repeats at most the effects that were in flight, only those declared `read` or "
        "`idempotent`, with the same idempotency key.",
        "{kills} SIGKILLs: {in_flight_repeated} repeated that were in flight, none more than once "
        "a crash; 0 under another key",
        KILLED,
        "tests/proof/test_crashes.py",
        "tests/crash/test_loops.py tests/runner/test_doubt.py",
    ),
    Guarantee(
        "Each attempt of a `once` effect is sent at most once, and a further attempt exists only "
        "by a recorded decision.",
        "{once_effects} effects under {kills} SIGKILLs: {once_without_decision} again without one",
        KILLED,
        "tests/proof/test_crashes.py",
        "tests/runner/test_doubt.py tests/crash/test_loops.py",
    ),
    Guarantee(
        "A `transaction` effect commits together with its checkpoint: exactly once.",
        "{transactions} effects under {kills} SIGKILLs: each once",
        KILLED,
        "tests/proof/test_crashes.py",
        "tests/runner/test_transactions.py tests/runner/test_doubt.py",
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
]


def main(files: Iterable[str], readme: Path = README, results: Path = RESULTS) -> None:
    found: dict[str, Seen] = {}
    for line in read(files):
        found.setdefault(line["matrix"], Seen()).take(line)
    rows = "".join(guarantee.row(number, found) for number, guarantee in enumerate(GUARANTEES, 1))
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{readme} lacks {BEGIN.strip()} or {END.strip()}"
    readme.write_text(before + BEGIN + COLUMNS + rows + END + after, "utf-8")
    results.write_text(HEAD + "".join(map(result, sorted(found.items()))), "utf-8")


def read(files: Iterable[str]) -> Iterable[dict[str, Any]]:
    """The cases that were noted as done; of one that was done again, the last time."""
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        for line in map(json.loads, Path(file).read_text("utf-8").splitlines()):
            cases[line["matrix"], line["case"]] = line
    return cases.values()


def result(item: tuple[str, Seen]) -> str:
    matrix, seen = item
    numbers = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in seen.numbers.items())
    minutes = f"{seen.seconds / 60:.1f}"
    return f"| {matrix} | {numbers} | {minutes} | {listed(seen.seeds)} | {listed(seen.commits)} |\n"


def listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


if __name__ == "__main__":
    main(sys.argv[1:])
