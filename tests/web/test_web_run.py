"""One run in a browser: it grows while it goes on, and what a reader has unfolded stays so."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from html import unescape
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from browser import Browser
from web_pages import complaints, eventually, hold_for_approval, in_browser, post, serving

import agentrun
from agentrun.store.session import Session
from agentrun.testing import Fault, Provider, Reply


def executed(agent: Any, key: str, *arguments: Any) -> threading.Thread:
    """A run that goes on in a thread of its own."""
    thread = threading.Thread(target=agent.with_options(key=key).run, args=arguments)
    thread.start()
    return thread


@in_browser
def test_a_text_comes_while_it_is_written_and_folds_stay(
    browser: Browser, pages: str, writer: Any, provider: Provider
) -> None:
    text = "It is written word by word."
    provider.say([Reply(text, pace_s=0.2)])
    provider.arm(Fault.hold(at=5))
    thread = executed(writer, "k", "Why?")
    try:
        eventually_begun("k")
        page = browser.open(f"{pages}/run?key=k")
        eventually(page, "document.querySelector('#streaming').innerText.includes('It is')")
        page.evaluate("document.querySelector('#run details').open = false")
        page.evaluate("document.querySelectorAll('#run details')[1].open = true")
        page.evaluate("window.kept = document.querySelectorAll('#run details')[1]; true")
    finally:
        provider.release()
        thread.join()
    eventually(page, "document.querySelector('#actions .status').innerText == 'done'")
    assert text in page.evaluate("document.querySelector('#run').innerText")
    assert page.evaluate("document.querySelector('#streaming').innerText") == ""
    assert page.evaluate("document.querySelector('#run details').open") is False
    assert page.evaluate("window.kept.isConnected && window.kept.open")
    assert complaints(page) == []


@in_browser
def test_a_page_goes_live_however_late_its_scripts_come(
    browser: Browser, db: Any, desk: Any, provider: Provider
) -> None:
    app = agentrun.ui()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path", "").endswith("/hx-sse.min.js"):
            await asyncio.sleep(1)
        await app(scope, receive, send)

    hold_for_approval(desk, provider, "k")
    with serving(slow) as url:
        page = browser.open(f"{url}/run?key=k")
        agentrun.cancel("k")
        eventually(page, "document.querySelector('#actions .status').innerText == 'cancelled'")
        assert any("run/events" in address for address in page.requests())
        assert complaints(page) == []
        browser.close_pages()


def eventually_begun(key: str) -> None:
    import time

    end = time.monotonic() + 20
    while True:
        try:
            if any(step.status == "running" for step in agentrun.transcript(key).steps):
                return
        except agentrun.RunNotFound:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


def read_stream(url: str, **headers: str) -> list[dict[str, str]]:
    """The messages of a stream that ends."""
    messages = []
    text = httpx.get(url, headers=headers, timeout=30).text
    for block in text.split("\n\n"):
        message: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name:
                message[name] = message.get(name, "") + value
        if message:
            messages.append(message)
    return messages


def test_a_stream_goes_on_from_the_last_seq(pages: str, writer: Any, provider: Provider) -> None:
    provider.say(["It is done."])
    writer.with_options(key="k").run("Why?")
    last = httpx.get(f"{pages}/run.json?key=k").json()["seq"]
    stream = f"{pages}/run/events?key=k"
    whole = read_stream(stream)
    assert [message.get("id") for message in whole] == [str(last), None, None]
    assert "It is done." in whole[0]["data"]
    assert [message.get("event") for message in whole[1:]] == ["status", "ended"]
    assert read_stream(stream, **{"last-event-id": str(last)}) == [
        {"event": "ended", "data": "ended"}
    ]
    assert read_stream(f"{stream}&after={last}") == [{"event": "ended", "data": "ended"}]
    earlier = read_stream(stream, **{"last-event-id": str(last - 1)})
    assert earlier[0]["id"] == str(last)
    assert httpx.get(f"{pages}/run/events?key=none").status_code == 404
    assert httpx.get(stream, headers={"last-event-id": "x"}).status_code == 400


def test_viewers_of_a_run_share_one_look_a_second(
    pages: str, desk: Any, provider: Provider
) -> None:
    """Ten streams of one run: however long they are open, one of them looks at a time."""
    hold_for_approval(desk, provider, "k")
    looks: list[str] = []
    enough = threading.Event()
    execute = Session._execute

    def counted(self: Session, name: str, *rest: Any) -> Any:
        looks.append(name)
        if looks.count("glance") >= 4:
            enough.set()
        return execute(self, name, *rest)

    def watch() -> None:
        with httpx.stream("GET", f"{pages}/run/events?key=k&after=0", timeout=30) as response:
            for _ in response.iter_lines():
                pass

    with patch.object(Session, "_execute", counted):
        threads = [threading.Thread(target=watch) for _ in range(10)]
        for thread in threads:
            thread.start()
        assert enough.wait(30)
        seen = list(looks)
        agentrun.cancel("k")
        for thread in threads:
            thread.join()
    # Each stream looks the run up once as it begins. All that follows is shared.
    assert seen.count("glance") == 4
    assert seen.count("events") == 1


def test_a_stream_changes_nothing(pages: str, desk: Any, provider: Provider, sql: Any) -> None:
    hold_for_approval(desk, provider, "k")
    before = sql("SELECT count(*) FROM agentrun.journal"), sql("SELECT count(*) FROM agentrun.mail")
    with httpx.stream("GET", f"{pages}/run/events?key=k") as response:
        assert next(response.iter_lines()).startswith("id: ")
    after = sql("SELECT count(*) FROM agentrun.journal"), sql("SELECT count(*) FROM agentrun.mail")
    assert before == after


def test_a_run_is_exported_in_each_format(pages: str, writer: Any, provider: Provider) -> None:
    provider.say(["It is done."])
    writer.with_options(key="a/k \u202e").run("Why?")
    for form, kind in (
        ("html", "text/html"),
        ("jsonl", "application/jsonl"),
        ("md", "text/markdown"),
        ("json", "application/json"),
    ):
        answer = httpx.get(f"{pages}/export", params={"key": "a/k \u202e", "format": form})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["content-disposition"] == f'attachment; filename="a_k_.{form}"'
        assert "It is done." in answer.text
    assert httpx.get(f"{pages}/export?key=none").status_code == 404
    assert httpx.get(f"{pages}/export?key=k&format=exe").status_code == 400


def test_the_raw_journal_has_every_event(pages: str, writer: Any, provider: Provider) -> None:
    provider.say(["It is done."])
    writer.with_options(key="k").run("Why?")
    data = httpx.get(f"{pages}/journal.json?key=k").json()
    assert [row["seq"] for row in data["events"]] == list(range(1, len(data["events"]) + 1))
    assert data["events"][0]["event"] == "created"
    assert data["next"] is None
    later = httpx.get(f"{pages}/journal.json?key=k&after=2").json()["events"]
    assert later == data["events"][2:]
    assert "It is done." in httpx.get(f"{pages}/journal?key=k").text


def test_a_failed_run_is_resumed_by_a_worker_and_says_who_did_that(
    pages: str, client: Any, provider: Provider
) -> None:
    broken = True

    @agentrun.tool
    def web_mend() -> str:
        if broken:
            raise ValueError("it is broken")
        return "mended"

    @agentrun.agent(name="web_mender")
    def web_mender() -> str:
        return web_mend()

    with pytest.raises(agentrun.RunFailed):
        web_mender.with_options(key="k").run()
    refused = post(pages, "cancel?key=k", {})
    assert refused.status_code == 409
    broken = False
    assert post(pages, "resume?key=k", {"reason": "mended it"}).status_code == 303
    assert agentrun.get("k").status() == "queued"
    with agentrun.Worker([web_mender]):
        assert agentrun.get("k").result(timeout=60) == "mended"
    notes = json.dumps(agentrun.transcript("k").to_dict())
    assert "ana@desk.example" in notes
    assert "mended it" in notes
    assert post(pages, "resume?key=k", {}).status_code == 409


def test_a_form_asks_about_its_own_run_whatever_its_key_is(
    pages: str, writer: Any, provider: Provider
) -> None:
    key = "a\n\x1b[2J\u202e%41+b"
    provider.say(["It is done."])
    writer.with_options(key=key).run("Why?")
    source = httpx.get(f"{pages}/run", params={"key": key}).text
    (form,) = re.findall(r'(?s)<form method="get" action="[^"]*redo".*?</form>', source)
    ((field, value),) = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)
    # A browser sends each line break of a field as two characters.
    sent = unescape(value).replace("\n", "\r\n")
    plan = httpx.get(f"{pages}/redo.json", params={field: sent, "step": "1"})
    assert (plan.status_code, plan.json()["key"]) == (200, key)


def test_the_page_of_a_run_names_it_once(pages: str, writer: Any, provider: Provider) -> None:
    provider.say(["It is done."])
    writer.with_options(key="named-once").run("Why?")
    page = httpx.get(f"{pages}/run?key=named-once").text
    assert re.findall(r"<h\d[^>]*>([^<]*)</h\d>", page) == ["named-once", "Transcript"]
    assert "<summary>Tokens and cost of 1 turn</summary>" in page
    streamed = read_stream(f"{pages}/run/events?key=named-once")[0]["data"]
    assert ">named-once<" not in streamed
    assert "<h3" in httpx.get(f"{pages}/export?key=named-once").text


def test_a_step_is_redone_once_its_price_was_seen(
    pages: str, writer: Any, provider: Provider
) -> None:
    provider.say(["It is done."])
    writer.with_options(key="k").run("Why?")
    plan = httpx.get(f"{pages}/redo.json?key=k&step=1").json()
    assert plan["step"] == 1
    assert plan["once"] == []
    assert plan["plan"] in httpx.get(f"{pages}/redo?key=k&step=1").text.replace("&#39;", "'")
    assert agentrun.get("k").status() == "done"
    assert post(pages, "redo?key=k&step=1", {"reason": "again"}).status_code == 409
    assert post(pages, "redo?key=k&step=1", {"seen": "another plan"}).status_code == 409
    form = {"reason": "again", "seen": plan["seen"]}
    assert post(pages, "redo?key=k&step=1", form).status_code == 303
    assert agentrun.get("k").status() == "queued"
