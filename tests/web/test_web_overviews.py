"""The list of runs, what they cost, and the health of the database."""

from __future__ import annotations

import contextlib
import re
from decimal import Decimal
from html import unescape
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from browser import Browser
from web_pages import complaints, eventually, hold_for_approval, in_browser

import agentrun
from agentrun.testing import Fault, Provider


@pytest.fixture
def several(writer: Any, desk: Any, provider: Provider) -> list[str]:
    """Runs of two agents: done, failed, and held."""
    provider.say(["It is done."])
    for number in range(3):
        writer.with_options(key=f"done-{number}").run("Why?")
    hold_for_approval(desk, provider, "held-0")

    @agentrun.agent(name="web_failing")
    def web_failing() -> None:
        raise LookupError("there is no such order")

    with pytest.raises(agentrun.RunFailed):
        web_failing.with_options(key="failed-0").run()
    return ["failed-0", "held-0", "done-2", "done-1", "done-0"]


def keys(url: str, **filters: str) -> list[str]:
    answer = httpx.get(f"{url}/runs.json", params=filters)
    assert answer.status_code == 200, answer.text
    return [run["key"] for run in answer.json()["runs"]]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["failed-0", "held-0", "done-2", "done-1", "done-0"]),
        ({"status": "done"}, ["done-2", "done-1", "done-0"]),
        ({"agent": "web_desk"}, ["held-0"]),
        ({"error": "LookupError"}, ["failed-0"]),
        ({"text": "SUCH ORDER"}, ["failed-0"]),
        ({"min_cost": "1000"}, []),
        ({"since": "1h"}, ["failed-0", "held-0", "done-2", "done-1", "done-0"]),
        ({"until": "1h"}, []),
        ({"since": "2100-01-01"}, []),
        ({"root": "done-1"}, ["done-1"]),
        ({"status": "done", "agent": "web_desk"}, []),
    ],
)
def test_the_url_says_which_runs_are_shown(
    pages: str, several: list[str], filters: dict[str, str], found: list[str]
) -> None:
    assert keys(pages, **filters) == found
    shown = httpx.get(f"{pages}/", params=filters).text
    rows = re.findall(r'<tr id="run-.*?href="run\?key=([^"&]*)', shown, re.DOTALL)
    assert rows == found


@pytest.mark.parametrize(
    "filters",
    [
        {"status": "x"},
        {"since": "yesterday"},
        {"since": "0000-01-01"},
        {"min_cost": "NaN"},
        {"min_cost": "x"},
        {"min_cost": "1e999999"},
        {"min_cost": "1e-999999"},
        {"since": "9999-12-31T23:59:59-14:00"},
        {"until": "0001-01-01T00:00:00+14:00"},
        {"text": "\0"},
        {"root": "\0"},
        {"agent": "a\0"},
        {"after": "x"},
    ],
)
def test_what_no_filter_means_is_refused(pages: str, filters: dict[str, str]) -> None:
    assert httpx.get(f"{pages}/", params=filters).status_code == 400
    error = httpx.get(f"{pages}/runs.json", params=filters).json()["error"]
    (name,) = filters
    assert name in error["message"] or name == "after"


