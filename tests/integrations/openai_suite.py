"""openai's own test-suite with our transport under every client: no test fails that passes without.

Run it as one command; it takes some minutes a pass, and two passes::

    pip install '.[openai-suite]' && python tests/integrations/openai_suite.py

It downloads the source distribution of the openai that is installed here (its tests are in it),
runs them as they are, then once more with this file as a pytest plugin, and compares; exit code 1
means that tests, which are named, fail only with us. Tests of the generated API resources are
left out, since they need openai's mock server; some others need openai's repository, and fail in
both passes.

As a plugin it puts every test into a run of its own in a throwaway Postgres, with `install()` in
force, so that each model call of each test is journaled; failures are left to the client, whose
handling of them is what the suite tests. Arguments go to every pytest pass, such as ``-k chat``.
Not part of the default tests.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
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


# -- the command -----------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="openai-suite-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the embedded Postgres runs as somebody else
        suite = Suite(folder, download(folder), arguments)
        try:
            return compare(suite)
        finally:
            embedded.stop(suite.home)


def compare(suite: Suite) -> int:
    """Run the suite both ways and say what differs; the exit code."""
    before, after = suite.both(["tests", "--ignore=tests/api_resources"])
    calls = suite.journaled()
    suspects = worse(before, after)
    if suspects:
        # A test that minds the clock can fail in one pass by chance: once more, one at a time.
        print(f"again, the files of {len(suspects)} tests that failed only with agentrun:")
        suspects &= worse(*suite.both([*suite.files(suspects), "-n", "0"]))
    lost = before.keys() - after.keys()
    print(f"model calls journaled: {calls}")
    print(f"fail only with agentrun: {len(suspects)}; not run with agentrun: {len(lost)}")
    print("\n".join(sorted(suspects | lost)))
    return 1 if suspects or lost or not calls else 0


def worse(before: Outcomes, after: Outcomes) -> set[str]:
    """The tests that fail with us and pass without."""
    return {test for test, how in after.items() if (before.get(test), how) == ("passed", "failed")}


@dataclass(frozen=True)
class Suite:
    """The unpacked tests in ``source``, run with ``arguments``; ``folder`` is for everything."""

    folder: Path
    source: Path
    arguments: list[str]

    @property
    def home(self) -> Path:
        """Where the second pass keeps its database."""
        return self.folder / "home"

    def both(self, tests: list[str]) -> tuple[Outcomes, Outcomes]:
        """How ``tests`` go without us and with us."""
        before = self.run("without agentrun", tests, {})
        # This plugin, and a database of its own.
        paths = [HERE.parent, HERE.parents[2], os.environ.get("PYTHONPATH", "")]
        ours = os.pathsep.join(filter(None, map(str, paths)))
        env = {"PYTHONPATH": ours, "AGENTRUN_HOME": str(self.home), "AGENTRUN_DATABASE_URL": ""}
        return before, self.run("with agentrun", [*tests, "-p", HERE.stem], env)

    def run(self, label: str, tests: list[str], env: dict[str, str]) -> Outcomes:
        """How each test went: passed, failed or skipped."""
        report = self.folder / "report.xml"
        command = [sys.executable, "-m", "pytest", *tests, "-q", "-p", "no:cacheprovider"]
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
        """How many model calls of the tests are in the journal."""
        with psycopg.connect(embedded.where(self.home).dsn()) as conn:
            query = "SELECT count(*) FROM agentrun.steps WHERE kind = 'model'"
            ((count,),) = conn.execute(query).fetchall()
        return int(count)

    def files(self, tests: set[str]) -> list[str]:
        """The files in which these tests are."""
        modules = {test.partition("::")[0].partition(".Test")[0] for test in tests}
        return sorted(f"{module.replace('.', '/')}.py" for module in modules)


def download(folder: Path) -> Path:
    """The unpacked source distribution of the openai that is installed."""
    release = f"openai=={version('openai')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "openai"]
    subprocess.run([*command, release, "--dest", str(folder)], check=True)
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


# -- the plugin ------------------------------------------------------------------------------------


def pytest_configure() -> None:
    import agentrun

    agentrun.install(retries=None)  # the suite tests how its client retries


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: Any) -> None:
    """Put the test, its fixtures being there, into a run of its own."""
    item.runtest = functools.partial(in_run, item.runtest)


def in_run(test: Callable[[], None]) -> None:
    """Perform ``test`` in a fresh run; what it raises is raised again outside."""
    import agentrun

    raised: list[BaseException] = []

    @agentrun.agent(name="openai's own test")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
