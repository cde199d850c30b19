"""openai's own test-suite with our transport under every client: no test fails that passes without.

Run it as one command; it takes some minutes a pass, and two passes::

    python tests/integrations/openai_suite.py

It downloads the source distribution of the openai that is installed here (its tests are in it),
runs them as they are, then once more with this file as a pytest plugin, and compares. Exit code 1
names tests that fail only with us. Tests that need openai's repository or mock server fail in
both passes. What the suite needs, beside agentrun::

    pip install "openai[aiohttp,realtime,datalib]" pytest pytest-asyncio pytest-xdist \\
        inline-snapshot trio azure-identity botocore Pillow griffe rich

As a plugin it puts every test into a run of its own in a throwaway Postgres, with `install()` in
force, so that each model call of each test is journaled (retrying is left to the client, which
the suite tests). Arguments go to both pytest passes, such
as ``-k chat``. Not part of the default tests.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).resolve()
TESTS = ["tests", "--ignore=tests/api_resources"]  # those need openai's mock server
Outcomes = dict[str, str]


# -- the command -----------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="openai-suite-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the embedded Postgres runs as somebody else
        source = download(folder)
        before = outcomes(source, folder / "before.xml", arguments, {})
        after = outcomes(source, folder / "after.xml", [*arguments, "-p", HERE.stem], ours(folder))
    for label, found in (("without agentrun", before), ("with agentrun", after)):
        print(f"{label:17}", dict(sorted(Counter(found.values()).items())))
    worse = [test for test in after if after[test] == "failed" and before.get(test) == "passed"]
    lost = before.keys() - after.keys()
    print(f"fail only with agentrun: {len(worse)}; not run with agentrun: {len(lost)}")
    print("\n".join(sorted([*worse, *lost])))
    return 1 if worse or lost or not after else 0


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


def ours(folder: Path) -> dict[str, str]:
    """What the second pass finds in its environment: this plugin, and a database of its own."""
    paths = [HERE.parent, HERE.parents[2], os.environ.get("PYTHONPATH", "")]
    home = folder / "home"
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, map(str, paths))),
        "AGENTRUN_HOME": str(home),
    }


def outcomes(source: Path, report: Path, arguments: list[str], env: dict[str, str]) -> Outcomes:
    """How each test went: passed, failed or skipped."""
    command = [sys.executable, "-m", "pytest", *TESTS, "-q", "--tb=short", "--durations=0"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    log = report.with_suffix(".log")
    with log.open("w") as out:
        subprocess.run(command, cwd=source, env={**os.environ, **env}, stdout=out, stderr=out)
    print(log.read_text("utf-8").rstrip().rpartition("\n")[2])
    return dict(map(_outcome, ElementTree.parse(report).iter("testcase")))


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
