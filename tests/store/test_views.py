"""The SQL views: they agree with the transcript, and answer whatever was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from invariants import summarize
from journals import START, Journal, assistant, crashed_and_resumed, insert, insert_event, user
from paths import random_journal
from psycopg.rows import dict_row

from agentrun.core.entries import Resume
from agentrun.core.events import Usage
from agentrun.core.transcript import fold

VIEWS = [
    "steps", "turns", "tool_calls", "model_calls", "attempts", "transcript", "in_doubt", "inbox",
    "asked", "decided", "resumes", "spend", "spend_by_run", "late_answers",
]  # fmt: skip

Connection = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def db(dsn: str) -> Iterator[Connection]:
    settings: dict[str, Any] = {"row_factory": dict_row, "prepare_threshold": None}
    with psycopg.connect(dsn, autocommit=True, **settings) as connection:
        yield connection


def rows(db: Connection, query: str) -> list[dict[str, Any]]:
    return db.execute(query).fetchall()  # type: ignore[arg-type]


def test_every_relation_and_column_is_commented(db: Connection) -> None:
    bare = rows(
        db,
        """
        SELECT c.relname, a.attname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p')
          AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT c.relname, '' FROM pg_class c
        WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p')
          AND obj_description(c.oid, 'pg_class') IS NULL
        """,
    )
    assert bare == []


def test_views_run_with_the_rights_of_the_reader(db: Connection) -> None:
    found = rows(
        db,
        "SELECT relname, reloptions FROM pg_class WHERE relkind = 'v'"
        " AND relnamespace = 'agentrun'::regnamespace ORDER BY relname",
    )
    assert [row["relname"] for row in found] == sorted(VIEWS)
    assert all(row["reloptions"] == ["security_invoker=true"] for row in found)


def test_tool_calls(db: Connection) -> None:
    insert(db, crashed_and_resumed().events)
    (call,) = rows(db, "SELECT * FROM agentrun.tool_calls WHERE key = 'ticket-42'")
    assert (call["name"], call["effect"], call["status"]) == ("refund", "once", "ok")
    assert (call["args"], call["result"]) == ({"order_id": "7"}, {"refunded": True})
    assert call["idempotency_key"] == "key-2"


@pytest.mark.tampers
def test_resumes_agree_with_the_transcript(db: Connection) -> None:
    diverged = Journal(key="diverged").claimed("w-1")
    diverged.asks(1, [user("a")]).answers(1, assistant("b"))
    diverged.asks(2, [user("c")]).answers(2, assistant("d")).claimed("w-2")
    diverged.add("diverged", ident="2", output={"set_aside": [[2, 2]]}).asks(
        3, [user("x")], ident="2"
    )
    diverged.answers(3, assistant("y"), cost=None, ident="2").claimed("w-3")
    reconciled = Journal(key="reconciled").claimed("w-1").begins(1, "pay", {}).claimed("w-2")
    reconciled.add("resolved", step=1, attempt=1, status="not_happened", by="reconcile")
    reconciled.begins(1, "pay", {}, attempt=2).claimed("w-3").begins(1, "pay", {}, attempt=3)
    approved = Journal(key="approved").claimed("w-1").parks("approval", step=1)
    approved.claimed("w-2").add("resolved", step=1, status="approved", by="ann")
    for journal in (crashed_and_resumed(), diverged, reconciled, approved):
        _agree(db, journal)


@pytest.mark.tampers
def test_resumes_agree_with_the_transcript_about_random_paths(db: Connection) -> None:
    for seed in range(40):
        _agree(db, random_journal(seed))


def _agree(db: Connection, journal: Journal) -> None:
    insert(db, journal.events)
    bands = [e for e in fold(journal.events).entries if isinstance(e, Resume)]
    found = db.execute(
        "SELECT worker, reason, replayed, rerun, saved, saved_unpriced, in_doubt"
        " FROM agentrun.resumes WHERE run_id = %s ORDER BY seq",
        [journal.run_id],
    ).fetchall()
    assert found == [
        {
            "worker": b.worker, "reason": b.reason, "replayed": b.replayed, "rerun": b.rerun,
            "saved": b.saved, "saved_unpriced": b.saved_unpriced, "in_doubt": b.in_doubt,
        }
        for b in bands
    ]  # fmt: skip


def test_spend_agrees_with_the_transcript(db: Connection) -> None:
    journal = crashed_and_resumed()
    insert(db, journal.events)
    found = rows(
        db, "SELECT step, attempt, billing, cost FROM agentrun.spend ORDER BY step, attempt"
    )
    assert [(r["step"], r["attempt"], r["billing"], r["cost"]) for r in found] == [
        (1, 1, "confirmed", Decimal("0.0031")),
        (3, 2, "possibly billed", None),
        (3, 3, "unpriced", None),
    ]
    totals = fold(journal.events).totals
    assert totals.possibly_billed == 1
    assert totals.cost == Decimal("0.0031")


def test_spend_tells_what_is_under_way_lost_refused_or_never_sent(db: Connection) -> None:
    j = Journal(key="open").claimed("w-1")
    lost = {"ReadTimeout": None, "ConnectError": None, "HTTP 529": 529, "RemoteProtocolError": None}
    reserved = Usage(400, 1000, cost=Decimal("0.02"), priced_by="genai-prices 1")
    for n, (reason, status) in enumerate(lost.items(), 1):
        j.asks(1, [user("?")], attempt=n, usage=reserved)
        output = {"error": {"type": reason, "message": "", "status": status}, "retry_in": 1}
        j.add("attempt_failed", step=1, kind="model", name="chat", attempt=n, output=output)
    j.asks(1, [user("?")], attempt=5, usage=reserved)
    insert(db, j.events, status="running")
    alive(db, "w-1")
    found = rows(db, "SELECT attempt, billing, cost, reserved FROM agentrun.spend ORDER BY 1")
    assert [(r["attempt"], r["billing"], r["cost"], r["reserved"]) for r in found] == [
        (1, "possibly billed", None, Decimal("0.02")),
        (4, "possibly billed", None, Decimal("0.02")),
        (5, "running", None, Decimal("0.02")),
    ]
    sums = "SELECT possibly_billed, running, tree_running FROM agentrun.spend_by_run"
    assert rows(db, sums) == [{"possibly_billed": 2, "running": 1, "tree_running": 1}]


@pytest.mark.tampers
def test_spend_by_run_adds_up_the_tree(db: Connection) -> None:
    above: Journal | None = None
    for key, cost in (("top", "0.5"), ("top/2", "0.25"), ("top/2/1", None)):
        j = Journal(key=key).claimed("w-1").asks(1, [user("?")])
        insert(db, j.answers(1, assistant("!"), cost=cost).events)
        db.execute(
            "UPDATE agentrun.runs SET parent = %s WHERE run_id = %s",
            [above and above.run_id, j.run_id],
        )
        above = j
    found = rows(
        db,
        "SELECT key, parent_key, cost, unpriced, tree_cost, tree_calls, tree_unpriced, tree_runs"
        " FROM agentrun.spend_by_run ORDER BY key",
    )
    assert [tuple(row.values()) for row in found] == [
        ("top", None, Decimal("0.5"), 0, Decimal("0.75"), 3, 1, 3),
        ("top/2", "top", Decimal("0.25"), 0, Decimal("0.25"), 2, 1, 2),
        ("top/2/1", "top/2", 0, 1, 0, 1, 1, 1),
    ]


@pytest.mark.tampers
def test_a_late_answer_that_was_adopted_is_not_billed_twice(db: Connection) -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")]).claimed("w-2")
    j.asks(1, [user("?")], attempt=2).answers(1, assistant("!"), attempt=1)
    insert(db, j.events)
    (row,) = rows(db, "SELECT billing FROM agentrun.spend")
    assert row["billing"] == "confirmed"


def test_attempts_tell_each_try(db: Connection) -> None:
    insert(db, crashed_and_resumed().events)
    found = rows(
        db, "SELECT attempt, status, error FROM agentrun.attempts WHERE step = 3 ORDER BY 1"
    )
    assert [(r["attempt"], r["status"], r["error"]) for r in found] == [
        (1, "failed", "overloaded"), (2, "no outcome", None), (3, "ok", None),
    ]  # fmt: skip


def alive(db: Connection, worker: str) -> None:
    """A worker that beats, as the owner of all runs."""
    db.execute(
        "INSERT INTO agentrun.workers (worker, host, pid, lease, server_start)"
        " VALUES (%s, 'h', 1, '1 h', now())",
        [worker],
    )
    db.execute("UPDATE agentrun.runs SET owner = %s", [worker])


@pytest.mark.tampers
def test_an_open_attempt_is_running_while_its_owner_lives(db: Connection) -> None:
    insert(db, Journal().claimed("w-1").asks(1, [user("?")]).events, status="running")
    alive(db, "w-1")

    def told() -> tuple[str, str]:
        (attempt,) = rows(db, "SELECT status FROM agentrun.attempts")
        (spend,) = rows(db, "SELECT billing FROM agentrun.spend")
        return attempt["status"], spend["billing"]

    lost = ("no outcome", "possibly billed")
    assert told() == ("running", "running")
    db.execute("UPDATE agentrun.workers SET dead_at = now()")
    assert told() == lost
    db.execute("UPDATE agentrun.workers SET dead_at = NULL, beat_at = now() - interval '2 h'")
    assert told() == lost, "its lease is over"
    db.execute("UPDATE agentrun.workers SET beat_at = now()")
    db.execute("UPDATE agentrun.runs SET epoch = epoch + 1")
    assert told() == lost, "another claim has the run"


@pytest.mark.tampers
def test_what_a_provider_works_on_by_itself_is_running_until_the_run_has_ended(
    db: Connection,
) -> None:
    j = Journal().claimed("w-1").asks(1, [user("?")])
    j.add("attempt_accepted", step=1, kind="model", attempt=1, output={"response": "r"})
    insert(db, j.parks("response", step=1).events, status="waiting")
    for status, billing in (("waiting", "running"), ("failed", "possibly billed")):
        parked_for = "response" if status == "waiting" else None
        db.execute("UPDATE agentrun.runs SET status = %s, parked_for = %s", [status, parked_for])
        (row,) = rows(db, "SELECT billing FROM agentrun.spend")
        assert row["billing"] == billing


@pytest.mark.tampers
def test_a_doubt_is_in_doubt_and_in_the_inbox_until_it_is_resolved(db: Connection) -> None:
    events = crashed_and_resumed().events
    insert(db, events[:8], status="held")  # … in_doubt, parked
    (doubt,) = rows(db, "SELECT * FROM agentrun.in_doubt")
    assert (doubt["step"], doubt["name"], doubt["worker"]) == (2, "refund", "w-1")
    (waiting,) = rows(db, "SELECT * FROM agentrun.inbox")
    assert (waiting["waits_for"], waiting["args"]) == ("doubt", {"order_id": "7"})
    for event in events[8:10]:  # claimed, resolved
        insert_event(db, event)
    assert rows(db, "SELECT * FROM agentrun.in_doubt") == []


@pytest.mark.tampers
def test_a_held_run_without_doubt_waits_for_a_decision(db: Connection) -> None:
    j = Journal().claimed("w-1").parks("review", "budget of $1 reached")
    insert(db, j.events, status="held")
    (waiting,) = rows(db, "SELECT waits_for, reason, step FROM agentrun.inbox")
    assert waiting == {"waits_for": "decision", "reason": "budget of $1 reached", "step": None}


def test_turns_sum_their_steps(db: Connection) -> None:
    insert(db, crashed_and_resumed().events)
    found = rows(db, "SELECT * FROM agentrun.turns ORDER BY turn")
    assert [(r["model_calls"], r["tool_calls"], r["unpriced"]) for r in found] == [
        (1, 1, 0), (1, 0, 1),
    ]  # fmt: skip


def test_the_transcript_lists_new_messages_of_shared_requests(db: Connection) -> None:
    shared = {"$prefix": "d1", "then": [{"role": "tool", "tool_call_id": "c", "content": "7"},
                                        {"$ref": "d2"}, user({"$ref": "d3"})]}  # fmt: skip
    j = Journal().claimed("w-1").asks(1, [user("hi")]).answers(1, assistant("yes"))
    insert(db, j.asks(2, shared).events, status="running")
    found = rows(
        db, "SELECT role, content, call_id FROM agentrun.transcript ORDER BY seq, position"
    )
    again = "[recorded earlier in this run]"
    assert [(r["role"], r["content"], r["call_id"]) for r in found] == [
        ("user", "hi", None), ("assistant", "yes", None), ("tool", "7", "c"),
        (None, again, None), ("user", again, None),
    ]  # fmt: skip


@pytest.mark.tampers
def test_the_transcript_reads_the_other_apis(db: Connection) -> None:
    j = Journal().claimed("w-1")
    j.asks(1, None, input={"body": {"input": "hi"}})
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    message = {"type": "message", "role": "assistant", "content": [{"text": "a"}, {"text": "b"}]}
    j.answers(1, {"body": {"output": [message, call]}})
    result = {"type": "tool_result", "tool_use_id": "c", "content": "7"}
    j.asks(2, [{"role": "user", "content": [result]}])
    j.answers(2, {"body": {"role": "assistant", "content": [{"type": "text", "text": "done"}]}})
    insert(db, j.events)
    found = rows(db, "SELECT role, content FROM agentrun.transcript ORDER BY seq, position")
    assert [(r["role"], r["content"]) for r in found] == [
        ("user", "hi"), ("assistant", "a\nb"), ("assistant", None), ("user", "7"),
        ("assistant", "done"),
    ]  # fmt: skip


SHAPES: list[Any] = [
    None, 0, "text", [], [[]], {}, [None, 1, "x", {}], {"text": {}}, {"type": []}, {"then": 3},
]  # fmt: skip


def test_every_view_answers_on_malformed_and_escaped_values(db: Connection) -> None:
    j = Journal(key="hostile", args=SHAPES).claimed("w-1")
    step = 0
    for shape in [*SHAPES, "␛0000 and ␛d800 and ␛241b"]:
        for body in (
            shape, {"choices": shape}, {"choices": [shape, {"message": shape}]},
            {"choices": [{"message": {"role": shape, "content": shape, "tool_calls": shape}}]},
            {"output": shape}, {"content": shape}, {"content": [shape]}, {"messages": shape},
            {"messages": [shape, {"role": shape, "content": [shape]}], "input": shape},
        ):  # fmt: skip
            step += 1
            given = {"body": body} if step % 2 else body
            j.asks(step, None, input=given).answers(step, {}, output=given)
    for shape in SHAPES:
        step += 1
        j.begins(step, "t", shape)
        j.ends(step, "t", shape, {"error": shape}, status="error")
    j.begins(step + 1, "t", {}).add("in_doubt", step=step + 1)
    j.parks("doubt", step=step + 1)
    insert(db, j.events, status="held")
    check = {"payload": "d" * 64, "size": 100_000, "preview": '{"body": {"mess'}
    later = (
        Journal(key="checked")
        .claimed("w-1")
        .asks(1, None, input=check)
        .answers(1, {}, output=check)
    )
    insert(db, later.events[:2], status="running")
    insert_event(db, later.events[2], codec=1 | 4)
    insert_event(db, later.events[3], codec=2 | 8)
    summarize(db)
    db.execute(
        "INSERT INTO agentrun.late_results (run_id, step, attempt, worker, status, codec, output)"
        " SELECT run_id, step, attempt, 'w-2', status, codec, output FROM agentrun.journal"
        " WHERE event = 'step_finished' AND kind = 'model'"
    )
    for view in VIEWS:
        answer = rows(db, f"SELECT v::text FROM agentrun.{view} v")  # noqa: S608
        assert answer or view in ("resumes", "decided")
    found = rows(db, "SELECT role, content FROM agentrun.transcript WHERE key = 'checked'")
    assert [r["role"] for r in found] == ["request", "assistant"]
    assert all(r["content"].startswith("[in payloads]") for r in found)


def test_claim_checked_arguments_show_their_preview(db: Connection) -> None:
    check = {"payload": "d" * 64, "size": 100_000, "preview": '{"args": {"text": "aaa'}
    j = Journal().claimed("w-1")
    j.add("step_finished", step=1, kind="tool", name="t", attempt=1, status="ok",
          started_at=START, input=check, output=check)  # fmt: skip
    insert(db, j.events[:2], status="running")
    insert_event(db, j.events[2], codec=4 | 8)
    (call,) = rows(db, "SELECT args, result, error FROM agentrun.tool_calls")
    assert (call["args"], call["result"], call["error"]) == (check, check, None)
