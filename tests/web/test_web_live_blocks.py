"""What a page that watches a run is sent: only the blocks that have changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from browser import Browser
from web_pages import complaints, eventually, in_browser

import agentrun
from agentrun.testing import Call, Provider, Reply
from agentrun.view.html import Block
from agentrun.view.safe import Markup
from agentrun.web.live_blocks import update_blocks


def hold_twice(desk: Any, provider: Provider, key: str) -> None:
    """Execute the desk until the first of its two payments waits for a person."""
    pay = [Reply("I pay.", tool_calls=[Call("web_pay", {"cents": n})]) for n in (500, 700)]
    provider.say([*pay, "It is paid."])
    with pytest.raises(agentrun.RunHeld):
        desk.with_options(key=key).run("Please pay Ann.")


def approve_one(desk: Any, key: str) -> None:
    """Approve what waits, and execute the run on to its next wait or its end."""
    (waiting,) = agentrun.inbox()
    agentrun.approve(key, waiting.step, by="ana")
    with suppress(agentrun.RunHeld):
        desk.with_options(key=key).run("Please pay Ann.")


def seq_of(pages: str, key: str) -> int:
    return int(httpx.get(f"{pages}/run.json?key={key}").json()["seq"])


class Watched:
    """The messages of a stream, as they come."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def until(self, seq: int) -> list[str]:
        """The data of the next messages, up to the one with this id."""
        found, at, data = [], 0, ""
        for line in self._lines:
            assert line != ": nothing new", f"nothing came up to {seq}"
            name, _, value = line.partition(": ")
            if name == "id":
                at = int(value)
            elif name == "data":
                data += value
            elif not line and at:
                found.append(data)
                if at >= seq:
                    return found
                at, data = 0, ""
        raise AssertionError(f"the stream ended before {seq}")


@contextmanager
def watching(pages: str, key: str, after: int = 0) -> Iterator[Watched]:
    url = f"{pages}/run/events?key={key}"
    headers = {"last-event-id": str(after)}
    with httpx.stream("GET", url, headers=headers, timeout=30) as response:
        yield Watched(response.iter_lines())


def targets(messages: list[str]) -> set[str]:
    """The elements that messages change, and the blocks that they add."""
    found = set[str]()
    for data in messages:
        found |= set(re.findall(r'<hx-partial hx-target="#([^"]+)" hx-swap="innerMorph"', data))
        found |= {f"+{key}" for key in re.findall(r'<div id="(run-[^"]+)"', data)}
    return found


def test_only_the_blocks_that_changed_are_sent(pages: str, desk: Any, provider: Provider) -> None:
    hold_twice(desk, provider, "k")
    with watching(pages, "k") as stream:
        first = targets(stream.until(seq_of(pages, "k")))
        assert {"run", "+run-head", "+run-turn-1", "+run-end"} <= first
        approve_one(desk, "k")
        second = targets(stream.until(seq_of(pages, "k")))
        assert {"run-head", "run-turn-1", "+run-turn-2"} <= second
        assert not {"run", "+run-turn-1", "+run-head"} & second
        approve_one(desk, "k")
        third = targets(stream.until(seq_of(pages, "k")))
        assert {"run-head", "run-turn-2", "+run-turn-3", "run-end"} <= third
        assert not {"run", "run-turn-1", "+run-turn-1", "+run-turn-2"} & third


def test_a_browser_that_was_cut_off_gets_what_has_changed_since(
    pages: str, desk: Any, provider: Provider
) -> None:
    hold_twice(desk, provider, "k")
    with watching(pages, "k") as stream:
        known = seq_of(pages, "k")
        stream.until(known)
        approve_one(desk, "k")
        now = seq_of(pages, "k")
        stream.until(now)
        with watching(pages, "k", known) as again:
            changed = targets(again.until(now))
        assert {"run-turn-1", "+run-turn-2"} <= changed
        assert "run" not in changed
        for unknown in (known - 1, 0):
            with watching(pages, "k", unknown) as late:
                assert {"run", "+run-turn-1", "+run-turn-2"} <= targets(late.until(now))


def test_blocks_come_and_go_in_their_places() -> None:
    def blocks(*keys: str) -> list[Block]:
        return [Block(key, Markup(key)) for key in keys]

    def sent(before: list[Block] | None, now: list[Block]) -> set[str]:
        return targets(list(map(str, update_blocks(before, now))))

    known = blocks("head", "turn-1", "end")
    assert sent(known, known) == set()
    assert sent(known, blocks("head", "turn-1", "turn-2", "end")) == {"+run-turn-2"}
    assert sent(known, blocks("head", "gap", "turn-1", "end")) == {"+run-gap"}
    (gone,) = update_blocks(known, blocks("head", "end"))
    assert gone == '<hx-partial hx-target="#run-turn-1" hx-swap="delete"></hx-partial>'
    (first, last) = update_blocks(known, blocks("a", "head", "turn-1", "b", "c", "end"))
    assert "#run-head" in first
    assert "#run-end" in last
    assert last.index("run-b") < last.index("run-c")
    for other in (("turn-1", "head", "end"), ("head", "end", "x")):
        assert sent(known, blocks(*other)) == {"run", *(f"+run-{key}" for key in other)}
    assert sent(None, known) == {"run", "+run-head", "+run-turn-1", "+run-end"}
    assert sent([*known[:1], Block("turn-1", Markup("x")), known[2]], known) == {"run-turn-1"}


@in_browser
def test_what_did_not_change_is_left_alone_and_folds_stay(
    browser: Browser, pages: str, desk: Any, provider: Provider
) -> None:
    hold_twice(desk, provider, "k")
    approve_one(desk, "k")
    page = browser.open(f"{pages}/run?key=k")
    turns = "document.querySelectorAll('#run .ar-turn')"
    page.evaluate(
        "window.touched = 0; new MutationObserver(() => window.touched++).observe("
        "document.querySelector('#run-turn-1'), {subtree: true, childList: true,"
        " attributes: true, characterData: true}); 0"
    )
    page.evaluate(f"window.kept = {turns}[1].querySelector('.ar-of-model'); kept.open = true")
    page.evaluate(f"{turns}[0].open = false; window.touched = 0")
    approve_one(desk, "k")
    eventually(page, "document.querySelector('#actions .status').innerText == 'done'")
    eventually(page, "document.querySelector('#run').innerText.includes('It is paid.')")
    keys = page.evaluate("[...document.querySelectorAll('#run .ar-root>div')].map(e => e.id)")
    assert keys[0] == "run-head"
    assert keys[-4:] == ["run-turn-1", "run-turn-2", "run-turn-3", "run-end"]
    assert page.evaluate("window.kept.isConnected && window.kept.open")
    assert page.evaluate(f"{turns}[0].open") is False
    assert page.evaluate("window.touched") <= 1, "the fold that was closed, and nothing else"
    assert "paid 700" in page.evaluate("document.querySelector('#run-turn-2').textContent")
    shown = page.evaluate("document.querySelector('#run').textContent")
    whole = browser.open(f"{pages}/run?key=k")
    assert shown == whole.evaluate("document.querySelector('#run').textContent")
    assert complaints(page) == []
