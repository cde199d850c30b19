"""The script of an exported page, in a real browser. Without it the page is complete too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser, Page
from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user

from agentrun.core.transcript import fold
from agentrun.view.jsonl import read_jsonl, write_jsonl
from agentrun.view.page import as_page

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
LONG = f"{HOSTILE} " + "a long text, " * 3_000 + "and its end"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def opened(browser: Browser, folder: Path, journal: Journal, place: str = "") -> Page:
    file = folder / "run.html"
    file.write_text(as_page(fold(journal.events), journal.events), "utf-8")
    return browser.open(f"{file.as_uri()}{place}")


def press(page: Page, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind[3] == "D" else "")


def shown(page: Page) -> list[str]:
    """The summaries of the items that are not hidden."""
    items = "[...document.querySelectorAll('.ar-turn>blockquote>*')]"
    texts: list[str] = page.evaluate(
        f"{items}.filter(e => e.offsetParent).map(e => e.textContent.slice(0, 40))"
    )
    return texts


def test_keys_walk_through_the_items_and_open_the_folds(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, crashed_and_resumed())
    press(page, "j")
    press(page, "j")
    assert page.evaluate("document.activeElement.innerText") == "user"
    press(page, "k")
    assert page.evaluate("document.activeElement.innerText") == "system"
    press(page, "e")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    press(page, "/")
    assert page.evaluate("document.activeElement.type") == "search"


def test_lenses_count_and_the_search_finds(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, crashed_and_resumed())
    lenses = page.evaluate("[...document.querySelectorAll('[data-lens]')].map(b => b.innerText)")
    assert lenses == ["all 6", "user 1", "model 3", "tools 1", "doubts 1", "resumes 2"]
    page.evaluate("document.querySelector('[data-lens=tools]').click()")
    assert [text[:9] for text in shown(page)] == ["2. refund"]
    page.evaluate("document.querySelector('[data-lens=all]').click()")
    search = "const s = document.querySelector('.ar-bar input'); s.value = 'REFUNDED.';"
    page.evaluate(
        f"(() => {{ {search} s.dispatchEvent(new Event('input')); }})();"
        "new Promise(done => setTimeout(done, 400))"
    )
    assert [text[:9] for text in shown(page)] == ["3. gpt-5-", "assistant"]
    assert page.evaluate("document.querySelector('.ar-bar [role=status]').innerText") == "2 of 6"


def test_the_journal_and_the_conversation_are_copied(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, crashed_and_resumed())
    keep_copies(page)

    def copied(name: str) -> Any:
        page.evaluate(f"document.querySelector('[data-copy=\"{name}\"]').click()")
        return page.evaluate("window.copies.pop()")

    roles = [message["role"] for message in json.loads(copied("OpenAI messages"))]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    said = page.evaluate("document.querySelector('.ar-bar [role=status]').innerText")
    assert said == "copied, without tools and settings"
    assert len(json.loads(copied("JSON"))) == len(crashed_and_resumed().events)
    said = page.evaluate("document.querySelector('.ar-bar [role=status]').innerText")
    assert said == "copied"


TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"it does {name} " * 9}}
    for name in ("look", "pay")
]


def asked_thrice() -> tuple[Journal, list[dict[str, Any]]]:
    """Three model calls whose requests repeat each other, and these requests."""
    said: list[Any] = [{"role": "system", "content": f"Be kind. {HOSTILE}"}, user("$" + LONG)]
    j, bodies = Journal().claimed("w-1"), []
    for step in (1, 3, 5):
        body = {
            "model": "gpt-5-mini", "messages": list(said), "tools": TOOLS, "temperature": 1.0,
            "seed": 2**62 + 1, "stop": ["'", '"', "END\n"], "$meta": {"$ref": "no reference"},
            "user": "[masked: openai key, 51 chars, #a1b2c3]",
        }  # fmt: skip
        bodies.append(body)
        j.asks(step, said, input={"api": "chat.completions", "url": ODD_URL, "body": body})
        reply = assistant(f"{step} {LONG}", (f"c{step}", "look", '{"n": 1.0}'))
        j.answers(step, reply)
        result = {"found": f"{step} {HOSTILE}" * 20, "$prefix": "no reference", "list": [{"a": 1}]}
        j.ends(step + 1, "look", {"n": step}, {"result": result}, turn=step)
        said += [reply, {"role": "tool", "tool_call_id": f"c{step}", "content": json.dumps(result)}]
        said.append({"role": "user", "content": [result, "seen"]})
    return j, bodies


ODD_URL = "https://models.example/v1/chat/completions?x='\";`"


@pytest.mark.parametrize("read", [False, True])
def test_a_model_call_is_copied_with_its_whole_request(
    browser: Browser, tmp_path: Path, read: bool
) -> None:
    journal, bodies = asked_thrice()
    if read:
        journal.events = list(read_jsonl(write_jsonl(journal.events)))
    page = opened(browser, tmp_path, journal)
    keep_copies(page)
    missing = (
        "# not in this copy: its headers, which are not recorded\n"
        "# not in this copy: [masked: openai key, 51 chars, #a1b2c3]\n"
    )
    for step, body in zip((1, 3, 5), bodies, strict=True):
        for form, shell in (("curl", "sh"), ("Python", sys.executable)):
            page.evaluate(f"document.querySelector('#s{step} [data-copy={form}]').click()")
            copied = page.evaluate("window.copies.pop()")
            assert copied.startswith(missing)
            assert copied.isascii()
            assert copied.replace("\n", "").isprintable()
            sent = sent_by(copied, tmp_path, shell)
            assert repr(json.loads(sent.pop("body"))) == repr(body), "1.0 is not 1 either"
            assert sent == {
                "url": "https://models.example/v1/chat/completions?x=%27%22;`",
                "authorization": "Bearer a-key",
            }
    assert page.seen("Log.entryAdded") == page.seen("Runtime.exceptionThrown") == []


def test_a_copy_says_what_no_copy_can_have(browser: Browser, tmp_path: Path) -> None:
    url = "https://api.anthropic.example/v1/messages"
    form = {"parts": [{"name": "image", "payload": "0" * 32, "size": 9}]}
    j = Journal().claimed("w-1")
    j.asks(1, [], input={"api": "messages", "url": url, "body": {"model": "m", "messages": []}})
    j.asks(2, [], input={"api": "images.edits", "url": url, "body": form})
    page = opened(browser, tmp_path, j)
    keep_copies(page)
    page.evaluate("document.querySelectorAll('[data-copy=curl]').forEach(b => b.click())")
    anthropic, upload = page.evaluate("window.copies")
    assert '-H "x-api-key: $ANTHROPIC_API_KEY"' in anthropic
    assert "no JSON" not in anthropic
    assert "# not in this copy: its exact bytes: it was no JSON" in upload


def keep_copies(page: Page) -> None:
    """From now on, what the page copies is in `window.copies`."""
    page.evaluate(
        "window.copies = []; Object.defineProperty(navigator, 'clipboard',"
        " {value: {writeText: async text => { window.copies.push(text); }}}); 0"
    )


# What stands in for curl and httpx says what it was told to send.
_CURL = r"""#!%s
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
headers = dict(text.split(": ", 1) for text in sys.argv if ": " in text)
assert given["-d"] == "@-"
body = sys.stdin.read().replace("\n", "")
print(json.dumps({"url": given["--url"], "body": body, "authorization": headers["Authorization"]}))
"""
_HTTPX = """
import json
from types import SimpleNamespace

