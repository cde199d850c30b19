"""`follow` in a real kernel: what it sends while a run goes on, and what stays untouched."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user
from nbclient import NotebookClient
from openai import OpenAI
from test_view import ACTIVE, TAGS, Stripped

import agentrun
from agentrun.core.entries import Entry
from agentrun.core.events import Event
from agentrun.core.live_fold import LiveFold
from agentrun.core.transcript import fold
from agentrun.steps import model_step
from agentrun.store import partials
from agentrun.testing import Fault, Provider, Reply
from agentrun.view.live_page import LivePage

WORDS = " ".join(f"word{n}" for n in range(12))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the Jupyter packages' own


class Sent:
    """The displays of a cell: the content that each of them had, in order."""

    def __init__(self) -> None:
        self.contents: dict[str, list[str]] = {}
        self.changed = threading.Condition()

    def add(self, message: Any) -> None:
        if message["msg_type"] not in ("display_data", "update_display_data"):
            return
        content = message["content"]
        with self.changed:
            name = content["transient"]["display_id"]
            self.contents.setdefault(name, []).append(content["data"]["text/html"])
            self.changed.notify_all()

    def wait_for(self, found: Callable[[str], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(
                lambda: any(found(one) for each in self.contents.values() for one in each), 90
            )


def follow(code: str, sent: Sent) -> list[dict[str, Any]]:
    """Execute a notebook of one cell. Returns the outputs that the saved notebook has."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])

    class Client(NotebookClient):  # type: ignore[misc]
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            sent.add(msg)
            return super().process_message(msg, cell, cell_index)

    Client(notebook, timeout=120, kernel_name="python3").execute()
    outputs: list[dict[str, Any]] = notebook.cells[0].outputs
    assert not [out for out in outputs if out.get("name") == "stderr"]
    return [out["data"] for out in outputs]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk of a reply is worth a statement, so that readers find it."""
    monkeypatch.setattr(partials, "EVERY", 0.01)
    monkeypatch.setattr(model_step, "EVERY", 0.0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@agentrun.tool(effect="read")
def look_up(order: str) -> str:
    return f"order {order} is paid"


@agentrun.agent(name="followed-in-a-notebook")
def followed(base_url: str) -> str:
    look_up("7")
    asked: Any = [{"role": "user", "content": "go"}]
    with agentrun.wrap(OpenAI(base_url=base_url, api_key="k")) as client:
        chunks = client.chat.completions.create(model="gpt-5-mini", messages=asked, stream=True)
        return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)


def test_it_shows_a_reply_while_it_comes_and_leaves_the_rest_alone(
    db: Any, provider: Provider
) -> None:
    provider.say([Reply(WORDS, chunks=12)])
    provider.arm(Fault.hold(5))
    handle = followed.with_options(key="k").submit(provider.base_url)
    runner = threading.Thread(target=followed.with_options(key="k").run, args=[provider.base_url])
    sent, seen = Sent(), []

    def execute() -> None:
        """Begin only when the notebook looks, and end the reply only when it shows the text."""
        sent.wait_for(lambda page: "queued" in page)
        runner.start()
        sent.wait_for(lambda page: "reply so far" in page and "word2" in page)
        seen.append(handle.status())
        provider.release()

    helper = threading.Thread(target=execute)
    helper.start()
    code = "import agentrun\nfrom agentrun.notebook import follow\n"
    saved = follow(f"{code}agentrun.connect({db.dsn!r})\nfollow('k')", sent)
    helper.join()
    runner.join()
    assert seen == ["running"]

    pages = ["".join(data["text/html"]) for data in saved]
    whole = "".join(pages)
    assert "reply so far" not in whole
    assert "word11" in whole
    assert "· done ·" in whole
    tool = [each for each in sent.contents.values() if "look_up(" in each[-1]]
    assert [len(each) for each in tool] == [1]  # it was sent once, so its folds stay as they were
    model = [each for each in sent.contents.values() if "reply so far" in "".join(each)]
    assert ["reply so far" in each[-1] for each in model] == [False]
    assert "possibly billed" not in "".join("".join(each) for each in sent.contents.values())
    assert sum("<style>" in page for page in pages) == 1


def shown(pieces: list[tuple[list[Event], dict[int, str]]], monkeypatch: Any) -> Sent:
    """What a page sends for these pieces, with the display of IPython caught."""
    sent = Sent()

    class Caught:
        def __init__(self, bundle: Any, *, raw: bool, display_id: bool) -> None:
            assert raw
            assert display_id
            self.update(bundle, raw=True)

        def update(self, bundle: Any, *, raw: bool) -> None:
            sent.contents.setdefault(str(id(self)), []).append(bundle["text/html"])
            alive.append(self)

    alive: list[Caught] = []
    monkeypatch.setattr("IPython.display.display", Caught)
    page = LivePage()
    for piece in pieces:
        page.take(piece)
    return sent


def test_many_entries_share_displays_and_each_is_shown_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    j = Journal().claimed("w-1")
    for n in range(1, 402):
        j.begins(n, f"look{n}", {}).ends(n, f"look{n}", {}, {"result": n})
    sent = shown([([event], {}) for event in j.events], monkeypatch)
    last = [each[-1] for each in sent.contents.values()]
    assert len(last) == 2 + 100 + 7  # the head, one each, and 301 by 50
    firsts = list(sent.contents.values())[2:102]
    assert [len(each) for each in firsts] == [2] * 100  # it began, and it ended
    whole = "".join(last)
    assert [n for n in range(1, 402) if whole.count(f"look{n}(") != 1] == []


def test_the_tools_of_a_run_are_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"model": "m", "messages": [user("go")], "tools": [{"name": "look_up"}]}
    j = Journal().claimed("w-1")
    for step in (1, 2, 3):
        j.asks(step, [], input={"api": "chat", "body": body}).answers(step, assistant("on"))
    sent = shown([([event], {}) for event in j.events], monkeypatch)
    whole = "".join(each[-1] for each in sent.contents.values())
    assert whole.count("tools: 1") == 1
    assert whole.count("the same tools as in step 1") == 2


def test_a_reply_that_has_not_grown_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    j = Journal().claimed("w-1").asks(1, [user("why?")])
    pieces: list[Any] = [(j.events, {1: "because"}), ([], {1: "because"}), ([], {1: "because it"})]
    sent = shown(pieces, monkeypatch)
    (call,) = (each for each in sent.contents.values() if "reply so far" in each[-1])
    assert len(call) == 2
    assert "because it" in call[-1]


def test_hostile_pieces_are_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    j = Journal(key=HOSTILE, agent=HOSTILE, args={HOSTILE: HOSTILE}).claimed(HOSTILE)
    j.asks(1, [user(HOSTILE)])
    pieces: list[Any] = [(list(j.events), {1: HOSTILE * 300})]
    j.answers(1, assistant(HOSTILE), model=HOSTILE)
    j.begins(2, HOSTILE, {HOSTILE: HOSTILE}).add("run_finished", output=HOSTILE)
    pieces.append((j.events[3:], {}))
    pages = [one for each in shown(pieces, monkeypatch).contents.values() for one in each]
    assert "earlier characters" in "".join(pages)
    for page in pages:
        assert not ACTIVE.search(page)
        document = Stripped(page)
        assert document.tags <= TAGS
        assert not {name for name in document.attributes if name.startswith("on")}


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_pieces_fold_to_the_same_transcript(size: int) -> None:
    events = crashed_and_resumed().events
    live = LiveFold()
    for first in range(0, len(events), size):
        live.take(events[first : first + size])
        assert live.transcript() == fold(events[: first + size])


def test_a_piece_builds_only_the_entries_that_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    j = Journal().claimed("w-1")
    for n in range(1, 200):
        j.begins(n, "look", {}).ends(n, "look", {}, {"result": n})
    live = LiveFold()
    live.take(j.events)
    built: list[int] = []
    plain = live.run.entry

    def entry(position: int) -> Entry:
        built.append(position)
        return plain(position)

    monkeypatch.setattr(live.run, "entry", entry)
    before = len(j.events)
    j.begins(200, "look", {})
    assert live.take(j.events[before:]) == [199]
    j.ends(200, "look", {}, {"result": 200})
    assert live.take(j.events[-1:]) == [199]
    assert built == [199]
