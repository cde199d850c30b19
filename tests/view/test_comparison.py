"""Two runs side by side: steps by their place, the first difference, and what is no difference."""

from __future__ import annotations

import json
from typing import Any

import pytest
from journals import HOSTILE, Journal, assistant, user
from openai import OpenAI
from test_view import ACTIVE, TAGS, Stripped

import agentrun
from agentrun.core.comparison import compare_transcripts
from agentrun.core.transcript import Transcript, fold
from agentrun.testing import Provider
from agentrun.view.layout import columns


def paid(key: str, cents: int, *, mail: bool = False, call: str = "refund") -> Journal:
    """A run that pays once, and sends a mail or not."""
    arguments = {"order_id": "7", "cents": cents}
    asks = assistant("One moment.", (f"call-{key}", call, json.dumps(arguments)))
    result = {"role": "tool", "tool_call_id": f"call-{key}", "content": json.dumps({"paid": cents})}
    j = Journal(key=key, args={"question": "refund order 7"}).claimed("w-1")
    j.asks(1, [user("refund order 7")]).answers(1, asks)
    j.begins(2, call, arguments, ident="1#0", key=f"key-{key}")
    j.ends(2, call, arguments, {"result": {"paid": cents}}, ident="1#0", key=f"key-{key}")
    j.asks(3, [user("refund order 7"), asks, result], turn=2, ident="2")
    j.answers(3, assistant("Paid."), turn=2, ident="2")
    if mail:
        j.begins(4, "mail", {"to": "ana"}, ident="3", key="m")
        j.ends(4, "mail", {"to": "ana"}, {"result": "sent"}, ident="3", key="m")
    return j.add("run_finished", output="Paid.")


def transcript(*args: Any, **more: Any) -> Transcript:
    return fold(paid(*args, **more).events)


def verdicts(found: agentrun.Comparison) -> list[tuple[str, str]]:
    return [(step.ident, step.verdict) for step in found.steps]


def test_ids_of_calls_times_and_keys_are_no_difference() -> None:
    found = agentrun.compare(transcript("a", 5), transcript("b", 5))
    assert found.same
    assert found.first_difference is None
    assert verdicts(found) == [("1", "same"), ("1#0", "same"), ("2", "same")]
    assert "the runs are the same; 3 steps: 3 same" in str(found)


def test_a_comparison_has_the_whole_time_of_each_run_under_its_name() -> None:
    found = compare_transcripts(transcript("a", 100), transcript("b", 100, mail=True))
    times = [line.split() for line in str(found).splitlines() if "from start to end" in line]
    assert times == [["≠", "from", "start", "to", "end", "7.0", "s", "9.0", "s"]]


def test_one_step_and_one_difference_are_told_in_the_singular() -> None:
    def looks(result: int) -> Transcript:
        return fold(Journal().claimed("w-1").ends(1, "look", {}, {"result": result}).events)

    assert "1 step: 1 differs" in str(agentrun.compare(looks(1), looks(2)))


def test_the_first_difference_is_found_and_not_told_again() -> None:
    """The later model call repeats the changed result; that is no difference of its own."""
    found = agentrun.compare(transcript("a", 5), transcript("b", 6, mail=True))
    assert verdicts(found) == [
        ("1", "differs"),
        ("1#0", "differs"),
        ("2", "same"),
        ("3", "only_b"),
    ]
    first = found.first_difference
    assert first is not None
    assert first.changes == ("new message 1 of the reply (assistant) differs",)
    assert found.steps[1].changes == (
        "argument cents 5 → 6",
        'result {"paid": 5} → {"paid": 6}',
    )
    assert '-  "cents": 5,' in found.steps[1].diff
    assert not found.same
    assert found.to_dict()["first_difference"] == "1"


def test_steps_of_one_run_keep_their_place_among_those_of_both() -> None:
    """A fork that skips the mail and calls something before the second model call."""
    left, right = paid("a", 5, mail=True), paid("b", 5)
    at = next(n for n, event in enumerate(right.events) if event.step == 3)
    extra = Journal().claimed("w").begins(9, "look", {}, ident="1#1").ends(9, "look", {}, 1)
    right.events[at:at] = extra.events[-2:]
    found = compare_transcripts(fold(left.events), fold(right.events))
    assert verdicts(found)[2:] == [("1#1", "only_b"), ("2", "same"), ("3", "only_a")]


def test_a_model_call_with_other_settings_or_another_prompt_differs() -> None:
    runs = []
    for model, question in (("small", "why?"), ("large", "how?")):
        j = Journal(key=model).claimed("w-1")
        tools = [{"type": "function", "function": {"name": f"use_{model}"}}]
        body = {"model": model, "messages": [user(question)], "tools": tools}
        j.asks(1, [], input={"api": "chat", "body": body}).answers(1, assistant("so"))
        runs.append(fold(j.events))
    (step,) = agentrun.compare(*runs).steps
    assert step.changes == (
        "tools: a tool was added: use_large",
        "tools: a tool was removed: use_small",
        'model "small" → "large"',
        "new message 1 of the request (user) differs",
    )