def post(url, headers, content, timeout):
    told = {"url": url, "body": content, "authorization": headers["Authorization"]}
    return SimpleNamespace(text=json.dumps(told))
"""


def sent_by(copied: str, folder: Path, shell: str) -> dict[str, str]:
    """What a copy sends when it is executed."""
    double = folder / "double"
    double.mkdir(exist_ok=True)
    (double / "curl").write_text(_CURL % sys.executable)
    (double / "curl").chmod(0o755)
    (double / "httpx.py").write_text(_HTTPX)
    env = {
        "PATH": f"{double}:{os.environ['PATH']}", "PYTHONPATH": str(double),
        "OPENAI_API_KEY": "a-key",
    }  # fmt: skip
    done = subprocess.run(
        [shell, "-"] if shell != "sh" else ["sh"],
        input=copied, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_a_value_that_is_cut_can_be_shown_whole_and_is_inert(
    browser: Browser, tmp_path: Path
) -> None:
    j = Journal().claimed("w-1").asks(1, [user(LONG)]).answers(1, assistant("ok"))
    j.ends(2, "look", {}, {"result": {"text": LONG}}, effect="read")
    page = opened(browser, tmp_path, j)
    assert "and its end" not in page.evaluate("document.querySelector('main').textContent")
    buttons = "[...document.querySelectorAll('button')].filter(b => b.textContent === 'show all')"
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(f"{buttons}.length") == 2
    page.evaluate(f"{buttons}.forEach(b => b.click())")
    text = page.evaluate("document.querySelector('main').textContent")
    assert text.count("and its end") == 2
    assert not set("\x1b\x9b\u202e\u200b\x00") & set(text)
    assert page.evaluate("document.title") == "ticket-42 · support · running"
    assert page.seen("Log.entryAdded") == []


def test_a_link_opens_the_fold_and_print_opens_all(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, crashed_and_resumed(), "#s1")
    assert page.evaluate("document.getElementById('s1').parentElement.open")
    hidden = "[...document.querySelectorAll('details:not([open])>pre')]"
    assert (
        page.evaluate(f"{hidden}.some(e => e.checkVisibility({{contentVisibilityAuto: true}}))")
        is False
    )
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate(f"{hidden}.every(e => e.getBoundingClientRect().height > 0)")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0


def very_long_run() -> Journal:
    j = Journal().claimed("w-1")
    for step in range(1, 2_600):
        text = f"the needle <of> step {step}" if step == 2_222 else "hay"
        j.ends(step, "look", {"n": step}, {"result": text}, effect="read", turn=step // 9)
    return j


def test_a_very_long_run_is_read_in_parts(browser: Browser, tmp_path: Path) -> None:
    steps = "document.querySelectorAll('details>[id^=s]').length"
    page = opened(browser, tmp_path, very_long_run())
    assert page.evaluate(steps) == 500
    assert page.evaluate("document.querySelector('[data-lens=tools]').innerText") == "tools 2599"
    page.evaluate("document.querySelectorAll('.ar-page')[1].open = true")
    page.evaluate("new Promise(done => setTimeout(done, 200))")
    assert page.evaluate(steps) == 1_000
    search = "const s = document.querySelector('.ar-bar input'); s.value = 'needle <OF>';"
    page.evaluate(
        f"(() => {{ {search} s.dispatchEvent(new Event('input')); }})();"
        "new Promise(done => setTimeout(done, 600))"
    )
    assert page.evaluate("document.querySelector('[role=status]').textContent") == "1 of 2599"
    page = opened(browser, tmp_path, very_long_run(), "#s2400")
    place = "document.getElementById('s2400').getBoundingClientRect()"
    assert page.evaluate(f"{place}.top >= -2 && {place}.top < innerHeight")
    assert page.seen("Log.entryAdded") == []


def test_without_scripts_a_very_long_run_is_complete(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "run.html"
    journal = very_long_run()
    file.write_text(as_page(fold(journal.events), journal.events), "utf-8")
    page = browser.open("about:blank")
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.events.clear()
    page.call("Page.navigate", url=file.as_uri())
    browser.wait(lambda event: event.get("method") == "Page.loadEventFired")
    assert page.evaluate("document.querySelectorAll('details [id^=s]').length") == 2_599
    assert page.evaluate("document.querySelector('.ar-bar')") is None


def test_it_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "run.html"
    journal = crashed_and_resumed()
    file.write_text(as_page(fold(journal.events), journal.events), "utf-8")
    page = browser.open(file.as_uri(), width=400)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= 400")
    heights = page.evaluate(
        "[...document.querySelectorAll('.ar-wide td:not(.ar-long)')].map(e => e.offsetHeight)"
    )
    assert max(heights) < 60, "no cell breaks inside its words"
