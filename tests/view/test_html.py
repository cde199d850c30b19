"""What is around the entries in HTML, and that no more is rendered than shown."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from decimal import Decimal
from typing import Any

import pytest
from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user

from agentrun.core.summary import ChildRun, Relatives
from agentrun.core.transcript import Transcript, fold
from agentrun.view.html import WHOLE, as_html, render
from agentrun.view.html_items import ItemRenderer


def long_run(steps: int = 3_000) -> Transcript:
    j = Journal().claimed("w-1")
    for step in range(1, steps + 1):
        j.ends(step, "look", {"n": step}, {"result": "x" * 500}, effect="read", turn=step // 9)
    return fold(j.events)


def test_rendering_stops_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[Any] = []
    render_item = ItemRenderer.render

    def count(self: ItemRenderer, item: Any) -> Any:
        rendered.append(item)
        return render_item(self, item)

    monkeypatch.setattr(ItemRenderer, "render", count)
    shown = as_html(long_run())
    (missing,) = re.findall(r"… ([\d,]+) parts left out", shown)
    assert len(rendered) <= 3_000 - int(missing.replace(",", "")) + 2
    assert len(shown.encode()) <= 200_000
    ET.fromstring(shown)


def test_the_turn_that_is_cut_is_shown_as_one_that_goes_on() -> None:
    j = Journal().claimed("w-1")
    for step in range(1, 400):
        j.ends(step, "look", {"n": step}, {"result": "x" * 900}, effect="read")
    shown = as_html(fold(j.events))
    assert "<strong>turn 1</strong>" in shown
    assert "<strong>turn 1, continued</strong>" in shown


def test_the_header_names_the_first_error_and_the_relatives() -> None:
    j = Journal().claimed("w-1").ends(1, "look", {}, {"result": 1})
    j.ends(2, "pay", {}, {"error": {"type": "Refused", "message": HOSTILE}}, status="error")
    relatives = Relatives(
        parent=f"tree {HOSTILE}",
        children=(ChildRun("k/2", "done", Decimal("0.5")), ChildRun("k/33", "failed", Decimal(0))),
        tree_cost=Decimal("0.75"),
    )
    address = {"k/2": "/runs/3"}.get
    page = ET.fromstring(render(fold(j.events), WHOLE, relatives=relatives, address=address))
    text = "".join(page.itertext())
    assert "first error, in step 2: Refused: ␛" in text
    assert "#s2" in [link.get("href") for link in page.findall("p/strong/a")]
    assert "child run of tree ␛" in text
    assert "$0.7500 with all runs below it" in text
    assert [link.get("href") for link in page.findall("details//td/a") if
                           "runs" in (link.get("href") or "")] == ["/runs/3"]  # fmt: skip


def test_the_final_answer_is_told_once() -> None:
    shown = as_html(fold(crashed_and_resumed().events))
    assert shown.count(">Refunded.<") == 1, "and in the reply as it came, in a fold"
    assert "the last message above" in shown


def test_a_turn_is_indented_without_styles_and_texts_have_a_direction() -> None:
    j = Journal().claimed("w-1").asks(1, [user("שלום")]).answers(1, assistant("مرحبا **x**"))
    page = ET.fromstring(as_html(fold(j.events)))
    (turn,) = page.findall("details[@class='ar-turn']/blockquote")
    found = {p.text: p.get("dir") for p in turn.iter() if p.tag in ("p", "pre") and p.text}
    assert (found["שלום"], found["مرحبا "]) == ("auto", "auto")


def test_ids_are_inside_the_folds_that_they_open() -> None:
    page = ET.fromstring(render(fold(crashed_and_resumed().events), WHOLE))
    ids = [part.get("id") for part in page.findall(".//details/div[@id]")]
    assert ids == ["s1", "s2", "s3"]
    assert not [part for part in page.iter("details") if part.get("id")]


def test_the_page_of_a_very_long_run_is_in_folds_and_has_all_of_it() -> None:
    page = ET.fromstring(render(long_run(), WHOLE))
    folds = page.findall("details[@class='ar-page']")
    assert [fold.get("open") for fold in folds] == ["open", *[None] * 5]
    assert folds[1].findtext("summary/strong") == "steps 501–1,000"
    assert len(page.findall(".//details/div[@id]")) == 3_000


def test_special_tokens_and_short_times_are_shown() -> None:
    shown = as_html(fold(crashed_and_resumed().events))
    assert "100 → 20 tokens (40 cached, 5 reasoning)" in shown
    assert re.search(r"\b0\.0 s", shown) is None


def test_a_model_call_shows_its_request_its_reply_and_its_tools_once() -> None:
    tools = [{"type": "function", "function": {"name": "look", "description": HOSTILE}}]
    j, said = Journal().claimed("w-1"), [user("a")]
    for step in (1, 2):
        body = {"model": "m", "temperature": 0.5, "messages": list(said), "tools": tools}
        j.asks(step, said, input={"api": "chat", "body": body})
        j.answers(step, {"body": {"choices": [], "strange": HOSTILE}})
    shown = as_html(fold(j.events))
    text = "".join(ET.fromstring(shown).itertext())
    assert text.count("tools: 1") == 1
    assert text.count("the same tools as in step 1") == 1
    assert text.count('"temperature": 0.5') == 2
    assert text.count('"strange": ') == 2, "a reply that has no message is seen"
    assert "Its messages are shown where they are new" in text


def test_the_traceback_of_an_error_is_shown_and_inert() -> None:
    raised = (
        f'Traceback (most recent call last):\n  File "/app/{HOSTILE}.py", line 7, in pay\nE: no'
    )
    error = {"type": "E", "message": "no", "traceback": raised}
    j = Journal().claimed("w-1").ends(1, "pay", {}, {"error": error}, status="error")
    transcript = fold(j.add("run_failed", output={"error": error}, step=1).events)
    page = ET.fromstring(render(transcript, WHOLE))
    texts = [pre.text or "" for pre in page.iter("pre")]
    assert sum("line 7, in pay" in text for text in texts) == 2, "of the step and of the run"
    assert "failed in step 1: E: no" in "".join(page.itertext())
    assert "\x1b" not in "".join(texts)
