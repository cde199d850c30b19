"""The exported page: one file, inert in a real browser, and readable with all else stripped."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user

from agentrun.core.errors import ConfigError
from agentrun.core.transcript import fold
from agentrun.view.page import SCRIPT, as_page, journal_in

in_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")

EVIL = (
    HOSTILE + "</pre></details></div></main></script><script>document.title='owned'</script>"
    "<img src=http://127.0.0.1:1/x onerror=\"document.title='owned'\"><svg onload=alert(1)>"
    "<style>*{display:none}</style><iframe src=http://127.0.0.1:1/></iframe>"
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:1/'><base href=http://127.0.0.1:1/>"
    "<link rel=stylesheet href=http://127.0.0.1:1/x.css><!-- <!--<script>"
)


def long_run(steps: int = 300) -> Journal:
    """A run of so many steps whose every recorded text is hostile."""
    j = Journal(key=EVIL, agent=EVIL, args={EVIL: EVIL}).claimed("w-1")
    said: list[Any] = [user(f"{EVIL} please")]
    for step in range(1, steps + 1, 2):
        given = {"ident": str(step), "turn": step // 2 + 1}
        j.asks(step, list(said), **given)
        reply = assistant(f"{step} {EVIL}", (f"c{step}", EVIL, EVIL))
        said += [reply, {"role": "tool", "tool_call_id": f"c{step}", "content": EVIL}]
        j.answers(step, reply, model=EVIL, **given)
        j.ends(step + 1, EVIL, {EVIL: EVIL}, {"result": EVIL}, turn=step // 2 + 1, key=EVIL)
        if step == 9:
            j.claimed(EVIL, EVIL)
    return j.add("run_failed", output={"error": {"type": EVIL, "message": EVIL}})


def written(folder: Path, journal: Journal) -> Path:
    file = folder / "run.html"
    file.write_text(as_page(fold(journal.events), journal.events), "utf-8")
    return file


def bare(page: str) -> str:
    """The page with scripts and styles stripped."""
    return re.sub(r"(?s)<(style|script).*?</\1>| (class|id)=\"[^\"]*\"", "", page)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


# -- in a browser ----------------------------------------------------------------------------------


@in_browser
@pytest.mark.parametrize("dark", [False, True])
def test_hostile_text_is_inert_and_the_page_asks_for_nothing(
    browser: Browser, tmp_path: Path, dark: bool
) -> None:
    file = written(tmp_path, long_run())
    page = browser.open(file.as_uri(), dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.requests() == [file.as_uri()]
    assert page.seen("Log.entryAdded") == page.seen("Page.javascriptDialogOpening") == []
    assert page.evaluate("document.title").endswith("· failed")
    tags = page.evaluate("[...new Set([...document.all].map(e => e.localName))].sort()")
    assert set(tags) <= {
        "html", "head", "meta", "title", "style", "body", "main", "div", "h3", "h4", "p",
        "details", "summary", "pre", "code", "span", "table", "tbody", "tr", "th", "td", "a",
        "strong", "em", "script", "br", "blockquote", "h5", "ul", "ol", "li", "thead", "img", "s",
        "svg", "rect", "line", "text", "button", "input",
    }  # fmt: skip
    kinds = page.evaluate("[...document.scripts].map(s => s.type)")
    assert kinds == ["application/json", "application/json", ""]
    assert page.evaluate("document.querySelectorAll('details>[id^=s]').length") == 300
    wide = "e => e.clientWidth && e.scrollWidth > e.clientWidth + 1"
    wide = page.evaluate(f"[...document.all].filter({wide}).map(e => e.className || e.localName)")
    assert wide == [], "nothing sticks out at the side, or is cut off there"


@in_browser
def test_its_policy_bars_what_might_slip_through(browser: Browser, tmp_path: Path) -> None:
    """The same page with live markup put into it, as if an escape had failed."""
    file = written(tmp_path, crashed_and_resumed())
    slipped = (
        "<main><script>document.title='owned'</script><img src=http://127.0.0.1:1/x>"
        "<style>body{display:none}</style><p id=p onclick=\"document.title='owned'\">x</p>"
    )
    file.write_text(file.read_text("utf-8").replace("<main>", slipped), "utf-8")
    page = browser.open(file.as_uri())
    page.evaluate("document.getElementById('p').click()")
    assert page.evaluate("document.title") == "ticket-42 · support · done"
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    barred = [told["entry"]["text"] for told in page.seen("Log.entryAdded")]
    assert len(barred) >= 4
    assert all("Content Security Policy" in text for text in barred)


@in_browser
def test_its_own_styles_apply_light_and_dark(browser: Browser, tmp_path: Path) -> None:
    file = written(tmp_path, crashed_and_resumed())
    seen = []
    for dark in (False, True):
        page = browser.open(file.as_uri(), dark=dark)
        style = "getComputedStyle(document.querySelector('.ar-root'))"
        colours = page.evaluate(f"[{style}.color, {style}.backgroundColor]")
        fore, back = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        assert abs(fore - back) > 450, "the text stands out"
        seen.append(fore < back)
        assert page.screenshot().startswith(b"\x89PNG")
    assert seen == [True, False]


@in_browser
def test_a_link_opens_its_step(browser: Browser, tmp_path: Path) -> None:
    file = written(tmp_path, long_run())
    page = browser.open(f"{file.as_uri()}#s250")
    place = "document.getElementById('s250').getBoundingClientRect()"
    assert page.evaluate(f"{place}.top >= -2 && {place}.top < innerHeight")


@in_browser
def test_it_reads_well_with_scripts_and_styles_stripped(browser: Browser, tmp_path: Path) -> None:
    """As a mail program or an issue tracker shows it: in order, nothing hidden, nothing merged."""
    source = as_page(fold(crashed_and_resumed().events), crashed_and_resumed().events)
    file = tmp_path / "bare.html"
    file.write_text(bare(source), "utf-8")
    page = browser.open(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    text = page.evaluate("document.body.innerText")
    places = [
        text.index(told)
        for told in ("ticket-42", "support · done · 2 turns", "2 model calls · 1 tool call",
                     "turn 1", "Be kind.", '2. refund(order_id="7") · once · ok',
                     "resumed by w-2", "in doubt: attempt 1", "happened, decided by ann", "turn 2",
                     "resumed by w-4", "HTTP 500: overloaded", "Refunded.")
    ]  # fmt: skip
    assert places == sorted(places)


@in_browser
def test_long_lines_of_what_was_said_wrap_without_styles(browser: Browser, tmp_path: Path) -> None:
    said = "I looked at the order, and it seems that the parcel was lost. " * 9
    j = Journal(args={}).claimed("w-1").asks(1, [user(f"Please:\n\n  * {said}")])
    j.answers(1, assistant(said)).add("run_finished", output=f"{said}\nend", has_output=True)
    file = tmp_path / "bare.html"
    file.write_text(bare(as_page(fold(j.events), j.events)), "utf-8")
    page = browser.open(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    folds = "[...document.querySelectorAll('details')]"
    written = f"{folds}.filter(d => d.firstChild.textContent === 'as written')"
    page.evaluate(f"{written}.forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert f"Please:\n\n* {said}".strip() in page.evaluate("document.body.innerText")


@in_browser
def test_it_can_be_put_on_a_web_server(browser: Browser, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    written(tmp_path, crashed_and_resumed())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.open(f"http://127.0.0.1:{server.server_port}/run.html")
        assert page.evaluate("document.title") == "ticket-42 · support · done"
        server.shutdown()


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [crashed_and_resumed(), long_run(20)])
def test_the_journal_is_read_back_from_the_page(journal: Journal) -> None:
    transcript = fold(journal.events)
    page = as_page(transcript, journal.events)
    assert fold(journal_in(page)) == transcript
    (embedded,) = re.findall(r"(?s)id=\"agentrun-journal\">(.*?)</script>", page)
    assert len(json.loads(embedded)) == len(journal.events)


def test_a_page_without_a_journal_is_refused() -> None:
    with pytest.raises(ConfigError, match="export --html"):
        journal_in("<html></html>")


def test_the_frame_and_the_script_are_small() -> None:
    assert len(SCRIPT.encode()) <= 10_240
    assert len(as_page(fold([]), [])) - len(SCRIPT) < 12_000
