"""A matrix of faults: its cases, the share of them that runs, and what was counted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

Grounds = Callable[[], AbstractContextManager[str]]

SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)
os.environ["AGENTRUN_SEED"] = str(SEED)  # so that the processes of pytest-xdist draw the same


def commit() -> str:
    """The commit that is tested, with a + where the tree differs from it."""
    describe = ["git", "describe", "--always", "--exclude=*", "--abbrev=7", "--dirty=+"]
    try:
        done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


class Case:
    """One case of a matrix: a block that is noted as done when it ends without an error."""

    def __init__(self, proof: Proof, matrix: str, name: str) -> None:
        self.matrix, self.name = matrix, name
        # The same case draws the same numbers, whichever others run.
        self.random = random.Random(f"{SEED} {matrix} {name}")
        self.numbers: Counter[str] = Counter()
        self._proof = proof

    def __str__(self) -> str:
        return f"{self.matrix}: {self.name} (AGENTRUN_SEED={SEED})"

    def count(self, **numbers: int) -> None:
        """Add to the published numbers of the matrix."""
        self.numbers.update(numbers)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"case {self}")
        else:
            self._proof.done(self, time.monotonic() - self._began)


class Proof:
    """How much of the matrices runs, and what was seen."""

    def __init__(self, config: pytest.Config) -> None:
        self.whole = bool(config.getoption("--whole"))
        part, parts = config.getoption("--shard").split("/")
        self._part, self._parts = int(part) - 1, int(parts)
        out = config.getoption("--out")
        self._out = Path(out) if out else None
        self._commit = commit() if out else ""
        self._done: set[tuple[str, str]] = set()
        if self._out is not None and self._out.exists():
            lines = map(json.loads, self._out.read_text("utf-8").splitlines())
            self._done = {(line["matrix"], line["case"]) for line in lines}
        self.numbers: dict[str, Counter[str]] = {}

    def cases(self, matrix: str, names: Sequence[str], share: int) -> Iterator[Case]:
        """The cases to run: all with --whole, else ``share`` of them, drawn by the seed."""
        chosen = sorted(names)
        if not self.whole and share < len(chosen):
            chosen = random.Random(f"{SEED} {matrix}").sample(chosen, share)
        for name in chosen[self._part :: self._parts]:
            if (matrix, name) not in self._done:
                yield Case(self, matrix, name)

    def done(self, case: Case, seconds: float) -> None:
        self.numbers.setdefault(case.matrix, Counter()).update({"cases": 1}, **case.numbers)
        if self._out is not None:
            line = {
                "matrix": case.matrix,
                "case": case.name,
                "seed": SEED,
                "commit": self._commit,
                "seconds": round(seconds, 3),
                "numbers": dict(case.numbers),
            }
            with self._out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
