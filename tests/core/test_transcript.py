"""Folding hand-written journals into transcripts."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from journals import HOSTILE, Journal, assistant, crashed_and_resumed, user

from agentrun.core.entries import Failure, NewMessage, Note, Resume, Step
from agentrun.core.messages import reply_messages, request_messages
from agentrun.core.transcript import Transcript, fold
from agentrun.core.viewable import renderers
from agentrun.view.layout import as_text
from agentrun.view.timeline import attempt_time


def said(transcript: Transcript) -> list[tuple[str, str]]:
    return [
        (e.message.role, e.message.text) for e in transcript.entries if isinstance(e, NewMessage)
    ]


def bands(transcript: Transcript) -> list[Resume]:
    return [entry for entry in transcript.entries if isinstance(entry, Resume)]


def test_the_run_itself() -> None:
    transcript = fold(crashed_and_resumed().events)
    assert (transcript.key, transcript.agent, transcript.status) == ("ticket-42", "support", "done")
    assert transcript.input == {"question": "refund order 7"}
    assert transcript.result == "Refunded."
    assert transcript.turns == 2
    assert transcript.started_at is not None
    assert transcript.finished_at is not None


def test_only_new_messages_are_shown() -> None:
    assert said(fold(crashed_and_resumed().events)) == [
        ("system", "Be kind."),
        ("user", "refund order 7"),
        ("assistant", ""),
        ("tool", '{"refunded": true}'),
        ("assistant", "Refunded."),
    ]


def test_a_repeated_message_is_shown_again() -> None:
    j = Journal().claimed("w-1").asks(1, [user("go on")]).answers(1, assistant("1"))
    j.asks(2, [user("go on"), assistant("1"), user("go on")]).answers(2, assistant("2"))
    assert said(fold(j.events)) == [
        ("user", "go on"), ("assistant", "1"), ("user", "go on"), ("assistant", "2"),
    ]  # fmt: skip


def test_branches_are_conversations_of_their_own() -> None:
    j = Journal().claimed("w-1")
    j.asks(1, [user("hello")], ident="b:eu/1").asks(2, [user("hello")], ident="b:us/1")
    assert said(fold(j.events)) == [("user", "hello"), ("user", "hello")]


def test_a_band_tells_what_each_resume_saved_and_repeated() -> None:
    told = [
        (b.worker, b.reason, b.replayed, b.rerun, b.saved, b.saved_unpriced, b.in_doubt)
        for b in bands(fold(crashed_and_resumed().events))
    ]
    paid = Decimal("0.0031")
    assert told == [
        ("w-2", "w-1 is gone", 1, 0, paid, 0, 1),
        ("w-3", "resolved", 1, 0, paid, 0, 0),
        ("w-4", "w-3 is gone", 2, 1, paid, 0, 0),
    ]


def test_a_band_follows_the_step_that_the_crash_interrupted() -> None:
    entries = fold(crashed_and_resumed().events).entries
    refund = next(n for n, e in enumerate(entries) if isinstance(e, Step) and e.name == "refund")
    assert isinstance(entries[refund + 1], Resume)


def test_a_doubt_tells_who_settled_it_and_why() -> None:
    refund = fold(crashed_and_resumed().events).steps[1]
    assert (refund.status, refund.output) == ("ok", {"refunded": True})
    assert refund.idempotency_key == "key-2"
    (doubt,) = refund.doubts
    assert doubt.decision is not None
    assert doubt.decision.resolution == "happened"
    assert (doubt.decision.by, doubt.decision.reason) == ("ann", "seen at the bank")


def test_an_open_doubt() -> None:
    transcript = fold(crashed_and_resumed().events[:8])  # … in_doubt, parked
    refund = transcript.steps[1]
    assert (transcript.status, refund.status) == ("held", "in_doubt")
    assert refund.doubts[0].decision is None
    assert [e.text for e in transcript.entries if isinstance(e, Note)] == [
        "held · in doubt: refund"
    ]


def test_a_decision_to_retry_leads_to_a_further_attempt() -> None:
    j = Journal().claimed("w-1").begins(1, "pay", {}).claimed("w-2").add("in_doubt", step=1)
    j.add("resolved", step=1, status="retry", by="on_doubt").begins(1, "pay", {}, attempt=2)
    step = fold(j.ends(1, "pay", {}, {"result": 1}, attempt=2).events).steps[0]
    assert [a.status for a in step.attempts] == ["settled", "ok"]
    assert step.status == "ok"


def test_an_approval_is_a_decision_and_no_doubt() -> None:
    j = Journal().claimed("w-1").add("approval_requested", step=1, kind="tool", name="pay",
                                     input={"args": {"cents": 9}})  # fmt: skip
    j.parks("approval", "approval", step=1).claimed("w-2", "was held")
    j.add("resolved", step=1, status="approved", by="ann", reason="a good customer",
          output={"original": {"cents": 9}, "approved": {"cents": 5}})  # fmt: skip
    j.begins(1, "pay", {"cents": 5}).ends(1, "pay", {"cents": 5}, {"result": 5})
    transcript = fold(j.events)
    (step,) = transcript.steps
    assert (step.status, step.input, step.doubts) == ("ok", {"cents": 9}, ())
    assert [a.status for a in step.attempts] == ["ok"]
    (decision,) = step.approvals
    assert (decision.resolution, decision.by) == ("approved", "ann")
    assert decision.arguments == {"cents": 5}
    (band,) = bands(transcript)
    assert band.in_doubt == 0
    assert transcript.entries.index(step) < transcript.entries.index(band)
    assert 'approved by ann with {"cents": 5} · a good customer' in as_text(transcript)


def test_attempts_tell_their_worker_error_and_delay() -> None:
    first, second, third = fold(crashed_and_resumed().events).steps[2].attempts
    assert (first.status, first.worker, first.retry_in) == ("failed", "w-3", 2.0)
    assert first.error is not None
    assert first.error.message == "overloaded"
    assert (second.status, second.worker) == ("unknown", "w-3")
    assert (third.status, third.worker) == ("ok", "w-4")


def test_unpriced_calls_are_counted_and_never_free() -> None:
    totals = fold(crashed_and_resumed().events).totals
    assert totals.cost == Decimal("0.0031")
    assert totals.unpriced == 1
    assert (totals.input_tokens, totals.output_tokens) == (200, 40)


def test_a_call_in_flight_at_a_crash_is_possibly_billed() -> None:
    transcript = fold(crashed_and_resumed().events)
    assert transcript.totals.possibly_billed == 1
    assert transcript.steps[2].possibly_billed == 1


def test_an_attempt_made_needless_by_a_late_answer_was_not_sent() -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")]).claimed("w-2")
    j.asks(1, [user("?")], attempt=2).answers(1, assistant("!"), attempt=1)
    transcript = fold(j.events)
    assert [a.status for a in transcript.steps[0].attempts] == ["ok", "not_sent"]
    assert transcript.totals.possibly_billed == 0


def test_a_read_has_an_attempt_without_an_intent() -> None:
    j = Journal().claimed("w-1").ends(1, "look", {"q": 1}, {"result": [1, 2]}, effect="read")
    (step,) = fold(j.events).steps
    assert (step.input, step.output, len(step.attempts)) == ({"q": 1}, [1, 2], 1)


def test_a_reopened_step_keeps_its_failed_attempt() -> None:
    j = Journal().claimed("w-1").begins(1, "pay", {})
    j.ends(1, "pay", {}, {"error": {"type": "Boom", "message": "no"}}, status="error")
    j.add("run_failed", output={"type": "Boom", "message": "no", "traceback": "…"}, step=1)
    assert fold(j.events).error is not None
    j.claimed("w-2").add("resumed", by="ann")
    j.add("resolved", step=1, status="reopened", by="ann").begins(1, "pay", {}, attempt=2)
    transcript = fold(j.ends(1, "pay", {}, {"result": 5}, attempt=2).events)
    (step,) = transcript.steps
    assert [a.status for a in step.attempts] == ["error", "ok"]
    assert [d.by for d in step.reopened] == ["ann"]
    assert step.doubts == ()
    assert transcript.error is None


def test_steps_set_aside_by_a_divergence_are_not_replayed() -> None:
    j = Journal().claimed("w-1").asks(1, [user("a")]).answers(1, assistant("b"))
    j.asks(2, [user("c")]).answers(2, assistant("d"))
    j.claimed("w-2").add(
        "diverged", ident="2", by="ann", reason="new prompt", output={"set_aside": [[2, 2]]}
    )
    j.asks(3, [user("x")], ident="2").answers(3, assistant("y"), ident="2")
    transcript = fold(j.claimed("w-3").events)
    assert [step.set_aside for step in transcript.steps] == [False, True, False]
    assert [band.replayed for band in bands(transcript)] == [2, 2]
    assert bands(transcript)[1].saved == Decimal("0.0062")


MALFORMED: list[Any] = [
    None, 5, "text", [], {}, {"choices": []}, {"choices": None}, {"choices": {"0": 1}},
    {"choices": [None, 3, {"message": None}, {"message": []}, {"delta": {}}]},
    {"choices": [{"message": {"role": 5, "content": {"text": 7}, "tool_calls": "all"}}]},
    {"choices": [{"message": {"role": "assistant", "content": [1, None, {"type": 9}],
                              "tool_calls": [None, 1, {"function": "f"}, {"id": {}}]}}]},
    {"content": [None, {"type": "tool_use", "input": [[]]}, {"type": "tool_result"}]},
    {"output": [7, {"type": "function_call"}, {"type": "reasoning", "summary": 3}]},
    {"messages": {"role": "user"}, "input": 3, "system": [{"text": None}]},
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_reply_is_shown_as_far_as_it_can_be_read(body: Any) -> None:
    j = Journal().claimed("w-1")
    j.asks(1, [], input={"body": body}).answers(1, {"body": body}, output={"body": body})
    j.asks(2, [], input=body).answers(2, {}, output=body)
    transcript = fold(j.events)
    assert [step.status for step in transcript.steps] == ["ok", "ok"]
    json.loads(transcript.to_json())


def test_the_three_apis_read_alike() -> None:
    responses = {
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
        ]
    }
    anthropic = {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        ],
    }
    reasoning, text, call = reply_messages(responses)
    (message,) = reply_messages(anthropic)
    assert (reasoning.role, reasoning.text) == ("reasoning", "hm")
    assert text.text == message.text == "hi"
    (ours,), (theirs,) = call.calls, message.calls
    assert (ours.id, ours.name) == (theirs.id, theirs.name) == ("c", "f")
    assert json.loads(ours.arguments) == json.loads(theirs.arguments) == {"a": 1}


def test_requests_of_the_three_apis() -> None:
    result = {"type": "tool_result", "tool_use_id": "c", "content": [{"text": "7"}]}
    bodies = [
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": "7"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "7"}]},
        {"messages": [{"role": "user", "content": [result]}]},
    ]
    for body in bodies:
        (message,) = request_messages(body)
        assert (message.role, message.call_id, message.text) == ("tool", "c", "7")
    assert [m.text for m in request_messages({"instructions": "be", "input": "hi"})] == ["be", "hi"]


def test_a_provider_error_is_read_from_the_reply() -> None:
    output = {"status": 400, "body": {"error": {"message": "too long"}}, "error": None}
    j = Journal().claimed("w-1").asks(1, [user("?")])
    j.answers(1, {}, status="error", usage=None, output=output)
    transcript = fold(j.events)
    error = transcript.steps[0].error
    assert error is not None
    assert (error.type, error.message) == ("HTTP 400", "too long")
    assert transcript.totals.unpriced == 0  # an error without tokens cost nothing we know of


@pytest.mark.parametrize("identifier", [["a"], {"a": 1}, None, 7])
def test_the_id_of_a_garbled_reply_may_be_any_json(identifier: Any) -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")])
    j.answers(1, {"body": {"id": identifier, "choices": []}}, cost=None)
    assert fold(j.events).totals.unpriced == 1


def test_json_holds_everything_as_plain_values() -> None:
    plain = json.loads(fold(crashed_and_resumed().events).to_json())
    assert plain["totals"]["cost"] == "0.0031"
    assert [e["type"] for e in plain["entries"]].count("resume") == 3
    assert all(e["type"] in ("said", "step", "resume", "note") for e in plain["entries"])


def test_json_is_linear_in_a_growing_conversation() -> None:
    text = "x" * 100
    j, conversation = Journal().claimed("w-1"), []
    for step in range(1, 41):
        conversation += [user(f"{step} {text}")]
        j.asks(step, list(conversation)).answers(step, assistant(f"{step}"))
        conversation += [assistant(f"{step}")]
    assert fold(j.events).to_json().count(text) == 40


def test_a_repr_never_raises_and_is_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Transcript) -> str:
        raise ValueError

    monkeypatch.setitem(renderers, ("transcript", "text/plain"), broken)
    transcript = fold(Journal(key=HOSTILE).events)
    assert transcript._repr_mimebundle_()["text/plain"] == repr(transcript)
    assert "\x1b" not in repr(transcript)
    assert "\u202e" not in repr(transcript)


def test_an_empty_journal_and_unknown_events() -> None:
    assert fold([], key="k").status == "queued"
    assert fold(Journal().add("something_new", step=9).events).entries == ()


def test_a_window_that_forgets_old_messages_shows_the_new_ones_alone() -> None:
    first, second, third = user("a"), assistant("b"), user("c")
    j = Journal().claimed("w-1").asks(1, [first]).answers(1, second)
    assert said(fold(j.asks(2, [second, third]).events))[2:] == [("user", "c")]


def test_an_attempt_of_the_last_claim_is_running_until_somebody_else_has_the_run() -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")])
    for owner_lost, status, billed in ((False, "running", 0), (True, "open", 1)):
        transcript = fold(j.events, owner_lost=owner_lost)
        assert transcript.steps[0].status == status
        assert transcript.totals.possibly_billed == billed
    assert "possibly billed" not in as_text(fold(j.events))
    assert "running (owner dead)" in as_text(fold(j.events, owner_lost=True))
    transcript = fold(j.claimed("w-2").events)
    assert (transcript.steps[0].status, transcript.totals.possibly_billed) == ("open", 1)


@pytest.mark.parametrize("last", ["run_failed", "run_cancelled", "handed_back"])
def test_nothing_runs_when_the_run_has_ended_or_was_let_go(last: Any) -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")]).add(last, reason="so")
    assert fold(j.events).totals.possibly_billed == 1


def test_a_cancelled_run_says_who_cancelled_it_and_why_and_has_no_error() -> None:
    j = Journal().claimed("w-1").add("run_cancelled", by="ann", reason="by ann: enough")
    transcript = fold(j.events)
    assert (transcript.status, transcript.error) == ("cancelled", None)
    assert "run cancelled · by ann: enough" in as_text(transcript)
    assert "Error" not in as_text(transcript)
    assert "run cancelled · by ann" in as_text(
        fold(Journal().add("run_cancelled", by="ann").events)
    )


def test_an_attempt_begins_when_its_outcome_says_so_as_in_sql() -> None:
    j = Journal().claimed("w-1").asks(1, [user("a")])
    intent = j.events[-1].at
    assert intent is not None
    before, after = intent - timedelta(seconds=0.25), intent + timedelta(seconds=0.25)
    for began in (before, after):
        answered = Journal().claimed("w-1").asks(1, [user("a")])
        (step,) = fold(answered.answers(1, assistant("b"), started_at=began).events).steps
        assert step.attempts[0].started_at == began
        assert step.started_at == min(began, intent)
        assert attempt_time(step) == intent + timedelta(seconds=1) - began


def test_a_model_call_that_was_never_made_is_not_counted() -> None:
    j = Journal().claimed("w-1").asks(1, [user("a")]).answers(1, assistant("b"))
    refused = {"step": 2, "turn": 2, "kind": "model", "name": "chat", "ident": "2"}
    j.add("approval_requested", reason="the budget does not allow it", **refused)
    transcript = fold(j.events)
    assert (len(transcript.steps), transcript.turns, transcript.totals.model_calls) == (2, 1, 1)
    assert "1 turn\n" in as_text(transcript).replace(" ·", "\n")
    transcript = fold(j.asks(2, [user("a")]).events)
    assert (transcript.turns, transcript.totals.model_calls) == (2, 2)


def test_a_run_that_failed_without_a_recorded_error_says_its_reason() -> None:
    transcript = fold(Journal().claimed("w-1").add("run_failed", reason="lost").events)
    assert transcript.error == Failure("Error", "lost")


def test_what_a_provider_works_on_by_itself_runs_while_the_run_is_parked() -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")])
    j.add("attempt_accepted", step=1, kind="model", attempt=1, output={"response": "r"})
    j.parks("response", "its answer", step=1)
    assert fold(j.events).steps[0].status == "running"
    assert fold(j.add("run_failed", reason="so").events).totals.possibly_billed == 1
