"""Every hostile text in every field, on every page, in every twin and in every exported file.

The pages of a harmless text say which elements and attributes there are: a hostile text adds none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from browser import Browser
from hostile import ACTIVE
from hostile_runs import EVERY, KINDS, TAME, key_of
from web_pages import ANA, complaints, in_browser, serving

import agentrun
from agentrun.view.safe import visible
from agentrun.web.app import PAGES
from agentrun.web.site import PageRoute

# Where a browser may go or load from, by the attribute.
_ADDRESSES = ("href", "src", "action", "formaction", "hx-get", "hx-sse:connect", "poster", "data")
# What the timeline draws depends on how long the steps took.
_SHAPES = (
    "", "x", "x1", "x2", "y", "y1", "y2", "width", "height", "fill", "fill-opacity",
    "stroke", "stroke-width", "text-anchor", "font-size", "class",
)  # fmt: skip
_DRAWN = {(tag, name) for tag in ("rect", "line", "text") for name in _SHAPES}
_QUERY = "SELECT key, agent, reason FROM runs ORDER BY key"
_LONGEST = 40  # characters of a text that are looked for: a page may cut the rest


class Elements(HTMLParser):
    """What a page consists of, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: set[tuple[str, str]] = set()  # an element, and one of its attributes
        self.addresses: set[tuple[str, str, str]] = set()
        self.names: set[str] = set()  # of ids and classes
        self.said = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts |= {(tag, "")} | {(tag, name) for name, _ in attrs}
        given = {name: value or "" for name, value in attrs}
        found = ((tag, name, value) for name, value in given.items() if name in _ADDRESSES)
        self.addresses.update(found)
        self.names.update(given.get("id", "").split(), given.get("class", "").split())

    def handle_data(self, data: str) -> None:
        self.said += data

    def handle_comment(self, data: str) -> None:
        self.parts.add(("!--", data))

    def handle_decl(self, decl: str) -> None:
        self.parts.add(("!", decl))

    def handle_pi(self, data: str) -> None:
        self.parts.add(("?", data))


def places(name: str, text: str) -> Iterator[str]:
    """The address of every page of the runs of a text, and of every page that is asked by it."""
    asked = as_asked(text)
    yield f"?text={quote(name)}"  # which stands in the keys
    yield from (f"?{field}={asked}" for field in ("text", "agent", "error", "root", "status"))
    yield from (f"run?key={asked}", f"spend?since={asked}", f"?min_cost={asked}&since={asked}")
    yield from (f"sql?query={asked}", f"inbox?decided={asked}", f"{asked}.x")
    column = visible(text)[:30].replace('"', "")
    yield "sql?query=" + quote(f'SELECT 1 AS "{column}"')
    for kind in KINDS:
        key, other = quote(key_of(kind, name, text)), quote(key_of("done", name, text))
        yield from (f"run?key={key}", f"journal?key={key}", f"run/actions?key={key}")
        yield from (f"redo?key={key}&step=1", f"compare?a={key}&b={other}")


def full_places() -> tuple[str, ...]:
    """The pages on which the runs of many texts stand together."""
    return ("", "inbox", "spend", "health", "sql", f"sql?query={quote(_QUERY)}")


def as_asked(text: str) -> str:
    return quote(visible(text)[:500])


@pytest.fixture
def hostile(hostile_database: str) -> Iterator[str]:
    yield from _served(hostile_database)


@pytest.fixture
def tame(tame_database: str) -> Iterator[str]:
    yield from _served(tame_database)


def _served(dsn: str) -> Iterator[str]:
    with agentrun.connect(dsn) as database:
        app = agentrun.ui(database, authorize=lambda _: ANA, allow_decisions=True, sql=True)
        with serving(app) as url:
            yield url


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, hostile_database: str) -> None:
    """The queries of these pages are asked by the login of the tests."""
    monkeypatch.setenv("AGENTRUN_READER_URL", hostile_database)


def looked_at(url: str, place: str, client: httpx.Client) -> Elements:
    answer = client.get(f"{url}/{place}")
    assert answer.status_code < 500, (place, answer.text)
    assert not ACTIVE.search(answer.text), place
    return Elements(answer.text)


