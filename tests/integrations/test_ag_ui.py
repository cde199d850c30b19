"""AG-UI: a front end that is cut off anywhere sees each event once, and answers interrupts once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ag_ui_desk
import httpx
import pytest
from ag_ui_desk import SCRIPT, desk, served_desk, serving
from fastapi import FastAPI
from front_end import FrontEnd, abandon, answers, comparable, joined, verify
from matrix import SEED
from outside_tools import kept

import agentrun
from agentrun.integrations.ag_ui import make_app, run_key
from agentrun.testing import Call, Fault, Provider, Reply


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

    front = FrontEnd(url, each=True, between=release, patience=30)
    try:
        events = front.run("r")
    finally:
        models.release()
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


def test_two_questions_are_answered_one_after_the_other(url: str, models: Provider) -> None:
    calls = [Call("agui_pay", {"cents": cents}) for cents in (1, 2)]
    models.say([Reply(tool_calls=calls), "Paid."])
    front = FrontEnd(url)
    asked = front.run("r")
    assert len(asked[-1]["outcome"]["interrupts"]) == 2
    first = answers(asked)[0]
    again = front.run("r2", resume=[first])  # the protocol wants both, and the rest stays open
    (interrupt,) = again[-1]["outcome"]["interrupts"]
    assert interrupt["toolCallId"] == asked[-1]["outcome"]["interrupts"][1]["toolCallId"]
    assert kept() == ["1 cents"]
    assert front.run("r4", resume=answers(again))[-1]["result"] == "Paid."
    assert kept() == ["1 cents", "2 cents"]
    verify(front.events)


def test_what_no_answer_solves_says_what_to_do_and_is_followed(
    db: Any, models: Provider, outside: Path
) -> None:
    @agentrun.step(effect="read")
    def measure(what: str) -> str:
        return what

    @agentrun.agent(name="agui_changed")
    def changed(question: str) -> str:
        measure("other" if (outside / "changed").exists() else "one")
        return str(ag_ui_desk.pay(5))

    with serving(make_app(changed, authorize=ag_ui_desk.user_of)) as url:
        front = FrontEnd(url)
        asked = front.run("r")
        (outside / "changed").touch()
        diverged = front.run("r2", resume=answers(asked))
        (interrupt,) = diverged[-1]["outcome"]["interrupts"]
        assert interrupt["reason"] == "agentrun:divergence"
        status, message = front.refusal(front.body("r3", resume=abandon(diverged)))
        assert status == 409
        assert "no answer lets the run go on" in message
        (outside / "changed").unlink()
        agentrun.resume(run_key("t", "r"))
        assert front.run("r3", resume=abandon(diverged))[-1]["outcome"] == {"type": "success"}
    verify(front.events)


def test_a_budget_is_raised(db: Any, models: Provider) -> None:
    models.say([SCRIPT[0], SCRIPT[2]])

    @agentrun.agent(name="agui_poor")
    async def poor(question: str) -> str:
        return await ag_ui_desk.answer([{"role": "user", "content": question}])

    limited = poor.with_options(budget=agentrun.Budget(model_calls=1))
    with serving(make_app(limited, authorize=ag_ui_desk.user_of)) as url:
        front = FrontEnd(url)
        asked = front.run("r")
        (interrupt,) = asked[-1]["outcome"]["interrupts"]
        assert interrupt["reason"] == "agentrun:budget"
        assert "does not allow the next model call" in interrupt["message"]
        wrong = {"approved": True, "budget": {"model_calls": "many"}}
        assert front.refusal(front.body("r2", resume=answers(asked, wrong)))[0] == 400
        more = {"approved": True, "budget": {"model_calls": 5}}
        assert front.run("r2", resume=answers(asked, more))[-1]["outcome"] == {"type": "success"}


# -- the application -------------------------------------------------------------------------------


def test_an_agent_gets_the_parts_of_the_input_that_its_parameters_name(db: Any) -> None:
    @agentrun.agent(name="agui_parts")
    def parts(
        messages: list[Any], tools: list[Any], state: Any, context: list[Any], thread_id: str,
        question: str, optional: int = 3,
    ) -> list[Any]:  # fmt: skip
        return [messages, tools, state, context, thread_id, question, optional]

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = [{"type": "text", "text": "look"}, {"type": "text", "text": "here"}]
    given = {
        "messages": [
            {"id": "1", "role": "user", "content": said},
            {"id": "2", "role": "assistant", "toolCalls": [call]},
            {"id": "3", "role": "tool", "toolCallId": "c", "content": "done"},
            {"id": "4", "role": "reasoning", "content": "hm"},
        ],
        "tools": [{"name": "f", "description": "d", "parameters": {"type": "object"}}],
        "state": {"a": 1},
        "context": [{"description": "x", "value": "y"}],
    }
    with serving(make_app(parts)) as url:
        front = FrontEnd(url)
        result = front.run("r", **given)[-1]["result"]
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert result == [
        [
            {"role": "user", "content": "look\nhere"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "done", "tool_call_id": "c"},
        ],
        [{"type": "function", "function": function}],
        {"a": 1}, [{"description": "x", "value": "y"}], "t", "look\nhere", 3,
    ]  # fmt: skip

    @agentrun.agent(name="agui_two")
    def two(question: str, order: int) -> int:
        return order

    with pytest.raises(agentrun.ConfigError, match="question, order: give make_app arguments="):
        make_app(two)
    with serving(make_app(two, arguments=lambda given: {"question": "q", "order": 7})) as url:
        assert FrontEnd(url).run("r2")[-1]["result"] == 7


def test_inside_another_application_it_works_by_that_ones_lifespan(
    db: Any, models: Provider
) -> None:
    models.say(["Done."])
    app = served_desk()
    for lifespan, status in (None, 500), (app.lifespan, 200):
        web = FastAPI(lifespan=lifespan)
        web.mount("/agent", app)
        with serving(web) as url:
            front = FrontEnd(f"{url}agent/")
            if status == 200:
                assert front.run("r")[-1]["result"] == "Done."
            else:
                assert front.refusal(front.body("r")) == (
                    500, "no worker runs here: the application needs lifespan=",
                )  # fmt: skip


def test_workers_elsewhere_execute_the_runs_and_authorize_may_be_async(
    db: Any, models: Provider
) -> None:
    models.say(["Done."])

    async def user_of(request: Any, given: Any) -> str | None:
        return "ana" if given.thread_id == "t" else None

    app = make_app(desk, authorize=user_of, worker=False)
    with agentrun.Worker([desk]), serving(app) as url:
        assert FrontEnd(url).run("r")[-1]["result"] == "Done."
        stranger = FrontEnd(url, "thread-of-others")
        assert stranger.refusal(stranger.body("r"))[0] == 403


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
        assert httpx.post(f"{url}?from=7.x", json=body, headers={"x-user": "a"}).status_code == 400
        assert httpx.get(url).status_code == 405
        assert front.refusal(body, "7")[0] == 404  # there is no such run
        assert front.refusal(front.body("other"), "1")[0] == 404
        assert front.refusal(front.body("other"))[0] == 409
        nobody = FrontEnd(url, user="")
        assert nobody.refusal(body)[0] == 403
        with front.post(body, origin="https://app.example", host="app.example") as response:
            assert response.status_code == 200
