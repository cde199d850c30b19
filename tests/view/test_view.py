"""What is shown, and that nothing recorded can act on a terminal or a browser."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user
from rich.console import Console

from agentrun.core.transcript import Transcript, fold
from agentrun.view.html import as_html
from agentrun.view.layout import as_text, columns
from agentrun.view.markdown import as_markdown
from agentrun.view.safe import element, visible
from agentrun.view.style import CSS
from agentrun.view.terminal import print_transcript, table

# Everything that could address a terminal or reorder text.
ACTIVE = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
TAGS = {"a", "blockquote", "br", "code", "details", "div", "em", "h3", "h4", "h5", "img", "li",
        "ol", "p", "pre", "s", "span", "strong", "style", "summary", "table", "tbody", "td", "th",
        "thead", "tr", "ul"}  # fmt: skip


def hostile_run() -> Transcript:
    """Every recorded field that a model, a tool or a person fills is hostile."""
    error = {"type": HOSTILE, "message": HOSTILE}
    j = Journal(key=HOSTILE, agent=HOSTILE, args={HOSTILE: HOSTILE}).claimed(HOSTILE)
    call = (HOSTILE, HOSTILE, HOSTILE)
    j.asks(1, [user(HOSTILE), {"role": HOSTILE, "tool_call_id": HOSTILE, "content": HOSTILE}])
    j.answers(1, assistant(HOSTILE, call), model=HOSTILE)
    j.begins(2, HOSTILE, {HOSTILE: [HOSTILE]}, key=HOSTILE).claimed("w-2", HOSTILE)
    j.add("in_doubt", step=2, attempt=1)
    j.add("resolved", step=2, status=HOSTILE, by=HOSTILE, reason=HOSTILE)
    j.begins(2, HOSTILE, {}, attempt=2)
    j.ends(2, HOSTILE, {}, {"error": error}, attempt=2, status="error")
    j.add("parked", status=HOSTILE, reason=HOSTILE)
    return fold(j.add("run_failed", output=error).events)


def printed(shown: Any, width: int = 100, *, colour: bool = False) -> str:
    """What reaches the terminal; with colour, less rich's own SGR sequences."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, legacy_windows=False)
    if isinstance(shown, Transcript):
        print_transcript(shown, console, full=True)
    else:
        console.print(shown)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


