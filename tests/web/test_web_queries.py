"""The pages for queries and for comparisons."""

from __future__ import annotations

import csv
import json
import threading
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from browser import Browser, Page
from web_pages import complaints, in_browser, serving

import agentrun
from agentrun.testing import Provider
from agentrun.web import site as site_module
from agentrun.web import sql_pages
from agentrun.web.sql_pages import SAVED


@pytest.fixture
def two(writer: Any, provider: Provider) -> None:
    provider.say(["It is done."])
    writer.with_options(key="a").run("Why?")
    writer.with_options(key="b").run("Who?")


def ask(url: str, query: str, path: str = "sql.json") -> httpx.Response:
    return httpx.get(f"{url}/{path}", params={"query": query}, timeout=30)


def test_a_query_reads_rows(pages: str, two: None) -> None:
    found = ask(pages, "SELECT key, status FROM runs ORDER BY key;").json()
    assert found["columns"] == ["key", "status"]
    assert found["rows"] == [["a", "done"], ["b", "done"]]
    assert found["truncated"] is False
    text = ask(pages, "SELECT '<b>' AS \"<i>\", NULL, ARRAY[1, 2]", "sql").text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_a_query_has_a_limit_of_rows_and_of_time(
    pages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ask(pages, "SELECT generate_series(1, 1001)").json()
    assert (len(found["rows"]), found["truncated"]) == (1000, True)
    monkeypatch.setattr("agentrun.web.sql_pages.SECONDS", 0.2)
    slow = ask(pages, "SELECT pg_sleep(20)")
    assert slow.status_code == 400
    assert "longer than" in slow.json()["error"]


def test_a_query_has_a_limit_of_cells_and_of_size(pages: str) -> None:
    wide = "SELECT " + ", ".join(["n"] * 1600) + " FROM generate_series(1, 1000) n"  # noqa: S608
    found = ask(pages, wide).json()
    assert (len(found["rows"]), found["truncated"]) == (31, True)  # of 1,600 cells each
    assert "50,000 cells" in ask(pages, wide, "sql").text
    long = "SELECT repeat('x', 500000) FROM generate_series(1, 600)"
    found = ask(pages, long).json()
    assert (len(found["rows"]), found["truncated"]) == (10, True)
    assert len(ask(pages, long, "sql.csv").content) < 6_000_000
    too_long = ask(pages, "SELECT 'a' UNION ALL SELECT repeat('x', 5000001)")
    assert too_long.status_code == 400
    assert "characters" in too_long.json()["error"]


def test_other_requests_go_on_while_a_page_is_made(
    pages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    for module, name in ((site_module, "respond"), (sql_pages, "_write_csv")):
        function = getattr(module, name)

        def seen(*args: Any, function: Any = function, **kwargs: Any) -> Any:
            threads.append(threading.current_thread().name)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, seen)
    for path in ("sql", "sql.json", "sql.csv"):
        assert ask(pages, "SELECT 1", path).status_code == 200
    assert [name.partition("_")[0] for name in threads] == ["agentrun-web"] * 3


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM agentrun.runs",
        "SELECT 1; DELETE FROM agentrun.runs",
        "COMMIT",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELEC 1",
        "SELECT nothing",
    ],
)
def test_a_query_that_is_wrong_or_writes_is_answered_with_why(
    pages: str, two: None, query: str, sql: Any
) -> None:
    answer = ask(pages, query)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert sql("SELECT count(*) FROM agentrun.runs") == [(2,)]


def test_a_query_that_leaves_its_role_may_still_only_read(pages: str, two: None) -> None:
    trick = (
        "SELECT word FROM (SELECT set_config('role', 'none', true) AS r OFFSET 0) a, LATERAL"
        " ts_stat('SELECT array_to_tsvector(array[count(*)::text]) FROM agentrun.exact_values'"
        " || left(a.r, 0)) t"
    )
    answer = ask(pages, trick)
    assert answer.status_code == 400
    assert "permission denied" in answer.json()["error"]


