"""What AG-UI clients get of a journal: the same from any place on, and right when texts change."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ag_ui_desk
import pytest
from ag_ui.core import EventType, UserMessage
from ag_ui_desk import SCRIPT, desk
from front_end import comparable, joined, read_event, verify
from matrix import SEED
from openai import OpenAI

import agentrun
from agentrun.core.events import Event
from agentrun.integrations.ag_ui.positions import Position
from agentrun.integrations.ag_ui.translation import SentEvent, Translation
from agentrun.store.opening import default
from agentrun.store.partials import Partial
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply, Rule

USER = {"id": "u1", "role": "user", "content": "go"}


@pytest.fixture
def models(provider: Provider, outside: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setattr(ag_ui_desk.client, "base_url", provider.base_url)
    provider.say(SCRIPT)
    return provider


def journal(key: str) -> list[Event]:
    return read_events(default(), find_run(default(), key).run_id)[0]


def translation(rows: list[Event], after: str | None = None, **options: Any) -> Translation:
    run = rows[0].run_id
    assert run is not None
    place = None if after is None else Position.parse(after)
    ids = {"thread_id": "t", "run_id": "r", "first_run_id": "r"}
    return Translation(run, **ids, after=place, **options)


def plain(sent: list[SentEvent]) -> list[dict[str, Any]]:
    return [read_event(one.event.model_dump_json(by_alias=True)) for one in sent]


def runs_of(rows: list[Event]) -> Iterator[list[SentEvent]]:
    """The AG-UI runs of a journal."""
    after: str | None = None
    for _ in range(5):
        sent = list(translation(rows, after).take(rows))
        if not sent:
            return
        yield sent
        after = sent[-1].id


def partial_reply(text: str, step: int = 1, attempt: int = 1) -> Partial:
    message = {"role": "assistant", "content": text}
    return Partial(step, attempt, {"choices": [{"index": 0, "message": message}]})


def without_park(models: Provider, key: str = "k") -> list[Event]:
    """The journal of a run that asks nobody."""
    models.say([SCRIPT[0], SCRIPT[2]])
    desk.with_options(key=key).run("go")
    return journal(key)


def conversation(key: str) -> list[Event]:
    """The journal of a run that was held, approved and done."""
    keyed = desk.with_options(key=key)
    with pytest.raises(agentrun.RunHeld):
        keyed.run("go")
    (waiting,) = agentrun.inbox(key)
    agentrun.approve(key, waiting.step or 0, by="ana")
    keyed.run("go")
    return journal(key)


def test_from_each_place_on_comes_exactly_what_follows(db: Any, models: Provider) -> None:
    rows = conversation("k")
    runs = list(runs_of(rows))
    assert len(runs) == 2
    for sent in runs:
        verify(plain(sent))
        assert len({one.id for one in sent}) == len(sent)
        for number, one in enumerate(sent[:-1]):
            assert list(translation(rows, one.id).take(rows)) == sent[number + 1 :]


def test_a_text_that_came_in_pieces_is_the_text_of_the_outcome(db: Any, models: Provider) -> None:
    """Random pieces, random interruptions of the client, at random rows."""
    rows, draw = without_park(models), random.Random(SEED)
    whole = list(translation(rows).take(rows))
    reply = next(row for row in rows if row.event == "step_finished" and row.kind == "model")
    text = "Let me see. 🙂"
    for _ in range(200):
        seen: list[SentEvent] = []
        live = translation(rows)
        cuts = sorted(draw.sample(range(1, len(text)), 3))
        calls: list[tuple[list[Event], list[Partial]]] = [(rows[: reply.seq - 1], [])]
        calls += [([], [partial_reply(text[:cut])]) for cut in cuts]
        calls += [(rows[reply.seq - 1 :], [])]
        done = 0
        for new, partials in calls:
            done += len(new)
            for one in live.take(new, partials):
                seen.append(one)
                if (
                    not live.ended and draw.random() < 0.2
                ):  # the client is cut off here, and comes back
                    live = translation(rows, one.id)
                    seen += list(live.take(rows[:done], partials))
                    break
            if live.ended:
                break
        assert joined(plain(seen)) == joined(plain(whole)), f"AGENTRUN_SEED={SEED}"


def test_another_attempt_that_writes_the_same_goes_on_where_the_first_was(
    db: Any, models: Provider
) -> None:
    rows = without_park(models)
    live = translation(rows)
    sent = list(live.take(rows[:3], [partial_reply("Let me")]))
    sent += list(live.take([], [partial_reply("Let", attempt=2)]))  # shorter: it is not replaced
    sent += list(live.take([], [partial_reply("Let me see.", attempt=2)]))
    sent += list(live.take(rows[3:]))
    assert joined(plain(sent)) == joined(plain(list(translation(rows).take(rows))))


@pytest.mark.parametrize("seen_by", ["the partial", "the outcome"])
def test_a_text_that_another_attempt_does_not_have_is_replaced(
    db: Any, models: Provider, seen_by: str
) -> None:
    rows = without_park(models)
    live = translation(rows, messages=[_user()])
    sent = list(live.take(rows[:3], [partial_reply("Yes, ")]))
    if seen_by == "the partial":
        sent += list(live.take([], [partial_reply("Let me", attempt=2)]))
    sent += list(live.take(rows[3:]))
    events = plain(sent)
    verify(events)
    (snapshot,) = [event for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
    assert snapshot["messages"] == [USER]
    texts: dict[str, str] = {}
    for event in joined(events):
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            texts[event["messageId"]] = event["delta"]
    assert texts.pop("msg_RUN_1") == "Yes, "
    assert texts["msg_RUN_1_1"] == "Let me see. 🙂"
    parents = {event["parentMessageId"] for event in joined(events) if "parentMessageId" in event}
    assert parents == {"msg_RUN_1_1"}
    begun = [one.event.type for one in sent].index(EventType.TEXT_MESSAGE_CONTENT)
    for number in range(begun, len(sent) - 1):  # a client that comes back in the middle of it
        one = sent[number]
        rest = list(translation(rows, one.id, messages=[_user()]).take(rows))
        assert joined(plain([*sent[: number + 1], *rest])) == joined(events), one.id


def _user() -> Any:
    return UserMessage(**USER)  # type: ignore[arg-type]


def test_two_texts_that_come_at_the_same_time_are_told_apart(db: Any, models: Provider) -> None:
    @agentrun.agent(name="agui_pair")
    async def pair(question: str) -> list[str]:
        async def one(name: str) -> str:
            with agentrun.branch(name):
                return await ag_ui_desk.answer([{"role": "user", "content": name}])

        return list(await asyncio.gather(one("a"), one("b")))

    first, second = "The first of two.", "The second."
    models.say(rules=[Rule({"contains": "a"}, first), Rule({"contains": "b"}, second)])
    pair.with_options(key="k").run("go")
    rows = journal("k")
    begun = [row.seq for row in rows if row.event == "attempt_started"]
    done = [row for row in rows if row.event == "step_finished" and row.kind == "model"]
    texts = {row.step: first if first in json.dumps(row.output) else second for row in done}
    assert max(begun) < min(row.seq for row in done), "the calls do not overlap"
    live, seen = translation(rows), []
    for length in (3, 5, 8):
        both = [partial_reply(text[:length], step or 0) for step, text in texts.items()]
        seen += list(live.take(rows[: begun[-1]] if length == 3 else [], both))
        live = translation(rows, seen[-1].id)  # the client comes back
        list(live.take(rows[: begun[-1]]))
    seen += list(live.take(rows[begun[-1] :]))
    events = plain(seen)
    verify(events)
    whole: dict[str, str] = {}
    for event in joined(events):
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            whole[event["messageId"]] = whole.get(event["messageId"], "") + event["delta"]
    assert whole == {f"msg_RUN_{step}": text for step, text in texts.items()}


def test_a_text_of_a_call_that_is_set_aside_is_taken_back(db: Any, models: Provider) -> None:
    rows = without_park(models)
    aside = {"set_aside": [[1, 1]], "redo": [[1, 1]]}
    diverged = Event(event="diverged", seq=4, run_id=rows[0].run_id, output=aside)
    live = translation(rows)
    sent = list(live.take(rows[:3], [partial_reply("Let me")]))
    before = len(sent)
    sent += list(live.take([diverged]))
    sent += list(live.take([], [partial_reply("Let me see.")]))  # a row that was not yet deleted
    assert [one.event.type for one in sent[before:]] == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT"]
    back = translation(rows, sent[before].id)
    assert list(back.take([*rows[:3], diverged])) == sent[before + 1 :]


def test_lone_surrogates_reach_a_front_end_as_marks(db: Any) -> None:
    @agentrun.tool(name="agui_ask", approve=True)
    def ask(text: str) -> None: ...

    @agentrun.agent(name="agui_odd")
    def odd(question: str) -> None:
        ask("a \ud800")

    with pytest.raises(agentrun.RunHeld):
        odd.with_options(key="k").run("go")
    events = plain(list(translation(journal("k")).take(journal("k"))))
    verify(events)
    texts = [event["delta"] for event in events if "delta" in event]
    assert texts == ['{"text": "a �"}']
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    assert interrupt["message"] == 'agui_odd asks to call agui_ask with {"text": "a �"}.'


def test_a_run_that_failed_ends_in_an_error(db: Any) -> None:
    @agentrun.agent(name="agui_refused")
    def refused(question: str) -> str:
        raise ValueError("no more \ud800")

    with pytest.raises(agentrun.RunFailed):
        refused.with_options(key="k").run("go")
    events = plain(list(translation(journal("k")).take(journal("k"))))
    assert events[-1] == {"type": "RUN_ERROR", "message": "no more �", "code": "ValueError"}


def test_results_of_calls_that_are_no_steps_come_from_the_next_request(
    db: Any, models: Provider
) -> None:
    """Ids of a provider repeat in each turn; those of the events do not."""
    models.say(
        [
            Reply(tool_calls=[Call("plain", {"n": 1}, id="call_0")]),
            Reply(tool_calls=[Call("plain", {"n": 2}, id="call_0")]),
            Reply(tool_calls=[Call("front_end_tool", {}, id="call_0")]),
        ]
    )
    client = agentrun.wrap(OpenAI(base_url=models.base_url, api_key="k"))

    @agentrun.agent(name="agui_plain")
    def with_plain(messages: list[dict[str, Any]]) -> str:
        while True:
            create = client.chat.completions.create
            reply = create(model="gpt-5-mini", messages=messages).choices[0].message  # type: ignore[call-overload]
            messages.append(reply.model_dump(exclude_none=True))
            (call,) = reply.tool_calls
            if call.function.name == "front_end_tool":
                return "yours"
            n = json.loads(call.function.arguments)["n"]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"result {n}"})

    with_plain.with_options(key="k").run([{"role": "user", "content": "go"}])
    events = joined(plain(list(translation(journal("k")).take(journal("k")))))
    verify(events)
    results = [
        (event["toolCallId"], event["content"])
        for event in events
        if event["type"] == "TOOL_CALL_RESULT"
    ]
    assert results == [("call_RUN_1_0", "result 1"), ("call_RUN_2_0", "result 2")]
    assert events[-1]["outcome"]["pendingToolCallIds"] == ["call_RUN_3_0"]


def test_calls_of_the_agents_own_code_and_functions_are_shown(db: Any, outside: Path) -> None:
    @agentrun.step(effect="read")
    def measure() -> int:
        return 3

    @agentrun.agent(name="agui_own_code")
    def own_code(question: str) -> int:
        ag_ui_desk.keep("8")
        return measure()

    own_code.with_options(key="k").run("go")
    events = joined(plain(list(translation(journal("k")).take(journal("k")))))
    verify(events)
    assert [event["type"] for event in events] == [
        "RUN_STARTED", "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT",
        "STEP_STARTED", "STEP_FINISHED", "RUN_FINISHED",
    ]  # fmt: skip
    assert events[-1]["result"] == 3


def test_a_call_that_is_made_again_after_a_failure_has_a_second_result(
    db: Any, outside: Path
) -> None:
    @agentrun.tool(name="agui_flaky", effect="idempotent")
    def flaky() -> str:
        if not (outside / "mended").exists():
            raise ValueError("broken")
        return "mended"

    @agentrun.agent(name="agui_resumed")
    def resumed(question: str) -> str:
        return flaky()

    with pytest.raises(agentrun.RunFailed):
        resumed.with_options(key="k").run("go")
    (outside / "mended").touch()
    assert agentrun.resume("k") == "mended"
    (first, second) = (joined(plain(sent)) for sent in runs_of(journal("k")))
    verify(first)
    assert first[-1] == {"type": "RUN_ERROR", "message": "broken", "code": "ValueError"}
    results = [event for event in (*first, *second) if event["type"] == "TOOL_CALL_RESULT"]
    assert [result["content"] for result in results] == ['{"error": "broken"}', "mended"]
    assert len({result["messageId"] for result in results}) == 2
    assert second[-1]["result"] == "mended"


def test_messages_that_a_redo_sets_aside_are_taken_out(db: Any, models: Provider) -> None:
    models.say(["A bad answer."])

    @agentrun.agent(name="agui_redone")
    async def failing(question: str) -> str:
        await ag_ui_desk.answer([{"role": "user", "content": question}])
        raise ValueError("bad")

    with pytest.raises(agentrun.RunFailed):
        failing.with_options(key="k").run("go")
    agentrun.redo("k", 1, by="ana")
    models.say(["A better answer."])
    with pytest.raises(agentrun.RunFailed):
        agentrun.resume("k")
    (first, second) = (joined(plain(sent)) for sent in runs_of(journal("k")))
    verify([*first, *second])
    assert [event["type"] for event in (first[-1], second[0])] == ["RUN_ERROR", "RUN_STARTED"]
    (text,) = [event["delta"] for event in second if event["type"] == "TEXT_MESSAGE_CONTENT"]
    assert text == "A better answer."


def test_a_cancelled_run_closes_what_is_open(db: Any, models: Provider) -> None:
    rows = without_park(models)
    opened = rows[:3]
    cancelled = Event(event="run_cancelled", seq=4, run_id=rows[0].run_id)
    sent = list(translation(rows).take(opened, [partial_reply("Let me")]))
    live = translation(rows, sent[-1].id)
    sent += list(live.take([*opened, cancelled]))
    events = plain(sent)
    verify(events)
    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert comparable(events)[-3]["type"] == "TEXT_MESSAGE_END"


@pytest.mark.parametrize(
    "id_", ["", "x", "1.", "-1", "1~", "1~2-0-o-3", "1~2-0-x-3-0123456789abcdef", "1.2.3", "9" * 40]
)
def test_an_id_that_is_none_is_refused(id_: str) -> None:
    with pytest.raises(ValueError, match="is not the id of an event"):
        Position.parse(id_)