class Stripped(HTMLParser):
    """The text of a document without styles and scripts, and the tags it uses."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._muted = False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self._muted = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._muted = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._muted else data


# ---- inert ---------------------------------------------------------------------------------


@given(st.text(st.characters(codec=None)))
def test_visible_text_addresses_no_terminal(text: str) -> None:
    shown = visible(text)
    assert not ACTIVE.search(shown)
    assert "\n" not in shown
    assert visible(shown) == shown
    shown.encode()


def test_control_characters_stay_visible() -> None:
    assert visible("a\x1b[2Kb\x00\x9b\u202e\n") == "a␛[2Kb␀\\u009b\\u202e⏎"
    assert visible("a\r\nb\tc", multiline=True) == "a\nb    c"
    assert visible("naïve 日本 👩‍👩‍👧 فارسی‌ها") == "naïve 日本 👩‍👩‍👧 فارسی‌ها"


def test_a_hostile_run_is_inert_as_plain_text() -> None:
    assert not ACTIVE.search(as_text(hostile_run()))


@pytest.mark.parametrize("colour", [False, True])
def test_a_hostile_run_is_inert_in_a_terminal(colour: bool) -> None:
    shown = printed(hostile_run(), width=400, colour=colour)
    assert not ACTIVE.search(shown)
    assert "[link=http://evil]click[/link][/oops]" in shown  # as text, not as markup


@pytest.mark.parametrize("colour", [False, True])
def test_tables_are_inert(colour: bool) -> None:
    text = printed(table([HOSTILE], [[HOSTILE], [b"\x1b"]]), width=3000, colour=colour)
    assert not ACTIVE.search(text)
    assert "[/oops]" in text


def test_a_hostile_run_is_inert_in_a_browser() -> None:
    source = as_html(hostile_run())
    assert not ACTIVE.search(source)
    page = Stripped(source)
    assert page.tags <= TAGS
    assert page.attributes <= {"class", "open", "align", "dir"}
    assert "<script>alert(1)</script>" in page.text


def test_attributes_are_escaped() -> None:
    assert element("p", "<&>", title='"x"') == '<p title="&quot;x&quot;">&lt;&amp;&gt;</p>'


# ---- what is shown -------------------------------------------------------------------------

TOLD = [
    "ticket-42",
    "support · done · 2 turns",
    'refund(order_id="7") · once · ok',
    "attempt 1 · w-1 · settled",
    "happened, decided by ann · seen at the bank",
    "resumed by w-4 (w-3 is gone): 2 steps replayed, 1 re-run, $0.0031 not spent again, 0 in doubt",
    "HTTP 500: overloaded",
    "1 possibly billed",
    "$0.0031 + 1 unpriced",
]


@pytest.mark.parametrize("told", TOLD)
def test_every_viewer_tells_the_same(told: str) -> None:
    transcript = fold(crashed_and_resumed().events)
    assert told in printed(transcript, width=120)
    assert told in re.sub(r"\n *", " ", as_text(transcript))
    if not told.startswith("attempt"):  # HTML has a table for these
        assert told in Stripped(as_html(transcript)).text


def test_a_run_that_failed_without_a_step_says_why_at_the_top() -> None:
    failed = {"error": {"type": "ConfigError", "message": "no such order"}}
    transcript = fold(Journal().claimed("w-1").add("run_failed", output=failed).events)
    assert as_text(transcript).splitlines()[2] == "failed  ConfigError: no such order"
    assert "failed: ` ConfigError: no such order `" in as_markdown(transcript).partition("## ")[0]
    page = Stripped(as_html(transcript)).text
    assert page.count("failed: ConfigError: no such order") == 1


def test_plain_text_has_80_columns() -> None:
    for transcript in (fold(crashed_and_resumed().events), hostile_run(), fold(wide().events)):
        assert max(columns(line) for line in str(transcript).splitlines()) <= 80


def wide() -> Journal:
    j = Journal(key="k" * 200, args={"text": "日本語" * 100}).claimed("w" * 100, "r" * 300)
    return j.asks(1, [user("日本語 " * 300 + "x" * 5000)]).begins(2, "t" * 100, {"a": "日" * 99})


def test_long_texts_say_how_much_is_left_out() -> None:
    transcript = fold(Journal().claimed("w-1").asks(1, [user("word " * 9_000)]).events)
    assert re.search(r"… [\d,]+ more characters", as_text(transcript))
    assert re.search(r"… 41,000 more characters", as_html(transcript))
    assert "more characters" not in printed(transcript)  # full


def test_a_notebook_shows_both_forms_without_rich() -> None:
    transcript = fold(crashed_and_resumed().events)
    bundle = transcript._repr_mimebundle_()
    assert bundle == {"text/plain": str(transcript), "text/html": as_html(transcript)}
    code = "import sys, agentrun.view; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- HTML ----------------------------------------------------------------------------------


def test_html_is_well_formed() -> None:
    for transcript in (fold(crashed_and_resumed().events), hostile_run(), fold([])):
        assert ET.fromstring(as_html(transcript)).tag == "div"


def test_html_reads_in_order_without_style_and_class() -> None:
    text = Stripped(as_html(fold(crashed_and_resumed().events))).text
    places = [
        text.index(told)
        for told in ("ticket-42", "2 model calls", "turn 1", "Be kind.", "refund(",
                     "resumed by w-2", "turn 2", "resumed by w-4", "HTTP 500", "Refunded.")
    ]  # fmt: skip
    assert places == sorted(places)


def test_the_css_is_small_and_keeps_to_itself() -> None:
    assert len(CSS) < 5_500
    selectors = re.findall(r"([^{}]+)\{", CSS)
    assert all(s.strip().startswith(".ar-root") for group in selectors for s in group.split(","))
    assert "url(" not in CSS


def long_run() -> Transcript:
    j = Journal().claimed("w-1")
    for step in range(1, 400):
        j.ends(step, "look", {"n": step}, {"result": HOSTILE * 20}, effect="read")
    return fold(j.events)


def test_a_long_run_fits_and_says_what_is_left_out() -> None:
    source = as_html(long_run())
    assert len(source.encode()) <= 200_000
    ET.fromstring(source)
    text = Stripped(source).text
    (told,) = re.findall(r"… (\d+) parts left out", text)
    assert text.count("look(n=") + int(told) == 399  # what is left out is steps alone
    assert "look(n=1)" in text
    assert "look(n=399)" in text


def test_a_run_without_a_model_counts_steps() -> None:
    j = Journal().claimed("w-1")
    for step in (1, 2):
        j.ends(step, "fetch", {"n": step}, {"result": "page"}, effect="read", turn=None)
    assert as_text(fold(j.events)).splitlines()[0] == "ticket-42  support · running · 2 steps"


def test_everything_is_shown_without_a_limit() -> None:
    text = Stripped(as_html(long_run(), limit=None)).text
    assert text.count("look(n=") == 399
    assert "left out" not in text


def test_one_huge_step_still_fits() -> None:
    huge = "\U000e0001<&" * 200_000
    j = Journal(args={"q": huge}).claimed("w-1").asks(1, [user(huge)])
    for step in range(2, 9):
        j.ends(step, huge, {huge: huge}, {"result": huge}, effect="read")
    source = as_html(fold(j.add("run_finished", output=huge).events))
    assert len(source.encode()) <= 200_000
    ET.fromstring(source)


@pytest.mark.parametrize("viewer", [as_text, as_html, as_markdown])
def test_a_call_under_way_is_running_in_every_viewer(viewer: Any) -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")], attempt=1)
    j.add("attempt_failed", step=1, kind="model", attempt=1, output={"error": {"type": "E"}})
    events = j.asks(1, [user("?")], attempt=2).events
    live, dead = viewer(fold(events)), viewer(fold(events, owner_lost=True))
    assert live.count("running") == 3, "the run, the step, the attempt"
    assert "open" not in re.sub(r"<[^>]*>", "", live)
    assert "possibly billed" not in live
    assert "no outcome" not in live
    for told in ("running (owner dead)", "open · 2 attempts · 1 possibly billed", "no outcome"):
        assert told in dead