@agentrun.agent(name="compared-with-its-like")
def compared(base_url: str, question: str, tool: str) -> str:
    tools: Any = [
        {"type": "function", "function": {"name": tool, "description": "x" * 2_000}},
    ]
    messages: Any = [{"role": "user", "content": "A long beginning. " * 200}]
    with agentrun.wrap(OpenAI(base_url=base_url, api_key="k")) as client:
        for asked in ("why?", question, "really?"):
            messages.append({"role": "user", "content": asked})
            create = client.chat.completions.create
            answer = create(model="gpt-5-mini", messages=messages, tools=tools)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    return "done"


def test_runs_that_are_stored_by_reference_are_compared(db: Any, provider: Provider) -> None:
    for key, question, tool in (
        ("a", "how?", "look"),
        ("same", "how?", "look"),
        ("asks", "when?", "look"),
        ("has", "how?", "find"),
    ):
        provider.say(["So.", "So so.", "Yes."])
        compared.with_options(key=key).run(provider.base_url, question, tool)
    assert agentrun.compare("a", "same").same
    asks = agentrun.compare("a", agentrun.get("asks"))
    assert verdicts(asks) == [("1", "same"), ("2", "differs"), ("3", "same")]
    assert asks.steps[1].changes == ("new message 1 of the request (user) differs",)
    has = agentrun.compare("a", agentrun.transcript("has"))
    assert [step.changes for step in has.steps] == [
        ("tools: a tool was added: find", "tools: a tool was removed: look")
    ] * 3


def test_what_was_set_aside_is_counted_and_not_compared() -> None:
    left, right = paid("a", 5), paid("b", 5)
    redo = {"set_aside": [[2, 2]], "redo": [[2, 2]]}
    again = {"order_id": "7", "cents": 9}
    right.events.pop()
    right.add("diverged", step=2, status="redone", output=redo)
    right.begins(5, "refund", again, ident="1#0").ends(5, "refund", again, 9, ident="1#0")
    found = agentrun.compare(fold(left.events), fold(right.events))
    assert "set aside and not compared: 1 of B" in str(found)
    assert ("1#0", "differs") in verdicts(found)
    assert found.steps[1].b is not None
    assert found.steps[1].b.step == 5


def test_a_step_that_was_reused_is_compared_at_its_new_place() -> None:
    left, right = paid("a", 5, mail=True), paid("b", 5)
    right.events.pop()
    right.begins(4, "mail", {"to": "ana"}, ident="9", key="m")
    right.ends(4, "mail", {"to": "ana"}, {"result": "sent"}, ident="9", key="m")
    right.add("diverged", step=4, status="accepted", output={"set_aside": [[4, 4]]})
    right.add("step_reused", step=4, ident="3", output={"steps": [[4, 4]]})
    right.add("run_finished", output="Paid.")
    assert agentrun.compare(fold(left.events), fold(right.events)).same


def hostile(cents: int) -> Transcript:
    """Each recorded field that a comparison shows is hostile."""
    j = Journal(key=HOSTILE, agent=HOSTILE, args={HOSTILE: [HOSTILE, cents]}).claimed(HOSTILE)
    call = (HOSTILE, HOSTILE, json.dumps({HOSTILE: cents}))
    j.asks(1, [user(f"{HOSTILE}{cents}")], ident=HOSTILE)
    j.answers(1, assistant(f"{HOSTILE}{cents}", call), model=HOSTILE, ident=HOSTILE)
    j.begins(2, HOSTILE, {HOSTILE: cents}, ident=f"{HOSTILE}{cents}")
    error = {"error": {"type": HOSTILE, "message": f"{HOSTILE}{cents}"}}
    j.ends(2, HOSTILE, {}, error, status="error", ident=f"{HOSTILE}{cents}")
    j.begins(3, HOSTILE, {HOSTILE: cents}, ident="9")
    j.ends(3, HOSTILE, {HOSTILE: cents}, {"result": [HOSTILE, cents]}, ident="9")
    return fold(j.add("run_failed", output=error).events)


def test_hostile_runs_are_inert_in_text_and_in_a_browser() -> None:
    found = agentrun.compare(hostile(1), hostile(2))
    text, page = str(found), found._repr_html_() or ""
    assert not ACTIVE.search(text)
    assert not ACTIVE.search(page)
    document = Stripped(page)
    assert document.tags <= TAGS
    assert not {name for name in document.attributes if name.startswith("on")}
    assert "<script>alert(1)</script>" in document.text


@pytest.mark.parametrize("width", [80, 40])
def test_no_line_is_wider_than_the_width(width: int) -> None:
    from agentrun.view.comparison import comparison_text

    found = agentrun.compare(hostile(1), hostile(2))
    assert max(map(columns, comparison_text(found, width=width).splitlines())) <= width
    assert max(map(columns, str(found).splitlines())) <= 80


def test_the_page_opens_the_first_difference_and_no_other() -> None:
    found = agentrun.compare(transcript("a", 5), transcript("b", 6, mail=True))
    page = found._repr_html_() or ""
    assert page.count("<details") == 4
    opened = page[page.index('open="open"') :]
    assert page.count('open="open"') == 1
    assert opened.index("gpt-5-mini") < opened.index("refund")


def test_what_is_cut_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrun.view.comparison._DIFFS", 1)
    monkeypatch.setattr("agentrun.view.comparison._ROWS", 1)
    runs = transcript("a", 5), transcript("b", 6)
    text = str(agentrun.compare(*runs))
    assert text.count("its diff is in `agentrun compare A B --json`") == 1
    page = agentrun.compare(runs[0], transcript("b", 5))._repr_html_() or ""
    assert "… 2 more are the same" in page