def test_without_a_login_that_only_reads_there_are_no_queries(
    pages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTRUN_READER_URL")
    answer = ask(pages, "SELECT 1")
    assert answer.status_code == 409
    assert "AGENTRUN_READER_URL" in answer.text


def test_a_link_on_another_site_executes_nothing(pages: str) -> None:
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
        url = f"{pages}/sql.json"
        answer = httpx.get(url, params={"query": "SELECT 1"}, headers=headers)
        assert answer.status_code == 403
        assert httpx.get(url, headers=headers).status_code == 200


def test_saved_queries_work(pages: str, two: None) -> None:
    for name, query in SAVED:
        answer = ask(pages, query)
        assert answer.status_code == 200, (name, answer.text)


@in_browser
def test_a_person_keeps_queries_in_the_browser(browser: Browser, pages: str) -> None:
    names = "[...document.querySelectorAll('#own-queries li a')].map(a => a.textContent)"
    name, query = "<img src=x onerror=alert(1)>", "SELECT '<b>' || chr(43) AS one, 2 AS \"&\""

    def keep(page: Page, name: str) -> None:
        field = "document.querySelector('#own-queries input')"
        page.evaluate(f"{field}.value = {json.dumps(name)}")
        page.evaluate("document.querySelector('#own-queries button:not([aria-label])').click()")

    page = browser.open(f"{pages}/sql?query={quote(query)}")
    before = len(page.requests())
    keep(page, name)
    keep(page, "another")
    later = [one for one in page.requests()[before:] if not one.endswith("/icon.svg")]
    assert later == [], "the server is asked for nothing"
    assert complaints(page) == []
    again = browser.open(f"{pages}/sql")
    assert again.evaluate(names) == [name, "another"]
    assert again.evaluate("document.querySelectorAll('#own-queries img').length") == 0
    asked = browser.open(again.evaluate("document.querySelector('#own-queries li a').href"))
    assert asked.evaluate("document.querySelector('td').textContent") == "<b>+"
    assert asked.evaluate("document.querySelector('textarea').value") == query
    again = browser.open(f"{pages}/sql")
    again.evaluate("document.querySelector('#own-queries li button').click()")
    assert again.evaluate(names) == ["another"]
    assert complaints(again) == []
    assert browser.open(f"{pages}/sql").evaluate(names) == ["another"]


@in_browser
def test_whatever_the_browser_kept_the_page_is_shown(browser: Browser, pages: str) -> None:
    page = browser.open(f"{pages}/sql")
    names = "[...document.querySelectorAll('#own-queries li a')].map(a => a.textContent)"
    for kept, shown in (("{", []), ("null", []), ("5", []), ('{"a": 5, "b": "SELECT 1"}', ["b"])):
        place = "'agentrun queries ' + location.pathname"
        page.evaluate(f"localStorage.setItem({place}, {json.dumps(kept)})")
        again = browser.open(f"{pages}/sql")
        assert again.evaluate(names) == shown
        assert complaints(again) == []


def test_rows_are_saved_as_csv_that_calculates_nothing(pages: str) -> None:
    query = "SELECT '=1+1' AS a, '@x' AS b, 'a,\"b' AS c, -3 AS d, NULL AS e"
    answer = ask(pages, query, "sql.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert list(csv.reader(answer.text.splitlines())) == [
        ["a", "b", "c", "d", "e"],
        ["'=1+1", "'@x", 'a,"b', "-3", ""],
    ]


def test_comments_stand_beside_the_query(pages: str) -> None:
    text = httpx.get(f"{pages}/sql").text
    assert "Attempts at model calls: what they cost" in text
    assert "tool_calls" in text


def test_queries_are_off_unless_they_are_asked_for(db: Any) -> None:
    with serving(agentrun.ui()) as url:
        for path in ("sql", "sql.json", "sql.csv"):
            assert httpx.get(f"{url}/{path}?query=SELECT 1").status_code == 404
        assert ">SQL</a>" not in httpx.get(f"{url}/").text


def test_two_runs_are_compared(pages: str, two: None) -> None:
    same = httpx.get(f"{pages}/compare.json?a=a&b=a").json()
    assert same["comparison"]["same"] is True
    other = httpx.get(f"{pages}/compare.json?a=a&b=b").json()
    assert other["comparison"]["same"] is False
    assert "<style" not in httpx.get(f"{pages}/compare?a=a&b=b").text
    assert "Who?" in httpx.get(f"{pages}/compare?a=a&b=b").text
    assert httpx.get(f"{pages}/compare").status_code == 200
    assert httpx.get(f"{pages}/compare?a=a&b=none").status_code == 404


def test_runs_whose_keys_end_with_spaces_are_compared(
    pages: str, writer: Any, provider: Provider
) -> None:
    provider.say(["It is done."])
    for key in ("a", " a\x85\n"):
        writer.with_options(key=key).run("Why?")
    found = httpx.get(f"{pages}/compare.json", params={"a": "a", "b": " a\x85\n"}).json()
    assert (found["b"], found["comparison"]["same"]) == (" a\x85\n", True)
