"""The inbox: what a person sees of a request, decides in a browser, and who was first."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import httpx
import pytest
from browser import Browser, Page
from hostile import JSON
from hypothesis import given
from web_pages import complaints, eventually, hold_for_approval, in_browser, post

import agentrun
from agentrun.testing import Call, Provider, Reply
from agentrun.view.safe import visible
from agentrun.web.decisions import editable_json


def place_of(key: str) -> str:
    """The parameters of a decision about what the run waits for."""
    (waiting,) = agentrun.inbox(key)
    return f"key={key}&step={waiting.step}&fingerprint={waiting.fingerprint}"


@pytest.fixture
def held(desk: Any, provider: Provider) -> Any:
    hold_for_approval(desk, provider, "k")
    return desk


def test_a_card_has_what_a_decision_needs(pages: str, held: Any) -> None:
    (card,) = httpx.get(f"{pages}/inbox.json").json()["cards"]
    assert card["waiting"]["name"] == "web_pay"
    assert card["waiting"]["effect"] == "once"
    assert card["waiting"]["args"] == {"cents": 500, "to": "ann"}
    assert card["user"] == "Please pay Ann."
    assert float(card["cost"]) > 0
    text = httpx.get(f"{pages}/inbox").text
    for part in ("web_pay", "once", "Please pay Ann.", "&#34;cents&#34;: 500", "$0.0"):
        assert part in text


def test_arguments_are_edited_and_the_journal_names_the_person(pages: str, held: Any) -> None:
    edited = {"arguments": json.dumps({"cents": 300, "to": "bo"}), "reason": "less is enough"}
    assert post(pages, f"approve?{place_of('k')}", edited).status_code == 303
    held.with_options(key="k").run("Please pay Ann.")
    (step,) = [step for step in agentrun.transcript("k").steps if step.kind == "tool"]
    assert step.output == "paid 300 to bo"
    (decision,) = step.approvals
    assert decision.decider == "ana@desk.example"
    assert decision.reason == "less is enough"
    assert decision.arguments == {"cents": 300, "to": "bo"}


def test_the_inbox_says_who_goes_on_with_what_was_decided(pages: str, held: Any) -> None:
    form = {"next": "inbox"}
    assert post(pages, f"approve?{place_of('k')}", form).status_code == 303

    def told() -> str:
        text = unescape(httpx.get(f"{pages}/inbox?decided=k").text)
        (said,) = re.findall(
            r'role="status" class="done">Recorded for <a .*?>k</a>; (.*)</p>', text
        )
        return str(said)

    assert told().startswith("no live worker knows agent 'web_desk': start one with ")
    with agentrun.Worker([held]):
        assert agentrun.get("k").result(timeout=60) == "It is paid."
        assert told() == "a worker goes on with the run."


def test_what_was_not_edited_is_approved_as_it_was_asked(pages: str, held: Any) -> None:
    shown = httpx.get(f"{pages}/inbox").text
    (text,) = re.findall(r"(?s)<textarea name=\"arguments\"[^>]*>(.*?)</textarea>", shown)
    unchanged = {"arguments": text.replace("&#34;", '"').replace("\n", "\r\n")}
    assert post(pages, f"approve?{place_of('k')}", unchanged).status_code == 303
    held.with_options(key="k").run("Please pay Ann.")
    (step,) = [step for step in agentrun.transcript("k").steps if step.kind == "tool"]
    assert step.approvals[0].arguments is None


def test_an_edit_that_python_calls_equal_is_an_edit(
    pages: str, client: Any, provider: Provider
) -> None:
    @agentrun.tool(approve=True)
    def web_flag(value: bool | int) -> str:
        return repr(value)

    @agentrun.agent(name="web_flagger")
    def web_flagger() -> str:
        return web_flag(True)

    with pytest.raises(agentrun.RunHeld):
        web_flagger.with_options(key="k").run()
    assert post(pages, f"approve?{place_of('k')}", {"arguments": '{"value": 1}'}).is_redirect
    assert web_flagger.with_options(key="k").run() == "1"


def test_the_second_person_reads_who_was_first(pages: str, held: Any) -> None:
    place = place_of("k")
    agentrun.approve("k", agentrun.inbox("k")[0].step or 0, by="bo@desk.example")
    refused = post(pages, f"reject?{place}", {"reason": "no"})
    assert refused.status_code == 409
    assert "bo@desk.example" in refused.text
    shown = httpx.get(f"{pages}/inbox").text
    assert "approve by bo@desk.example" in shown, "no worker has read the decision yet"
    programs = post(pages, f"reject.json?{place}", {})
    assert programs.json()["error"]["code"] == "AlreadyDecided"


def test_a_decision_about_something_else_is_refused(pages: str, held: Any) -> None:
    place = re.sub("fingerprint=.*", "fingerprint=0123", place_of("k"))
    refused = post(pages, f"approve?{place}", {})
    assert refused.status_code == 409
    assert "asks for something else" in refused.text
    assert len(agentrun.inbox("k")) == 1


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"arguments": "{"}, 400),
        ({"arguments": "[1]"}, 400),
        ({"arguments": "[" * 100_000}, 400),
        ({"arguments": "{" + " " * (1 << 20) + "}"}, 413),
    ],
)
def test_arguments_that_cannot_be_read_decide_nothing(
    pages: str, held: Any, form: dict[str, str], status: int
) -> None:
    assert post(pages, f"approve?{place_of('k')}", form).status_code == status
    assert len(agentrun.inbox("k")) == 1


@pytest.mark.parametrize(
    ("form", "result"),
    [
        ({"outcome": "happened", "result": '"paid by hand"'}, "paid by hand"),
        ({"outcome": "not_happened"}, "paid 7"),
    ],
)
def test_a_doubt_is_resolved(pages: str, sql: Any, form: dict[str, str], result: str) -> None:
    died = True

    @agentrun.tool
    def web_send(cents: int) -> str:
        if died:
            raise KeyboardInterrupt
        return f"paid {cents}"

    @agentrun.agent(name="web_sender")
    def web_sender() -> str:
        return web_send(7)

    with pytest.raises(KeyboardInterrupt):
        web_sender.with_options(key="k").run()
    died = False
    with pytest.raises(agentrun.RunHeld):
        web_sender.with_options(key="k").run()
    assert "What became of it?" in httpx.get(f"{pages}/inbox").text
    assert post(pages, f"resolve?{place_of('k')}", {"outcome": "perhaps"}).status_code == 400
    assert post(pages, f"resolve?{place_of('k')}", form).status_code == 303
    assert web_sender.with_options(key="k").run() == result


def test_a_call_is_not_approved_by_a_budget(pages: str, desk: Any, provider: Provider) -> None:
    provider.say([Reply(None, [Call("web_pay", {"cents": 5})])])
    with pytest.raises(agentrun.RunHeld):
        desk.with_options(key="k").run("Pay.")
    assert post(pages, f"raise?{place_of('k')}", {"usd": "5"}).status_code == 409
    assert len(agentrun.inbox("k")) == 1


def test_a_budget_is_raised(pages: str, client: Any, provider: Provider) -> None:
    provider.say(["It is done."])

    @agentrun.agent(name="web_spender", budget=agentrun.Budget(model_calls=1))
    def web_spender() -> str:
        for _ in range(2):
            reply = client.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}]
            )
        return str(reply.choices[0].message.content)

    with pytest.raises(agentrun.RunHeld):
        web_spender.with_options(key="k").run()
    assert "Raise the budget" in httpx.get(f"{pages}/inbox").text
    assert post(pages, f"raise?{place_of('k')}", {"model_calls": "many"}).status_code == 400
    assert post(pages, f"raise?{place_of('k')}", {}).status_code == 400
    assert post(pages, f"approve?{place_of('k')}", {}).status_code == 409
    assert post(pages, f"raise?{place_of('k')}", {"model_calls": "5"}).status_code == 303
    assert web_spender.with_options(key="k").run() == "It is done."


@given(JSON)
def test_what_a_person_edits_is_all_visible_and_reads_back(value: Any) -> None:
    text = editable_json(value)
    assert visible(text, multiline=True) == text
    assert repr(json.loads(text)) == repr(json.loads(json.dumps(value)))  # JSON joins surrogates


# -- in a browser ----------------------------------------------------------------------------------


def press(page: Page, key: str, times: int = 1, **more: Any) -> None:
    codes = {"Tab": 9, "Enter": 13, " ": 32}
    for _ in range(times):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            page.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, windowsVirtualKeyCode=codes[key], **text, **more,
            )  # fmt: skip


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(60):
        if page.evaluate(f"document.activeElement.matches({selector!r})"):
            return
        press(page, "Tab")
    raise AssertionError(f"no key leads to {selector}")


@in_browser
def test_a_decision_is_made_with_the_keyboard_alone(
    browser: Browser, pages: str, held: Any
) -> None:
    page = browser.open(f"{pages}/inbox")
    tab_to(page, "textarea[name=arguments]")
    page.call("Input.insertText", text=" ")
    tab_to(page, "input[name=reason]")
    page.call("Input.insertText", text="as agreed")
    tab_to(page, "button:not(.danger)")
    press(page, "Enter")
    eventually(page, "document.querySelector('[role=status]')?.innerText.includes('Recorded')")
    assert complaints(page) == []
    assert held.with_options(key="k").run("Please pay Ann.") == "It is paid."
    (step,) = [step for step in agentrun.transcript("k").steps if step.kind == "tool"]
    assert step.approvals[0].reason == "as agreed"


@in_browser
def test_what_a_person_types_stays_while_the_run_grows(
    browser: Browser, pages: str, held: Any
) -> None:
    page = browser.open(f"{pages}/run?key=k")
    tab_to(page, "textarea[name=arguments]")
    page.call("Input.insertText", text="typed ")
    agentrun.send("k", "news")  # a letter: the journal grows once the run reads it
    with pytest.raises(agentrun.RunHeld):
        held.with_options(key="k").run("Please pay Ann.")
    page.evaluate("new Promise(done => setTimeout(done, 2500))")
    assert "typed" in page.evaluate("document.querySelector('textarea').value")