def is_own(tag: str, name: str, address: str) -> bool:
    """Whether an address is of these pages, or a link that a person may follow to the web."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        known = ("http", "https", "mailto")
        return (tag, name) == ("a", "href") and parts.scheme in known
    return not address.lstrip().startswith(("/", "\\")) and "\n" not in address


def all_parts(url: str, client: httpx.Client) -> set[tuple[str, str]]:
    """What the pages of the harmless text consist of."""
    found = set(_DRAWN)
    for place in (*full_places(), *places("tame", TAME)):
        found |= looked_at(url, place, client).parts
    assert not {name for _, name in found if name.startswith("on") or name == "style"}
    return found


def test_a_hostile_text_adds_nothing_to_a_page(hostile: str, tame: str, reader: None) -> None:
    with httpx.Client(timeout=60) as client:
        known = all_parts(tame, client)
        for name, text in {"": "", **EVERY}.items():
            seen = ""
            for place in places(name, text) if name else full_places():
                page = looked_at(hostile, place, client)
                assert page.parts <= known, (name, place, page.parts - known)
                bad = {one for one in page.addresses if not is_own(*one)}
                assert not bad, (name, place)
                strange = {one for one in page.names if not re.fullmatch(r"[A-Za-z0-9-]+", one)}
                assert not strange, (name, place)
                seen += page.said
            assert visible(text, multiline=True)[:_LONGEST] in seen, name


def test_a_twin_has_each_hostile_text_as_it_is(hostile: str, reader: None) -> None:
    def read(page: PageRoute, **given: str) -> Any:
        answer = client.get(f"{hostile}{page.twin}", params=given)
        assert answer.status_code in (200, 409), (page.twin, answer.text)  # 409: a redo is refused
        assert answer.content.isascii(), page.twin
        assert not any(code < 0x20 or code == 0x7F for code in answer.content), page.twin
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        return answer.json()

    twins = [page for page in PAGES if page.data is not None]
    of_runs = {
        page.path: page for page in twins if page.path in ("run", "journal", "redo", "compare")
    }
    assert len(of_runs) == 4
    with httpx.Client(timeout=60) as client:
        for page in twins:
            if page.path not in of_runs:
                read(page, query=_QUERY)
        for name, text in EVERY.items():
            for kind in KINDS:
                key = key_of(kind, name, text)
                found = read(of_runs["run"], key=key)
                assert (found["key"], found["transcript"]["input"]["said"]) == (key, text)
                for path in ("journal", "redo", "compare"):
                    told = read(of_runs[path], key=key, step="1", a=key, b=key)
                    assert key in (told.get("key"), told.get("a"), key if "error" in told else None)


def test_a_file_of_a_hostile_run_is_inert(hostile: str, tame: str) -> None:
    def exported(url: str, key: str, form: str) -> str:
        answer = client.get(f"{url}/export", params={"key": key, "format": form})
        assert answer.status_code == 200, answer.text
        assert re.fullmatch(
            r'attachment; filename="[\w.-]+"', answer.headers["content-disposition"]
        )
        return answer.text

    with httpx.Client(timeout=60) as client:
        known = set(_DRAWN)
        for kind in KINDS:
            known |= Elements(exported(tame, key_of(kind, "tame", TAME), "html")).parts
        for name, text in EVERY.items():
            for kind in KINDS:
                key = key_of(kind, name, text)
                source = exported(hostile, key, "html")
                assert not ACTIVE.search(source)
                page = Elements(source)
                assert page.parts <= known, (name, kind, page.parts - known)
                assert not {one for one in page.addresses if not is_own(*one)}, (name, kind)
                assert not ACTIVE.search(exported(hostile, key, "md"))
                for line in exported(hostile, key, "jsonl").splitlines():
                    assert line.isascii()
                    json.loads(line)
                assert json.loads(exported(hostile, key, "json"))["key"] == key


# -- in a browser ----------------------------------------------------------------------------------


@in_browser
def test_a_page_full_of_hostile_texts_does_nothing(
    browser: Browser, hostile: str, tame: str, reader: None
) -> None:
    """All texts at once, as a browser takes them: nothing is executed, said or asked for."""
    parts = (
        "[...new Set([...document.all].flatMap(e => [e.localName + ' ', "
        "...[...e.attributes].map(a => e.localName + ' ' + a.name)]))]"
    )
    known = {f"{tag} {name}" for tag, name in _DRAWN}
    for place in (*full_places(), *(run_of(kind, "tame", TAME) for kind in KINDS)):
        known |= set(opened(browser, f"{tame}/{place}").evaluate(parts))
    asked = as_asked(EVERY["HTML"])
    for place in (
        *full_places(),
        *(f"{start}={asked}" for start in ("?text", "run?key", "inbox?decided", "sql?query")),
        *(run_of(kind, "HTML", EVERY["HTML"]) for kind in KINDS),
        *(run_of("waits", name, text) for name, text in EVERY.items()),
    ):
        page = opened(browser, f"{hostile}/{place}")
        said = [one for one in complaints(page) if "Failed to load" not in json.dumps(one)]
        assert said == [], place
        assert [one for one in page.requests() if not one.startswith(hostile)] == [], place
        assert set(page.evaluate(parts)) <= known, place


def run_of(kind: str, name: str, text: str) -> str:
    return f"run?key={quote(key_of(kind, name, text))}"


def opened(browser: Browser, url: str) -> Any:
    browser.close_pages()
    page = browser.open(url)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page
