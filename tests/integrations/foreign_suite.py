"""A test-suite that others wrote, run as it is and once more inside our runs.

`openai_suite.py`, `openai_agents_suite.py` and `anthropic_suite.py` are commands that describe one
suite each and call `main`. It downloads the source distribution of the package that is installed
here, since the tests are in it, and runs them in two passes: without agentrun, and with the file of
the command as a pytest plugin. Exit code 1 means that a test differs and no reason is named.

In the second pass every test is in a run of its own, in a throwaway Postgres. The arguments of a
command go to every pytest pass, such as ``-k chat``.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))  # this checkout, installed or not

from agentrun.store import embedded  # noqa: E402

Outcomes = dict[str, str]


@dataclass(frozen=True)
class Foreign:
    """A suite: the distribution that it tests, and which of its tests are run."""

    distribution: str
    plugin: str  # the module that is the command, and the pytest plugin of the second pass
    tests: Sequence[str]  # arguments for pytest
    # The tests that fail with agentrun, and why, by the end of their names.
    differs: Mapping[str, str] = field(default_factory=dict)
    # Plugins of pytest that the suite does not know. Another suite or a framework has brought them.
    without: Sequence[str] = ("logfire",)
    step_kind: str = "model"  # the kind of step of which some have to be in the journal


# -- the command -----------------------------------------------------------------------------------


def main(foreign: Foreign, arguments: list[str]) -> int:
    """Run the suite both ways and say what differs; the exit code."""
    with tempfile.TemporaryDirectory(prefix=f"{foreign.plugin}-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the embedded Postgres runs as somebody else
        suite = Suite(foreign, folder, download(foreign.distribution, folder), arguments)
        try:
            return compare(suite)
        finally:
            embedded.stop(suite.home)


def compare(suite: Suite) -> int:
    """Run the suite both ways and say what differs; the exit code."""
    before, after = suite.both(suite.foreign.tests)
    steps = suite.journaled()
    suspects = worse(before, after)
    known = {test for test in suspects if suite.reason(test)}
    if suspects - known:
        # A test that minds the clock can fail in one pass by chance: once more, one at a time.
        print(f"again, the files of {len(suspects - known)} tests that failed only with agentrun:")
        suspects = known | (suspects & worse(*suite.both([*suite.files(suspects), "-n", "0"])))
    lost = before.keys() - after.keys()
    new = suspects - known
    print(f"{suite.foreign.step_kind} steps journaled: {steps}")
    print(f"fail only with agentrun: {len(suspects)}, {len(known)} of them for a known reason")
    print(f"not run with agentrun: {len(lost)}")
    print("\n".join(sorted(f"{test}  {suite.reason(test) or 'NEW'}" for test in suspects | lost)))
    return 1 if new or lost or not steps else 0


def worse(before: Outcomes, after: Outcomes) -> set[str]:
    """The tests that fail with us and pass without."""
    return {test for test, how in after.items() if (before.get(test), how) == ("passed", "failed")}


@dataclass(frozen=True)
class Suite:
    """The unpacked tests in ``source``, run with ``arguments``; ``folder`` is for everything."""

    foreign: Foreign
    folder: Path
    source: Path
    arguments: list[str]

    @property
    def home(self) -> Path:
        """Where the second pass keeps its database."""
        return self.folder / "home"

    def reason(self, test: str) -> str | None:
        """Why a test differs, if that is known."""
        found = [why for name, why in self.foreign.differs.items() if test.endswith(name)]
        return found[0] if found else None

    def both(self, tests: Sequence[str]) -> tuple[Outcomes, Outcomes]:
        """How ``tests`` go without us and with us."""
        before = self.run("without agentrun", [*tests], {})
        # This plugin, and a database of its own.
        paths = [HERE.parent, HERE.parents[2], os.environ.get("PYTHONPATH", "")]
        ours = os.pathsep.join(filter(None, map(str, paths)))
        env = {"PYTHONPATH": ours, "AGENTRUN_HOME": str(self.home), "AGENTRUN_DATABASE_URL": ""}
        return before, self.run("with agentrun", [*tests, "-p", self.foreign.plugin], env)

    def run(self, label: str, tests: list[str], env: dict[str, str]) -> Outcomes:
        """How each test went: passed, failed or skipped."""
        report = self.folder / "report.xml"
        command = [sys.executable, "-m", "pytest", *tests, "-q", "-p", "no:cacheprovider"]
        command += [flag for name in self.foreign.without for flag in ("-p", f"no:{name}")]
        command += ["--tb=native"]  # to quote a deep recursion, Python 3.11 may raise SystemError
        command += [f"--junitxml={report}", *self.arguments]
        report.unlink(missing_ok=True)
        done = subprocess.run(
            command, cwd=self.source, env={**os.environ, **env}, capture_output=True, text=True
        )
        if not report.exists():
            sys.exit(f"pytest did not run:\n{done.stdout}{done.stderr}")
        found = dict(map(_outcome, ElementTree.parse(report).iter("testcase")))
        print(f"{label:17}", dict(sorted(Counter(found.values()).items())), flush=True)
        return found

    def journaled(self) -> int:
        """How many steps of the tests are in the journal."""
        with psycopg.connect(embedded.where(self.home).dsn()) as conn:
            query = "SELECT count(*) FROM agentrun.steps WHERE kind = %s"
            ((count,),) = conn.execute(query, [self.foreign.step_kind]).fetchall()
        return int(count)

    def files(self, tests: set[str]) -> list[str]:
        """The files in which these tests are."""
        modules = {test.partition("::")[0].partition(".Test")[0] for test in tests}
        return sorted(f"{module.replace('.', '/')}.py" for module in modules)


def download(distribution: str, folder: Path) -> Path:
    """The unpacked source distribution of the package that is installed."""
    release = f"{distribution}=={version(distribution)}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary"]
    command += [distribution, release, "--dest", str(folder)]
    subprocess.run(command, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    return source


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    tags = {child.tag for child in case}
    failed = bool(tags & {"failure", "error"})
    result = "failed" if failed else "skipped" if "skipped" in tags else "passed"
    return f"{case.get('classname')}::{case.get('name')}", result


# -- for the plugins -------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: Any) -> None:
    """Put the test, its fixtures being there, into a run of its own."""
    item.runtest = functools.partial(in_run, item.runtest)


def in_run(test: Callable[[], None]) -> None:
    """Perform ``test`` in a fresh run; what it raises is raised again outside."""
    import agentrun

    raised: list[BaseException] = []

    @agentrun.agent(name="a test of others")
    def run() -> None:
        try:
            test()
        except agentrun.Interrupt:
            raise
        except BaseException as error:  # a skipped test raises no Exception
            raised.append(error)

    run.run()
    if raised:
        raise raised[0]
