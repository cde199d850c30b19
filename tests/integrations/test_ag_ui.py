"""AG-UI: a front end that is cut off anywhere sees each event once, and answers interrupts once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ag_ui_desk
import pytest
from ag_ui_desk import SCRIPT, desk, served_desk, serving
from front_end import FrontEnd, abandon, answers, comparable, joined, verify
from matrix import SEED
from outside_tools import kept

import agentrun
from agentrun.integrations.ag_ui import make_app, run_key
from agentrun.testing import Fault, Provider, Reply


@pytest.fixture
def models(provider: Provider, outside: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setattr(ag_ui_desk.client, "base_url", provider.base_url)
    provider.say(SCRIPT)
    return provider


@pytest.fixture
def url(db: Any, models: Provider) -> Iterator[str]:
    with serving(served_desk()) as url:
        yield url


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


# -- the stream ------------------------------------------------------------------------------------


def test_a_conversation_is_events_of_the_protocol(url: str, models: Provider) -> None:
    front = FrontEnd(url)
    events = joined(front.converse("r"))
    verify(events)
    first, second = "msg_RUN_1", "call_RUN_1_0"
    assert types(events)[:5] == [
        "RUN_STARTED", "STEP_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
    ]  # fmt: skip
    assert events[0]["protocolVersion"] == "1.0"
    assert events[3] == {
        "type": "TEXT_MESSAGE_CONTENT", "messageId": first, "delta": "Let me see. 🙂",
    }  # fmt: skip
    assert events[5] == {
        "type": "TOOL_CALL_START", "toolCallId": second, "toolCallName": "agui_look_up",
        "parentMessageId": first,
    }  # fmt: skip
    results = [event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert sorted(results) == ["order 7 is ready", '{"kept": "kept 7"}', '{"paid": 5}']
    (asked,) = [event for event in events if event.get("outcome", {}).get("type") == "interrupt"]
    (interrupt,) = asked["outcome"]["interrupts"]
    assert interrupt["reason"] == "tool_call"
    assert interrupt["toolCallId"] == "call_RUN_4_0"
    assert interrupt["message"] == 'agui_desk asks to call agui_pay with {"cents": 5}.'
    assert events[-1]["outcome"] == {"type": "success"}
    assert events[-1]["result"] == "Order 7 is kept and paid."
    assert len(models.effects()) == 3
    assert kept() == ["5 cents", "7"]


@pytest.mark.parametrize("how", ["each event", "bytes"])
def test_a_client_that_is_cut_off_sees_each_event_once(
    url: str, models: Provider, how: str
) -> None:
    calm = FrontEnd(url, "calm").converse("r")
    draw = random.Random(SEED)
    if how == "each event":
        front = FrontEnd(url, "cut", each=True)
    else:
        front = FrontEnd(url, "cut", cut=lambda number: draw.randrange(1, 300 + 20 * number))
    events = front.converse("r")
    assert front.connections > 10
    assert comparable(events) == comparable(calm), f"AGENTRUN_SEED={SEED}"
    ids = [id_ for id_, _ in front.sent]
    assert len(set(ids)) == len(ids)
    assert len(models.effects()) == 6


def test_a_text_comes_while_the_model_writes_it(url: str, models: Provider) -> None:
    models.say([Reply("It is written word by word.", pace_s=0.3)])
    models.arm(Fault.hold(at=5))
    released = False

    def release() -> None:
        nonlocal released
        if any(event["type"] == "TEXT_MESSAGE_CONTENT" for event in front.events):
            models.release()
            released = True

    front = FrontEnd(url, each=True, between=release)
    events = front.run("r")
    assert released
    verify(events)
    pieces = [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"]
    assert len(pieces) > 1
    assert "".join(pieces) == "It is written word by word."


def test_a_client_that_goes_away_does_not_stop_the_run(
    url: str, models: Provider, sql: Any
) -> None:
    models.say(["Done."])
    models.arm(Fault.hold(at="effect"))
    front = FrontEnd(url)
    with front.post(front.body("r")) as response:
        next(response.iter_raw())
        models.wait_for("held")
    models.release()
    handle = agentrun.get(run_key("t", "r"))
    assert handle.result(timeout=30) == "Done."
    assert types(front.run("r"))[-1] == "RUN_FINISHED"
    assert len(models.effects()) == 1


def test_a_request_that_is_sent_again_is_the_same_run(url: str, models: Provider) -> None:
    models.say(["Done."])
    one, other = FrontEnd(url), FrontEnd(url)
    assert joined(one.run("r")) == joined(other.run("r"))
    assert len(models.effects()) == 1
    status, message = one.refusal(one.body("r", "something else"))
    assert status == 409
    assert "was started with other arguments" in message


# -- interrupts ------------------------------------------------------------------------------------


def test_an_interrupt_is_answered_once_and_who_comes_second_learns_who_was_first(
    url: str, sql: Any
) -> None:
    ana, bob = FrontEnd(url), FrontEnd(url, user="bob")
    asked = ana.run("r")
    approved = answers(asked, {"approved": True, "reason": "a good customer"})
    first = ana.run("r2", resume=approved)
    assert first[-1]["result"] == "Order 7 is kept and paid."
    assert joined(ana.run("r2", resume=approved)) == joined(first)  # the same answer, sent again
    for user, entries in (bob, approved), (ana, answers(asked, {"approved": False})):
        status, message = user.refusal(user.body("r3", resume=entries))
        assert status == 409
        assert "is decided already: ana approved it" in message
    followed = bob.run("r4", resume=abandon(asked))  # withdrawn: bob follows what ana decided
    assert comparable(followed) == comparable(first)
    letters = sql("SELECT kind, claimed_by, reason FROM agentrun.mail")
    assert letters == [("approve", "ana", "a good customer")]


def test_what_the_inbox_decided_is_decided(url: str) -> None:
    front = FrontEnd(url)
    asked = front.run("r")
    key = run_key("t", "r")
    (waiting,) = agentrun.inbox(key)
    agentrun.reject(key, waiting.step or 0, by="carl", reason="too much")
    status, message = front.refusal(front.body("r2", resume=answers(asked)))
    assert status == 409
    assert "carl rejected it" in message
    events = front.run("r3", resume=abandon(asked))
    (result,) = [event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert "not approved by carl: too much" in result


def test_a_person_edits_the_arguments_or_leaves_the_question(url: str, models: Provider) -> None:
    edited = FrontEnd(url, "edit").converse("r", {"approved": True, "editedArgs": {"cents": 3}})
    assert '{"paid": 3}' in [event.get("content") for event in edited]
    front = FrontEnd(url, "left")
    events = front.run("r2", resume=abandon(front.run("r")))
    results = [event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert results[0].startswith('{"error": "agui_pay was not approved by ana')
    assert kept() == ["3 cents", "7", "7"]


def test_an_answer_that_decides_nothing_is_refused_before_a_letter_is_sent(
    url: str, sql: Any
) -> None:
    front = FrontEnd(url)
    asked = front.run("r")
    (interrupt,) = asked[-1]["outcome"]["interrupts"]
    for payload, text in (
        ({}, "`approved` is true or false"),
        ({"approved": "yes"}, "`approved` is true or false"),
        ({"approved": True, "editedArgs": [1]}, "`editedArgs` is an object"),
        ({"approved": True, "reason": 1}, "`reason` is a text"),
    ):
        status, message = front.refusal(front.body("r2", resume=answers(asked, payload)))
        assert (status, text in message) == (400, True), message
    for id_ in ("no-such", "r.1.2", "other.7.2", f"x{interrupt['id']}"):
        entry = {"interruptId": id_, "status": "resolved", "payload": {"approved": True}}
        assert front.refusal(front.body("r2", resume=[entry]))[0] == 404, id_
    stranger = FrontEnd(url, "another-thread")
    assert stranger.refusal(stranger.body("r2", resume=answers(asked)))[0] == 404
    assert sql("SELECT count(*) FROM agentrun.mail") == [(0,)]


def test_without_authorize_nobody_answers_and_the_inbox_does(db: Any, models: Provider) -> None:
    with serving(make_app(desk)) as url:
        front = FrontEnd(url)
        asked = front.run("r")
        for entries in answers(asked), abandon(asked):
            status, message = front.refusal(front.body("r2", resume=entries))
            assert status == 403
            assert "authorize=" in message
        key = run_key("t", "r")
        (waiting,) = agentrun.inbox(key)
        agentrun.approve(key, waiting.step or 0, by="carl")
        assert front.run("r3", resume=abandon(asked))[-1]["outcome"] == {"type": "success"}


def test_a_doubt_is_resolved_by_who_knows(db: Any) -> None:
    @agentrun.tool(name="agui_slow", timeout=0.2)
    async def slow() -> str:
        await asyncio.sleep(60)
        return "late"

    @agentrun.agent(name="agui_doubter")
    async def doubter(question: str) -> str:
        return await slow()

    with serving(make_app(doubter, authorize=ag_ui_desk.user_of)) as url:
        front = FrontEnd(url)
        asked = front.run("r")
        (interrupt,) = asked[-1]["outcome"]["interrupts"]
        assert interrupt["reason"] == "agentrun:doubt"
        assert front.refusal(front.body("r2", resume=abandon(asked)))[0] == 409
        assert front.refusal(front.body("r2", resume=answers(asked)))[0] == 400
        said = {"outcome": "happened", "result": "paid", "reason": "I have asked the bank"}
        assert front.run("r2", resume=answers(asked, said))[-1]["result"] == "paid"


# -- who may ask -----------------------------------------------------------------------------------


def test_requests_that_are_refused(db: Any, models: Provider) -> None:
    @agentrun.agent(name="agui_stranger")
    def stranger(question: str) -> str:
        return "secret"

    stranger.with_options(key=run_key("t", "other")).run("go")
    with serving(served_desk(hosts=["app.example"])) as url:
        front = FrontEnd(url)
        body = front.body("r")
        assert front.refusal(body, host="evil.example") == (
            403, "this agent is not evil.example: give make_app hosts=",
        )  # fmt: skip
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "http://localhost:3000"},
            {"sec-fetch-site": "cross-site"},
        ):
            assert front.refusal(body, **headers)[0] == 403
        assert front.refusal(body, **{"content-type": "text/plain"})[0] == 415
        assert front.refusal({"threadId": "t"})[0] == 400
        assert front.refusal(body, "7.x")[0] == 400
        assert front.refusal(body, "7")[0] == 404  # there is no such run
        assert front.refusal(front.body("other"), "1")[0] == 404
        assert front.refusal(front.body("other"))[0] == 409
        nobody = FrontEnd(url, user="")
        assert nobody.refusal(body)[0] == 403
        with front.post(body, origin="https://app.example", host="app.example") as response:
            assert response.status_code == 200
