"""How values show themselves in a notebook and in a terminal: as text, and as plain HTML."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user
from test_view import ACTIVE, TAGS, Stripped, hostile_run

import agentrun
from agentrun.core.divergence import price_of
from agentrun.core.history import History, RecordedStep
from agentrun.core.redo import Redo, plan_redo
from agentrun.core.summary import RunList, RunSummary
from agentrun.core.table import Table
from agentrun.core.transcript import Totals, fold
from agentrun.core.waiting import Inbox, Waiting
from agentrun.view.inbox import decision_calls
from agentrun.view.layout import columns

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


def waiting(**more: Any) -> Waiting:
    given: dict[str, Any] = {
        "key": "ticket-42",
        "agent": "support",
        "step": 3,
        "waits_for": "decision",
        "name": "refund",
        "effect": "once",
        "attempt": None,
        "args": {"order_id": "7"},
        "idempotency_key": "k",
        "reason": "step 3, refund, waits for an approval",
        "since": AT,
        "fingerprint": "f1",
    }
    return Waiting(**{**given, **more})


def summary(**more: Any) -> RunSummary:
    given: dict[str, Any] = dict.fromkeys(RunSummary.__dataclass_fields__)
    given |= {"key": "ticket-42", "run_id": UUID(int=7), "agent": "support", "status": "done"}
    given |= {"root_key": "ticket-42", "children": 0, "created_at": AT, "changed_at": AT}
    given |= dict.fromkeys(("turns", "model_calls", "input_tokens", "output_tokens", "unpriced"), 0)
    given |= {"cost": Decimal("0.0031"), "tree_cost": Decimal("0.0031")}
    given |= {"working_seconds": 4.2, "waiting_seconds": 0.1}
    return RunSummary(**{**given, **more})


def bundle(value: Any) -> tuple[str, str]:
    """What a notebook gets of a value: its text, and its HTML."""
    shown = value._repr_mimebundle_()
    return shown["text/plain"], shown["text/html"]


# -- inert -----------------------------------------------------------------------------------------

HOSTILE_SUMMARY = {
    "key": HOSTILE, "agent": HOSTILE, "reason": HOSTILE, "error": HOSTILE, "error_type": HOSTILE,
    "last_message": HOSTILE, "parent_key": HOSTILE, "status": HOSTILE,
}  # fmt: skip
HOSTILE_REQUEST = {
    "key": HOSTILE, "agent": HOSTILE, "name": HOSTILE, "effect": HOSTILE, "reason": HOSTILE,
    "args": {HOSTILE: [HOSTILE]}, "fingerprint": HOSTILE,
}  # fmt: skip


def plan(text: str, **more: Any) -> Redo:
    """The redo of a model call, whose reply asked for a call that was made."""
    j = Journal(key=text).claimed("w-1").asks(1, [user(text)])
    j.answers(1, assistant(text, ("c", "pay", "{}")), model=text)
    j.ends(2, text, {"to": text}, {"result": 1}, has_input=True).asks(3, [user(text)], ident="2")
    j.answers(3, assistant("!"), ident="2")
    made = plan_redo(text, History(j.events), 2 if more.pop("tool", False) else 1)
    return replace(made, **more)


SHOWN = {
    "runs": RunList([summary(**HOSTILE_SUMMARY), summary(key="b")]),
    "run": summary(**HOSTILE_SUMMARY),
    "inbox": Inbox([waiting(**HOSTILE_REQUEST), waiting(**HOSTILE_REQUEST, waits_for="doubt")]),
    "step": hostile_run().steps[1],
    "model step": hostile_run().steps[0],
    "totals": hostile_run().totals,
    "redo": plan(HOSTILE, tool=True, children=(HOSTILE,), paid=HOSTILE),
    "redo of a model call": plan(HOSTILE),
}


@pytest.mark.parametrize("name", SHOWN)
def test_hostile_values_are_inert(name: str) -> None:
    text, page = bundle(SHOWN[name])
    assert not ACTIVE.search(text)
    assert not ACTIVE.search(page)
    document = Stripped(page)
    assert document.tags <= TAGS
    assert not {name for name in document.attributes if name.startswith("on")}
    assert not ACTIVE.search(repr(SHOWN[name]))


def test_a_plan_to_redo_and_the_names_of_columns_are_inert() -> None:
    step = RecordedStep("1", "1", 1, 1, "model", HOSTILE, "read", None, None, False, 1, 1)
    plan = Redo(HOSTILE, 1, f"model {HOSTILE}", "", (HOSTILE,), (), price_of([]), step, (), ())
    for text in (str(plan), repr(plan), repr(Table((HOSTILE,), ()))):
        assert "alert(1)" in text
        assert not ACTIVE.search(text)


@pytest.mark.parametrize("name", sorted(SHOWN.keys() - {"inbox"}))
def test_text_has_at_most_80_columns(name: str) -> None:
    assert max(map(columns, bundle(SHOWN[name])[0].splitlines())) <= 80


# -- what they say ---------------------------------------------------------------------------------


def test_a_request_shows_the_calls_that_decide_it_and_they_are_python() -> None:
    text, page = bundle(Inbox([waiting()]))
    assert "agentrun.approve('ticket-42', 3, fingerprint='f1')" in text.replace('"', "'")
    assert Stripped(page).text.count("fingerprint='f1'") == 2
    kinds = [
        {},
        {"waits_for": "doubt"},
        {"waits_for": "divergence"},
        {"fingerprint": None, "step": None},
        {"suggested_budget": {"usd": 0.5}},
        {"suggested_budget": {"usd": 0.00002}},
        {"suggested_budget": {"usd": "1), evil(", "x=evil(), usd": 2}},
        HOSTILE_REQUEST,
    ]
    calls = [call for more in kinds for call in decision_calls(waiting(**more))]
    for call in calls:
        (statement,) = ast.parse(call).body
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Call)
    assert any("budget=agentrun.Budget(usd=0.5)" in call for call in calls)
    assert any("budget=agentrun.Budget(usd=0.00002)" in call for call in calls)


def test_an_empty_inbox_and_an_empty_list_say_so() -> None:
    assert bundle(Inbox())[0] == "nothing waits"
    assert bundle(RunList())[0] == "no runs"


def test_a_list_of_runs_is_a_table_with_one_line_a_run() -> None:
    failed = summary(
        key="ticket-7", status="failed", failed_step=3, error_type="OSError", error="no\nroute"
    )
    dear = summary(key="ticket-8", tree_cost=Decimal("0.5"), unpriced=2, last_message="x" * 200)
    text, page = bundle(RunList([failed, dear]))
    lines = text.splitlines()
    assert len(lines) == 4
    assert "step 3: OSError: no" in lines[1]
    assert lines[-1] == "2 runs"
    assert "$0.0031, $0.5000 with child runs, 2 unpriced" in Stripped(page).text
    assert page.count("<tr>") == 3


def test_totals_leave_out_what_is_zero() -> None:
    text, page = bundle(Totals(model_calls=2, cost=Decimal("0.5")))
    assert text.splitlines()[1:] == ["model calls        2", "cost             0.5"]
    assert "tool calls" not in page


def test_a_step_shows_itself_as_a_transcript_shows_it() -> None:
    step = fold(crashed_and_resumed().events).steps[1]
    text, page = bundle(step)
    assert 'refund(order_id="7")' in text
    assert "seen at the bank" in text
    assert "seen at the bank" in Stripped(page).text
    assert repr(step) == "<Step 2: tool 'refund', ok>"


@agentrun.agent(name="shown-in-a-notebook")
def answer(question: str) -> str:
    return f"{question}!"


def test_a_redo_shows_what_it_pays_and_performs_again_and_sets_aside() -> None:
    made = plan("pay", tool=True)
    text, page = bundle(made)
    told = Stripped(page).text
    assert "Redo of step 2 of run pay" in told
    assert 'performed againpay(to="pay") [once]only with once=Truepay(' in told
    assert "paid againno model call" in told
    assert "steps: 3" in told
    assert " ".join(text.split()) == made.describe()
    assert repr(made) == "<Redo of step 2 of 'pay': 2 steps are set aside>"
    told = Stripped(bundle(plan("pay"))[1]).text
    assert "paid again1 model call ($0.0031)" in told
    assert "performed againnothing that has an effect" in told
    assert "only with" not in told


def test_a_handle_shows_status_cost_and_what_comes_next(db: Any) -> None:
    handle = answer.with_options(key="ticket-42").submit("why")
    assert "agentrun.notebook.follow('ticket-42')" in bundle(handle)[0].replace('"', "'")
    answer.with_options(key="ticket-42").run("why")
    text, page = bundle(handle)
    assert "status" in text
    assert "done" in text
    assert "agentrun.get('ticket-42').result()" in Stripped(page).text
    (listed,) = agentrun.runs()
    assert bundle(listed) == (text, page)


def test_a_handle_of_a_database_that_is_away_is_shown_at_once(db: Any) -> None:
    handle = answer.with_options(key="ticket-42").submit("why")
    db.close()
    handle._database.dsn = "postgresql:///none?host=/nowhere"
    assert handle._repr_mimebundle_() == {"text/plain": "<agentrun run 'ticket-42'>"}
    assert str(handle) == repr(handle)
