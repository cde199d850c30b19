"""The proof: long matrices of faults, each in a file of its own. Here are their shared fixtures.

    pytest -m long tests/proof                          a bounded share, drawn by AGENTRUN_SEED
    pytest -m long tests/proof --whole --out run.jsonl  all cases; resumable: done ones are skipped
    pytest -m long tests/proof --whole --shard 2/4      a part of them

A matrix hands its cases to `proof.cases` and counts what it saw. What was counted is printed at the
end and, with ``--out``, kept a line a case: `table.py` makes the published tables of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from matrix import SEED, Grounds, Proof

from agentrun.store.embedded import Files

_proof = pytest.StashKey[Proof]()


@pytest.fixture(scope="session")
def proof(pytestconfig: pytest.Config) -> Proof:
    return pytestconfig.stash.setdefault(_proof, Proof(pytestconfig))


@pytest.fixture(scope="session")
def grounds(server: Files, databases: Grounds) -> Iterator[Grounds]:
    """The world of `shapes`, and its fresh databases; this process is then warm to fork from."""
    import shapes

    with shapes.here.opened(server.root.parent):
        fresh = partial(shapes.ground, databases)
        with fresh() as dsn:
            shapes.warm(dsn)
        yield fresh


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    found = config.stash.get(_proof, None)
    if found is not None:
        terminalreporter.section(f"proof, AGENTRUN_SEED={SEED}")
        for matrix, numbers in sorted(found.numbers.items()):
            told = ", ".join(f"{name} {count}" for name, count in numbers.items())
            terminalreporter.line(f"{matrix}: {told}")
