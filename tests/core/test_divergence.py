"""Which steps stand: one rule for the history, the transcript and SQL."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

import pytest
from journals import Journal
from paths import call, finishes, random_journal, recorded

from agentrun.core.divergence import (
    RequestedStep,
    different_arguments,
    diverge,
    explain,
    find_set_aside,
    price_of,
    ranges,
    reuse,
)
from agentrun.core.events import Usage
from agentrun.core.history import History
from agentrun.core.redo import plan_redo
from agentrun.core.transcript import fold

SEEDS = range(int(os.environ.get("AGENTRUN_JOURNALS", "150")))


def test_a_transcript_sets_the_steps_aside_that_a_history_does() -> None:
    reused = 0
    for seed in SEEDS:
        journal = random_journal(seed)
        history = History(journal.events)
        standing = {known.step for known in history.steps.values()}
        shown = {step.step for step in fold(journal.events).steps if not step.set_aside}
        assert shown == standing, f"seed {seed}"
        reused += sum(event.event == "step_reused" for event in journal.events)
    assert reused > len(SEEDS)


def test_steps_that_this_claim_began_or_replayed_stay() -> None:
    one, two = call("act", what="one"), call("act", what="two")
    j = Journal().claimed("w-1")
    finishes(j, 1, "1", one)
    finishes(j, 2, "t1/1", one)
    finishes(j, 3, "t2/1", one)
    j.claimed("w-2")
    finishes(j, 4, "t3/1", two)
    history = History(j.events)
    for ident in ("t1/1", "t3/1"):
        history.steps[ident].on_path = True
    assert [known.step for known in find_set_aside(history, history.steps["1"])] == [1, 3]


def test_a_reused_step_takes_its_body_and_its_calls_along() -> None:
    model = RequestedStep(kind="model", name="m", effect="idempotent", input={"q": 1})
    act, inner = call("act"), call("inner")
    j = Journal().claimed("w-1")
    finishes(j, 1, "1", call("first"))
    finishes(j, 2, "2", model)
    finishes(j, 3, "2#0", act)
    finishes(j, 4, "2#0>1", inner)
    j.claimed("w-2")
    history = History(j.events)
    recorded(
        j,
        diverge(history.steps["1"], find_set_aside(history, history.steps["1"]), by="a", reason=""),
    )
    history = History(j.events)
    assert history.steps == {}
    event = reuse(history, model, model.fingerprint, "1")
    assert event is not None
    assert event.output == {"steps": [[2, 4]]}
    history = History(recorded(j, event).events)
    assert {ident: one.step for ident, one in history.steps.items()} == {
        "1": 2, "1#0": 3, "1#0>1": 4,
    }  # fmt: skip
    assert [one.step for one in history.aside] == [1]
    assert history.steps["1#0"].key == "key-3"


def test_a_redo_sets_the_calls_of_a_reused_reply_aside() -> None:
    model = RequestedStep(kind="model", name="m", effect="idempotent", input={"q": 1})
    j = Journal().claimed("w-1")
    finishes(j, 1, "1", call("first"))
    finishes(j, 2, "2", model)
    finishes(j, 3, "2#0", call("act"))
    j.claimed("w-2")
    history = History(j.events)
    aside = find_set_aside(history, history.steps["1"])
    recorded(j, diverge(history.steps["1"], aside, by="a", reason=""))
    event = reuse(History(j.events), model, model.fingerprint, "1")
    assert event is not None
    history = History(recorded(j, event).events)
    assert [one.step for one in plan_redo("k", history, 2).aside] == [2, 3]


def test_the_events_of_a_step_that_was_set_aside_are_not_those_of_a_new_one() -> None:
    j = finishes(Journal().claimed("w-1"), 1, "1", call("act")).claimed("w-2")
    known = History(j.events).steps["1"]
    recorded(j, diverge(known, [known], by="a", reason=""))
    finishes(j, 2, "1", call("other"))
    j.add("resolved", step=1, ident="1", kind="tool", name="act", status="reopened")
    history = History(j.events)
    assert history.steps["1"].step == 2
    assert history.steps["1"].outcome is not None
    assert history.by_number[1].outcome is None


def test_a_divergence_takes_back_the_questions_of_the_steps_that_it_sets_aside() -> None:
    j = Journal().claimed("w-1")
    for step, ident in ((1, "1"), (2, "t1/1")):
        j.add("approval_requested", step=step, ident=ident, kind="tool", name="pay")
    history = History(j.events)
    recorded(j, diverge(history.steps["1"], [history.steps["1"]], by="a", reason=""))
    asked = {one.step: one.request is not None for one in History(j.events).by_number.values()}
    assert asked == {1: False, 2: True}


def test_equal_steps_are_reused_once_each_and_in_order() -> None:
    act = call("act", n=1)
    j = Journal().claimed("w-1")
    for step in (1, 2):
        finishes(j, step, str(step), act)
    j.claimed("w-2")
    history = History(j.events)
    everything = find_set_aside(history, history.steps["1"])
    recorded(j, diverge(history.steps["1"], everything, by="a", reason=""))
    for ident, number in (("5", 1), ("6", 2)):
        event = reuse(History(j.events), act, act.fingerprint, ident)
        assert event is not None
        assert event.step == number
        recorded(j, event)
    assert reuse(History(j.events), act, act.fingerprint, "7") is None


def test_an_answer_that_only_reads_is_reused_at_its_own_place_alone() -> None:
    read = RequestedStep(kind="tool", name="look", effect="read", input={"args": {}})
    j = Journal().claimed("w-1")
    finishes(j, 1, "1", call("act"))
    finishes(j, 2, "2", read)
    j.claimed("w-2")
    history = History(j.events)
    recorded(
        j,
        diverge(history.steps["1"], find_set_aside(history, history.steps["1"]), by="a", reason=""),
    )
    assert reuse(History(j.events), read, read.fingerprint, "1") is None
    assert reuse(History(j.events), read, read.fingerprint, "2") is not None


def test_a_step_that_is_to_be_redone_is_not_reused() -> None:
    act = call("act")
    j = finishes(Journal().claimed("w-1"), 1, "1", act).claimed("w-2")
    known = History(j.events).steps["1"]
    recorded(j, diverge(known, [known], by="ann", reason="a bad answer", redo=[1]))
    assert reuse(History(j.events), act, act.fingerprint, "1") is None


def test_ranges_of_numbers() -> None:
    assert ranges([]) == []
    assert ranges([7, 1, 2, 3, 9, 10]) == [[1, 3], [7, 7], [9, 10]]


# -- what is the same ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "given", "changes"),
    [
        ({"q": "a"}, {"q": "a"}, []),
        ({"q": "a"}, {"q": "a", "lang": "en"}, []),
        ({"q": "a", "lang": "en"}, {"q": "a"}, []),
        ({"q": "a"}, {"q": "a", "lang": "de"}, ['argument lang was added: "de"']),
        ({"q": "a"}, {"q": "b", "lang": "en"}, ['argument q "a" → "b"']),
        ({"q": 1}, {"q": 1.0}, ["argument q 1 → 1.0"]),
        ({"q": {"x": 1, "y": 2}}, {"q": {"y": 2, "x": 1}}, []),
        ({"q": "a", "old": 1}, {"q": "a"}, ["argument old was removed, it was 1"]),
    ],
)
def test_arguments_that_equal_their_default_do_not_count(
    recorded: Any, given: Any, changes: list[str]
) -> None:
    assert different_arguments(recorded, given, {"lang": "en"}) == changes


def test_a_parameter_added_with_a_default_is_the_same_call() -> None:
    j = finishes(Journal().claimed("w-1"), 1, "1", call("pay", n=1))
    (known,) = History(j.events).steps.values()
    for args, defaults, same in [
        ({"n": 1, "note": ""}, {"note": ""}, True),
        ({"n": 1, "note": "x"}, {"note": ""}, False),
        ({"n": 1, "note": ""}, {}, False),
        ({"n": 2, "note": ""}, {"note": ""}, False),
        ({"note": ""}, {"note": "", "n": 1}, False),
    ]:
        request = RequestedStep(
            kind="tool", name="pay", effect="once", input={"args": args}, defaults=defaults
        )
        assert request.matches(known, request.fingerprint) is same, args


def test_a_former_name_is_the_same_step() -> None:
    child = RequestedStep(kind="child", name="old", effect="idempotent", input={"args": {}})
    j = finishes(Journal().claimed("w-1"), 1, "1", child)
    (known,) = History(j.events).steps.values()
    for aliases, same in (((), False), (("old",), True), (("older",), False)):
        renamed = RequestedStep(
            kind="child", name="new", effect="idempotent", input={"args": {}}, aliases=aliases
        )
        assert renamed.matches(known, renamed.fingerprint) is same


# -- what differs, in words ------------------------------------------------------------------------


def chat(**body: Any) -> RequestedStep:
    given: dict[str, Any] = {"model": "m", "messages": [{"role": "system", "content": "You help."},
                                       {"role": "user", "content": "hi"}], **body}  # fmt: skip
    body = {name: value for name, value in given.items() if value is not None}
    asked = {"api": "chat.completions", "url": "u", "body": body}
    return RequestedStep(
        kind="model", name=body["model"], effect="idempotent", input=asked,
        compared=["chat.completions", body], read=lambda one: [one["api"], one["body"]],
    )  # fmt: skip


def tool(name: str, description: str = "d", **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("before", "now", "headline", "kept"),
    [
        ({}, {"messages": [{"role": "system", "content": "Be brief."}, USER]},
         "the system prompt differs", True),
        ({}, {"messages": [USER]}, "the system prompt differs", True),
        ({"instructions": "a"}, {"instructions": "b"}, "the system prompt differs", True),
        ({}, {"messages": [{"role": "system", "content": "You help."},
                           {"role": "user", "content": "hello"}]},
         "message 1 of the conversation (user) differs", True),
        ({}, {"messages": [{"role": "system", "content": "You help."}, USER, USER]},
         "the conversation has 2 messages instead of 1", False),
        ({}, {"messages": [{"role": "system", "content": "Be brief."},
                           {"role": "user", "content": "Are we there yet?"}]},
         "the system prompt differs; message 1 of the conversation (user) differs", False),
        ({"messages": [{"role": "user", "content": "Answer this in short: is it on?"}]},
         {"messages": [{"role": "user", "content": "Answer this: is it on?"}]},
         "message 1 of the conversation (user) differs", True),
        ({"temperature": 0.2}, {"temperature": 0.7}, "temperature 0.2 → 0.7", True),
        ({}, {"temperature": 0.7}, "temperature was added: 0.7", True),
        ({"temperature": 0.2}, {}, "temperature was removed, it was 0.2", True),
        ({}, {"model": "n"}, 'model "m" → "n"', True),
        ({"tools": [tool("a")]}, {"tools": [tool("a"), tool("search")]},
         "tools: a tool was added: search", True),
        ({}, {"tools": [tool("search")]}, "tools: a tool was added: search", True),
        ({"tools": [tool("a")]}, {}, "tools: a tool was removed: a", True),
        ({"tools": [tool("a")]}, {"tools": [tool("a", "e")]},
         "tools: a: its description differs", True),
        ({"tools": [tool("a", n={"type": "integer"})]},
         {"tools": [tool("a", n={"type": "integer"}, note={"type": "string"})]},
         "tools: a: a parameter was added: note", True),
        ({"tools": [tool("a"), tool("b")]}, {"tools": [tool("b"), tool("a")]},
         "tools: their order differs", True),
        ({}, {"stream": True, "stream_options": {"include_usage": True}},
         "streaming was switched on", False),
        ({"stream": True}, {}, "streaming was switched off", False),
    ],
)  # fmt: skip
def test_the_message_names_what_differs_of_a_model_call(
    before: Any, now: Any, headline: str, kept: bool
) -> None:
    j = finishes(Journal().claimed("w-1"), 1, "1", chat(**before)).claimed("w-2")
    history = History(j.events)
    divergence, aside = explain(history, history.steps["1"], chat(**now))
    assert divergence.headline == headline
    assert (divergence.not_kept is None) is kept
    assert [known.step for known in aside] == [1]
    text = divergence.text("my key")
    assert text.startswith(f"diverged at step 1: {headline}\n--- recorded\n+++ asked now\n")
    assert [way for way in ("keep", "accept", "restore", "cancel") if f"\n  {way} " in text] == [
        "keep", "accept", "restore", "cancel",
    ]  # fmt: skip
    assert "agentrun resume 'my key' FILE --accept" in text


def test_the_message_names_what_differs_of_a_tool_call() -> None:
    j = Journal().claimed("w-1")
    finishes(j, 1, "1", call("refund", order="7", cents=500))
    finishes(j, 2, "2", call("tell")).claimed("w-2")
    history = History(j.events)
    for request, headline in [
        (call("refund", order="7", cents=700), "tool 'refund': argument cents 500 → 700"),
        (call("refund", order="7", cents=500, note="x"),
         "tool 'refund': argument note was added: \"x\""),
        (call("refund2", order="7", cents=500),
         "the code asks for tool 'refund2', where tool 'refund' is recorded; if it was renamed, "
         "name='refund' gives it its old name"),
        (call("tell"), "the code asks for tool 'tell', where tool 'refund' is recorded; it is "
         "recorded as step 2, so the order of steps changed"),
    ]:  # fmt: skip
        divergence, _ = explain(history, history.steps["1"], request)
        assert divergence.headline == headline
        assert divergence.not_kept == "more than the request of a model call differs"


def test_the_message_says_that_no_model_call_is_recorded() -> None:
    j = Journal().claimed("w-1")
    finishes(j, 1, "1", call("refund", order="7"))
    finishes(j, 2, "2", call("tell")).claimed("w-2")

    def says(request: RequestedStep) -> bool:
        history = History(j.events)
        divergence, _ = explain(history, history.steps["1"], request)
        return "\nThis run has recorded no model call. " in divergence.text("k")

    assert says(call("refund", order="8"))
    assert says(call("refund2", order="7"))
    assert not says(chat())
    finishes(j, 3, "3", chat())
    assert not says(call("refund", order="8"))


def test_prices_come_from_what_was_recorded() -> None:
    j = Journal().claimed("w-1")
    finishes(j, 1, "1", chat(), usage=Usage(1, 1, cost=Decimal("0.0031")))
    finishes(j, 2, "1#0", call("refund", order="7"))
    finishes(j, 3, "2", chat(model="n"), usage=Usage(1, 1, cost=Decimal("0.0010")))
    price = price_of(History(j.events).steps.values())
    assert (price.calls, price.cost) == (2, Decimal("0.0041"))
    assert price.effects == ('refund(order="7") [once]',)
    assert "at most 2 model calls ($0.0041)" in str(price)
    finishes(j, 4, "3", chat(model="o"), usage=Usage(1, 1))
    assert price_of(History(j.events).steps.values()).cost is None
