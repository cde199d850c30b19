"""Lists, totals and the inbox of a database of 10,000 runs read no large table from end to end.

What the server did is seen by the plans of all statements that a page or a command has executed.
With ``--whole`` the runs have 1,000,000 steps, else 100,000. Their times are printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from many_runs import BIG, Plans, fill, scans, server_time
from starlette.testclient import TestClient
from typer.testing import CliRunner

import agentrun
from agentrun.cli import app
from agentrun.testing import Provider

pytestmark = pytest.mark.long

RUNS = 10_000
STEPS = {False: 100_000, True: 1_000_000}
AGO = (datetime.now(UTC) - timedelta(days=200)).isoformat()
FILTERS = (
    {}, {"status": "done"}, {"status": "failed"}, {"status": "held"}, {"status": "running"},
    {"agent": "desk"}, {"agent": "tree"}, {"agent": "nobody"}, {"since": "7d"}, {"since": "1h"},
    {"until": AGO}, {"since": AGO}, {"min_cost": "0.000001"}, {"min_cost": "1000"},
    {"text": "all is well"}, {"text": "nothing has this"}, {"error": "LookupError"},
    {"error": "NothingError"}, {"roots": "yes"}, {"root": "tree-7"}, {"root": "nobody"},
    {"status": "failed", "agent": "failing", "since": "30d", "text": "well", "roots": "yes"},
)  # fmt: skip
PAGES = ("inbox", "spend", "spend?since=7d", "run?key=desk-3-7", "journal?key=desk-3-7")
COMMANDS = (["ls"], ["ls", "--status", "failed"], ["ls", "--agent", "desk"], ["ls", "--tree"],
            ["ls", "--since", "7d"], ["ls", "--search", "well"], ["inbox"])  # fmt: skip


@pytest.fixture(scope="module")
def many(databases: Any, pytestconfig: pytest.Config) -> Iterator[str]:
    steps = STEPS[pytestconfig.getoption("--whole")]
    with databases() as dsn, Provider() as provider:
        found = fill(dsn, provider, runs=RUNS, steps=steps)
        assert found[0] > RUNS
        assert found[1] > steps
        print(f"\n{found[0]:,} runs, {found[1]:,} steps")
        yield dsn


def calls(url: TestClient, dsn: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What people and programs ask, each with its name."""

    def page(path: str, **given: str) -> None:
        assert url.get(f"/{path}", params=given or None).status_code == 200

    def command(args: list[str]) -> None:
        given = ["--dsn", dsn, *args]
        assert CliRunner().invoke(app, given, catch_exceptions=False).exit_code == 0

    cursor = agentrun.runs(limit=50)[-1].cursor
    for given in (*FILTERS, {"after": cursor}, {"agent": "desk", "after": cursor}):
        yield f"runs page {given}", lambda given=given: page("", **given)
    for path in PAGES:
        yield path, lambda path=path: page(path)
    yield "agentrun.runs(limit=999)", lambda: agentrun.runs(limit=999)
    yield "agentrun.inbox()", agentrun.inbox
    yield "agentrun.get()", lambda: str(agentrun.get("tree-7"))
    for args in COMMANDS:  # last, because each opens the database for itself and closes it
        yield " ".join(args), lambda args=args: command(args)


def test_no_list_reads_a_large_table_from_end_to_end(many: str) -> None:
    plans, found = Plans(many), []
    with plans.kept(), agentrun.connect(many) as database:
        url = TestClient(agentrun.ui(database), base_url="http://localhost")
        for name, call in calls(url, many):
            plans.take()
            call()
            made = plans.take()
            assert made, name
            read = {scan for plan in made for scan in scans(plan["Plan"])}
            print(f"{server_time(made):9.1f} ms  {len(made):4} statements  {name}")
            whole = {table for kind, table in read if kind == "Seq Scan" and table in BIG}
            found += [(name, whole)] if whole else []
    assert found == []
