"""A suite that cannot fail proves nothing: each deliberate defect must turn its own test red.

The tree is copied, the defect put into the copy, and the named test run there: it must fail by
itself, in time, and not because nothing could be imported. Once, all of them must be green on a
copy without a defect.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from anchors import Definitions
from mutations import MUTATIONS, Mutation, join

ROOT = Path(__file__).parents[2]
TREE = (
    "agentrun", "docs", "migrations", "notebooks", "prompts", "tools", "tests",
    "ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "mkdocs.yml", "pyproject.toml",
    "requirements-dev.lock",
)  # fmt: skip
LIMIT = 120.0  # seconds for a test


@cache
def definitions() -> Definitions:
    return Definitions(ROOT)


@pytest.mark.parametrize("what", MUTATIONS)
def test_a_defect_can_be_made_and_has_its_test(what: str) -> None:
    """The list cannot rot: the words are there once, what they become is code, the test exists."""
    mutation = MUTATIONS[what]
    file, text = definitions().change(mutation.where, mutation.old, mutation.new)
    assert text != (ROOT / file).read_text("utf-8")
    if file.endswith(".py"):
        ast.parse(text)
    test_file, _, name = mutation.test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / test_file).read_text("utf-8")


def test_two_defects_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two files of .* name a defect so: {'a name'}"):
        join([{"a name": Mutation("A", "b", "c", "d")}, {"a name": Mutation("E", "f", "g", "h")}])


@pytest.mark.long
def test_every_defect_is_caught(proof: Any, forks: Forks, tmp_path: Path) -> None:
    here = [what for what, mutation in MUTATIONS.items() if not mutation.needs]
    cases = list(proof.cases("mutations", here, share=3))
    tests = {MUTATIONS[case.name].test for case in cases}
    sound = run(forks, copied(tmp_path / "sound"), tests, LIMIT * len(tests))
    missed = []
    for case in cases:
        try:
            with case:
                test = MUTATIONS[case.name].test
                assert sound[named(test)] == "passed", f"{test} fails without a defect"
                assert is_caught(forks, MUTATIONS[case.name], tmp_path / "defect")
                case.count(caught=1)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            missed.append(f"{case.name}: {error}")  # not noted as done; the others are tried too
    assert not missed, "\n\n".join([f"{len(missed)} of {len(cases)} defects were missed", *missed])


@pytest.mark.long
def test_every_defect_that_needs_another_environment_is_caught(
    forks: Forks, tmp_path: Path
) -> None:
    """`tests/integrations/test_own_environment.py` runs this one where the module is installed."""
    found = [one for one in MUTATIONS.values() if one.needs and find_spec(one.needs)]
    if not found:
        pytest.skip("needs CrewAI: pytest -m suite")
    tests = {one.test for one in found}
    outcomes = run(forks, copied(tmp_path / "sound"), tests, LIMIT * len(tests))
    assert outcomes == dict.fromkeys(map(named, tests), "passed")
    assert [one for one in found if not is_caught(forks, one, tmp_path / "defect")] == []


def is_caught(forks: Forks, mutation: Mutation, place: Path) -> bool:
    """Whether the defect's own test turns red, in one of the tries that it is given."""
    shutil.rmtree(place, ignore_errors=True)
    copy = copied(place)
    file, text = Definitions(copy).change(mutation.where, mutation.old, mutation.new)
    (copy / file).write_text(text, "utf-8")
    own_server = file.startswith("migrations/")  # the session's has the schema
    red = {named(mutation.test): "failed"}
    return any(
        run(forks, copy, [mutation.test], LIMIT, own_server=own_server) == red
        for _ in range(mutation.tries)
    )


class Forks:
    """A process that executes tests in forks of itself, one at a time: see `forked_pytest`.

    Compiled code stays for the next copy at a place, where all files but one are the same.
    """

    def __init__(self, compiled: Path) -> None:
        self.environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("forked_pytest.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment, text=True,
        )  # fmt: skip

    def execute(self, tree: Path, arguments: list[str], limit: float, *, own_server: bool) -> int:
        """The exit code of pytest in this tree; raises TimeoutExpired after ``limit`` seconds."""
        environment = {**self.environment, "PYTHONPATH": str(tree)}
        if own_server:
            del environment["AGENTRUN_TEST_SESSION"]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"tree": str(tree), "arguments": arguments, "environment": environment}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        late = threading.Timer(
            limit, os.killpg, (int(self.process.stdout.readline()), signal.SIGKILL)
        )
        late.start()
        code = int(self.process.stdout.readline())
        late.cancel()
        if code == -signal.SIGKILL:
            raise subprocess.TimeoutExpired(arguments, limit)
        return code

    def close(self) -> None:
        """End the process."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()


@pytest.fixture(scope="module")
def forks(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    process = Forks(tmp_path_factory.mktemp("compiled"))
    yield process
    process.close()


def named(test: str) -> str:
    return test.rpartition("::")[2]


def copied(place: Path) -> Path:
    """A copy of the tree, without compiled code."""
    place.mkdir()
    for part in TREE:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, place / part)
    return place


def run(
    forks: Forks, tree: Path, tests: Iterable[str], limit: float, *, own_server: bool = False
) -> dict[str, str]:
    """Run the tests in this tree: each name, and how it ended; raises if they take too long."""
    report = tree / "report.xml"
    arguments = ["-q", "-m", "", "-p", "no:cacheprovider", f"--junitxml={report}",
                 *(f"tests/{test}" for test in sorted(tests))]  # fmt: skip
    code = forks.execute(tree, arguments, limit, own_server=own_server)
    assert code in (0, 1), (tree / "output").read_text("utf-8", "replace")  # else no test was run
    return outcomes_in(report)


def outcomes_in(report: Path) -> dict[str, str]:
    """How each test ended, whatever its parameters: failed if one did in its own body."""
    outcomes: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = str(case.get("name")).partition("[")[0]
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "failed" if "failure" in kinds else " ".join(sorted(kinds)) or "passed"
        if outcomes.get(name) != "failed":
            outcomes[name] = outcome
    return outcomes