def test_pages_of_the_list_have_each_run_once(
    pages: str, several: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentrun.web.overviews._ROWS", 2)
    found: list[str] = []
    after = ""
    for _ in range(3):
        answer = httpx.get(f"{pages}/runs.json", params={"after": after}).json()
        found += [run["key"] for run in answer["runs"]]
        after = answer["next"] or ""
    assert found == several
    assert after == ""
    assert "Older runs" in httpx.get(f"{pages}/").text


def test_the_list_counts_what_it_is_about(pages: str, several: list[str]) -> None:
    counts = httpx.get(f"{pages}/runs.json").json()["counts"]
    assert {one["status"]: one["runs"] for one in counts} == {"done": 3, "failed": 1, "held": 1}
    counts = httpx.get(f"{pages}/runs.json?agent=web_desk").json()["counts"]
    assert {one["status"]: one["runs"] for one in counts} == {"held": 1}


def test_a_row_says_of_a_run_what_ls_says(
    pages: str, several: list[str], provider: Provider, client: Any
) -> None:
    @agentrun.tool(effect="read")
    def web_look() -> str:
        raise LookupError("no such order")

    @agentrun.tool(approve=True)
    def web_send(to: str) -> str:
        return to

    @agentrun.agent(name="web_noted")
    def web_noted(after: str) -> str:
        with contextlib.suppress(LookupError):
            web_look()
        return after if after == "done" else web_send(after)

    web_noted.with_options(key="noted-done").run("done")
    for key in ("noted-held", "noted-cancelled"):
        with pytest.raises(agentrun.RunHeld):
            web_noted.with_options(key=key).run("bo")
    agentrun.cancel("noted-cancelled", reason="no longer needed")

    @agentrun.agent(name="web_noted_failing")
    def web_noted_failing() -> str:
        return web_look()

    with pytest.raises(agentrun.RunFailed):
        web_noted_failing.with_options(key="noted-failed").run()
    text = httpx.get(pages).text
    shown = dict(re.findall(r'(?s)run[?]key=([\w-]+)">.*?<td class="long"[^>]*>(.*?)</td>', text))
    notes = {run.key: run.note for run in agentrun.runs()}
    link = '<a href="run?key=noted-failed#s1">step 1</a>'
    assert shown.pop("noted-failed") == f"{link}: LookupError: no such order"
    assert notes.pop("noted-failed") == "step 1: LookupError: no such order"
    assert {key: unescape(cell) for key, cell in shown.items()} == notes
    assert "waits for an approval" in notes["noted-held"]
    assert "no longer needed" in notes["noted-cancelled"]


def test_spend_is_the_sum_of_the_journals(pages: str, several: list[str], sql: Any) -> None:
    data = httpx.get(f"{pages}/spend.json").json()
    ((cost, calls),) = sql("SELECT sum(cost), count(*) FROM agentrun.spend")
    assert Decimal(data["all"]["cost"]) == cost > 0
    assert data["all"]["calls"] == calls
    for kind in ("days", "models", "agents", "trees"):
        assert sum(Decimal(one["cost"]) for one in data[kind]) == cost, kind
    assert {one["name"] for one in data["agents"]} == {"web_writer", "web_desk"}
    assert {one["name"] for one in data["trees"]} == set(several) - {"failed-0"}
    assert httpx.get(f"{pages}/spend.json?since=2100-01-01").json()["all"] is None


def test_the_spend_of_a_child_is_of_its_tree(pages: str, writer: Any, provider: Provider) -> None:
    provider.say(["It is done."])

    @agentrun.agent(name="web_parent")
    def web_parent() -> str:
        return str(writer.run("Why?"))

    web_parent.with_options(key="parent").run()
    data = httpx.get(f"{pages}/spend.json").json()
    assert [one["name"] for one in data["trees"]] == ["parent"]
    assert [one["name"] for one in data["agents"]] == ["web_writer"]
    (child,) = httpx.get(f"{pages}/run.json?key=parent").json()["children"]
    (own,) = (run for run in agentrun.runs(root="parent") if run.parent_key == "parent")
    assert child == {"key": own.key, "status": "done", "cost": str(own.cost)}
    of_child = {"key": child["key"]}
    assert httpx.get(f"{pages}/run.json", params=of_child).json()["parent"] == "parent"
    shown = httpx.get(f"{pages}/run?key=parent").text
    assert f'href="run?{urlencode(of_child)}"' in shown
    assert 'href="run?key=parent"' in httpx.get(f"{pages}/run", params=of_child).text
    exported = httpx.get(f"{pages}/export?key=parent").text
    assert f"<code>{child['key']}</code></td>" in exported


def test_a_call_whose_outcome_is_not_known_is_possibly_billed(
    pages: str, writer: Any, provider: Provider
) -> None:
    provider.say(["It is done."])
    provider.arm(Fault.drop("effect"))
    writer.with_options(key="k").run("Why?")
    whole = httpx.get(f"{pages}/spend.json").json()["all"]
    assert whole["possibly_billed"] == 1
    assert "possibly billed" in httpx.get(f"{pages}/spend").text


def test_health_is_what_doctor_reports(pages: str, several: list[str]) -> None:
    data = httpx.get(f"{pages}/health.json").json()
    assert data["report"]["schema"] == "current"
    assert data["report"]["runs"]["held"] == 1
    assert any("agentrun inbox" in problem for problem in data["problems"])
    assert "wait for a person" in httpx.get(f"{pages}/health").text


def test_several_databases_are_shown_apart(
    databases: Any, db: Any, writer: Any, provider: Provider
) -> None:
    """The application shows the database that it was given, and not the process's own."""
    from web_pages import serving

    provider.say(["It is done."])
    writer.with_options(key="mine").run("Why?")
    with databases() as dsn:
        other = agentrun.connect(dsn)
        writer.with_options(key="theirs").run("Why?")
        with serving(agentrun.ui(other)) as theirs, serving(agentrun.ui(db)) as mine:
            assert (keys(mine), keys(theirs)) == (["mine"], ["theirs"])
            assert httpx.get(f"{mine}/run.json?key=theirs").status_code == 404
            assert httpx.get(f"{theirs}/run.json?key=theirs").status_code == 200
        other.close()


@in_browser
def test_rows_come_while_the_list_is_open(
    browser: Browser, pages: str, writer: Any, provider: Provider
) -> None:
    provider.say(["It is done."])
    page = browser.open(f"{pages}/?agent=web_writer")
    assert page.evaluate("document.querySelectorAll('tbody tr[id]').length") == 0
    writer.with_options(key="k").run("Why?")
    eventually(page, "document.querySelectorAll('tbody tr[id]').length == 1")
    assert complaints(page) == []
