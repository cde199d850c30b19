"""The table `summaries`: what lists of runs show agrees with the journal, at any moment.

Every other test compares the sums of its runs with their journals, too: see `invariants.py`.
"""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
import psycopg
import pytest
from crashing import World, die_recorded, killed
from invariants import assert_invariants
from journals import Journal, assistant, insert, user
from psycopg import ClientCursor, Connection
from psycopg.rows import tuple_row

import agentrun
from agentrun.core.failures import read_failure
from agentrun.core.summary import ChildRun, Relatives
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_relatives
from agentrun.store.sql import QUERIES
from agentrun.testing import Call, Fault, Provider, Reply


def make_agent(provider: Provider, world: World, crash: list[bool]) -> Any:
    """An agent that pays, acts, and asks again; it can be killed between."""
    client = agentrun.wrap(openai.OpenAI(base_url=provider.url + "/v1", api_key="k"))

    @agentrun.tool(effect="idempotent")
    def keep(order: str) -> str:
        world.act(order)
        if order == "bad":
            raise ValueError("no such order")
        return "kept"

    @agentrun.agent
    def summed_agent(order: str) -> str:
        messages: list[Any] = [{"role": "user", "content": order}]
        while True:
            reply = client.chat.completions.create(model="gpt-5-mini", messages=messages)
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return str(message.content)
            messages += agentrun.call_tools(reply, [keep])
            if crash[0]:
                die_recorded()

    return summed_agent


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "effects")


def asks(order: str) -> list[Reply | str]:
    return [Reply("I look.", [Call("keep", {"order": order})]), "All is well."]


def only() -> agentrun.RunSummary:
    (found,) = agentrun.runs()
    return found


def test_a_killed_and_resumed_run_is_summed_once(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    provider.say(asks("7"))
    crash = [True]
    agent = make_agent(provider, world, crash).with_options(key="k")
    killed(lambda: (agentrun.connect(dsn), agent.run("7")))
    half = only()
    assert (half.status, half.turns, half.model_calls) == ("running", 1, 1)
    assert (half.last_message, half.finished_at) == ("I look.", None)
    crash[0] = False
    time.sleep(1.2)
    agent.run("7")
    totals, run = agentrun.transcript("k").totals, only()
    assert (run.status, run.turns, run.model_calls) == ("done", 2, 2)
    assert (run.input_tokens, run.output_tokens) == (totals.input_tokens, totals.output_tokens)
    assert run.cost == run.tree_cost == totals.cost > 0
    assert (run.last_message, run.failed_step, run.error) == ("All is well.", None, None)
    assert run.finished_at is not None
    lasted = (run.finished_at - run.created_at).total_seconds()
    assert run.waiting_seconds >= 1.2, "nobody works between a crash and the next claim"
    assert run.working_seconds + run.waiting_seconds == pytest.approx(lasted, abs=1)


def test_the_first_failing_step_and_then_the_error_of_the_run(
    db: Any, provider: Provider, world: World
) -> None:
    provider.say(asks("bad"))
    agent = make_agent(provider, world, [False]).with_options(key="k")
    agent.run("bad")
    run = only()
    assert (run.status, run.failed_step, run.error_type) == ("done", 2, "ValueError")
    assert "no such order" in (run.error or "")
    provider.say([Reply("I look.", [Call("keep", {"order": "bad"})])])

    @agentrun.agent(name="fails_behind_a_step")
    def fails() -> None:
        agentrun.step(str.upper, effect="read", name="shout")("x")
        raise LookupError("nothing there")

    with pytest.raises(agentrun.RunFailed):
        fails.with_options(key="f").run()
    (failed,) = agentrun.runs(status="failed")
    assert (failed.error_type, failed.error) == ("LookupError", "nothing there")
    assert failed.reason == "LookupError: nothing there"


def test_waiting_is_not_working(db: Any) -> None:
    @agentrun.agent(name="waits_a_second")
    def waits() -> None:
        agentrun.receive("go")

    handle = waits.with_options(key="k").submit()
    with agentrun.Worker([waits]):
        while handle.status() != "waiting":
            time.sleep(0.02)
        time.sleep(1.2)
        agentrun.send("k", "go")
        handle.result(timeout=60)
    run = only()
    assert run.finished_at is not None
    whole = (run.finished_at - run.created_at).total_seconds()
    assert run.waiting_seconds >= 1.2
    assert run.working_seconds + run.waiting_seconds == pytest.approx(whole, abs=1)


def test_a_run_that_was_killed_and_cancelled_later_has_not_worked_in_between(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    provider.say(asks("7"))
    agent = make_agent(provider, world, [True]).with_options(key="k")
    killed(lambda: (agentrun.connect(dsn), agent.run("7")))
    time.sleep(1.2)
    agentrun.cancel("k")
    run = only()
    assert run.status == "cancelled"
    assert run.waiting_seconds >= 1.2


def test_a_run_whose_process_is_dead_does_not_work(
    db: OpenDatabase, dsn: str, provider: Provider, world: World, sql: Any
) -> None:
    provider.say(asks("7"))
    agent = make_agent(provider, world, [True]).with_options(key="k")
    killed(lambda: (agentrun.connect(dsn), agent.run("7")))
    with db.connection() as conn:
        conn.execute("UPDATE agentrun.workers SET dead_at = now() WHERE dead_at IS NULL")
    first = only()
    time.sleep(0.5)
    later = only()
    asked = "SELECT extract(epoch FROM max(at) - min(at) FILTER (WHERE event = 'claimed'))::float8"
    ((worked,),) = sql(f"{asked} FROM agentrun.journal")
    assert later.owner_dead
    assert first.working_seconds == later.working_seconds == pytest.approx(worked, abs=0.05)
    assert later.waiting_seconds >= first.waiting_seconds + 0.5


def test_the_time_in_the_queue_counts_once(db: Any) -> None:
    listed = child.with_options(key="k")
    listed.submit("x")
    time.sleep(0.6)
    listed.run("x")
    run = only()
    assert run.finished_at is not None
    whole = (run.finished_at - run.created_at).total_seconds()
    assert run.working_seconds + run.waiting_seconds == pytest.approx(whole, abs=0.3)


def test_the_step_of_an_error_that_was_handled_is_not_that_of_the_run(db: Any) -> None:
    @agentrun.step(effect="read")
    def parse(text: str) -> int:
        return int(text)

    @agentrun.agent(name="handles_one_error")
    def handles() -> None:
        with contextlib.suppress(ValueError):
            parse("seven")
        parse("7")
        raise LookupError("nothing there")

    with pytest.raises(agentrun.RunFailed):
        handles.with_options(key="k").run()
    run = only()
    assert (run.failed_step, run.error_type) == (None, "LookupError")
    assert agentrun.transcript("k").failed_step is None


def test_what_a_refused_call_cost_and_what_a_failed_attempt_said(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    provider.say(["Fine."])
    provider.arm(Fault.error(500), Fault.error(400, nth=2))
    agent = make_agent(provider, world, [False]).with_options(key="k")
    with pytest.raises(agentrun.RunFailed):
        agent.run("7")
    run = only()
    assert (run.model_calls, run.cost, run.unpriced) == (1, 0, 0)
    assert run.error_type == "openai.BadRequestError"
    assert [found.key for found in agentrun.runs(error="BadRequestError")] == ["k"]
    assert_invariants(dsn)


def test_a_secret_that_the_model_repeats_is_masked_in_lists(
    db: Any, provider: Provider, world: World
) -> None:
    provider.say(["-" * 175 + "The key is sk-proj-" + "a1B2" * 12])  # cut within the key
    make_agent(provider, world, [False]).run("7")
    message = only().last_message or ""
    assert message.endswith("The key is [masked: opena")
    assert "sk-proj" not in message


# -- lists -----------------------------------------------------------------------------------------


@agentrun.agent(name="listed_child")
def child(text: str) -> str:
    return text


@agentrun.agent(name="listed_parent")
def parent(text: str) -> str:
    return child.run(text) + child.run(text.upper())


def test_children_are_listed_with_their_tree(db: Any) -> None:
    parent.with_options(key="p").run("hello")
    roots = agentrun.runs(roots=True)
    assert [(run.key, run.children) for run in roots] == [("p", 2)]
    tree = agentrun.runs(root="p")
    assert sorted(run.last_message or "" for run in tree) == ["HELLO", "hello", "helloHELLO"]
    assert {run.parent_key for run in tree} == {None, "p"}
    assert {run.root_key for run in tree} == {"p"}


@pytest.mark.tampers
def test_the_relatives_of_a_run_are_its_parent_its_children_and_the_cost_of_its_tree(
    db: Any, dsn: str
) -> None:
    ids: dict[str, Any] = {}
    with psycopg.connect(dsn, autocommit=True) as conn:
        for key, parent, cost in (
            ("top", None, "0.5"), ("top/2", "top", "0.25"), ("top/2/1", "top/2", "0.125"),
            ("top/3", "top", None),
        ):  # fmt: skip
            j = Journal(key=key).claimed("w-1").asks(1, [user("?")])
            insert(conn, j.answers(1, assistant("!"), cost=cost).events, status="done")
            above = None if parent is None else ids[parent]
            conn.execute(
                "UPDATE agentrun.runs SET parent = %s WHERE run_id = %s", [above, j.run_id]
            )
            ids[key] = j.run_id
    assert find_relatives(db, ids["top"]) == Relatives(
        None,
        (ChildRun("top/2", "done", Decimal("0.25")), ChildRun("top/3", "done", Decimal(0))),
        Decimal("0.875"),
    )
    assert find_relatives(db, ids["top/2"]).parent == "top"
    assert find_relatives(db, ids["top/3"]) == Relatives("top", (), Decimal(0))
    assert find_relatives(db, uuid4()) == Relatives()


def test_filters(db: Any) -> None:
    for number in range(5):
        child.with_options(key=f"r-{number}").run(f"Order {number} of 100%")
    assert [run.key for run in agentrun.runs(limit=2)] == ["r-4", "r-3"]
    assert [run.key for run in agentrun.runs(text="order 3 OF 100%")] == ["r-3"]
    assert agentrun.runs(text="order%of") == []
    assert len(agentrun.runs(agent="listed_child", status=["done", "failed"])) == 5
    assert agentrun.runs(agent="another") == agentrun.runs(status="failed") == []
    assert agentrun.runs(min_cost=0.01) == agentrun.runs(error="LookupError") == []
    hour = timedelta(hours=1)
    assert len(agentrun.runs(since=datetime.now(UTC) - hour)) == 5
    assert len(agentrun.runs(since=datetime.now() - hour, until=datetime.now())) == 5
    assert agentrun.runs(since=datetime.now(UTC) + hour) == []
    assert agentrun.runs(until=datetime.now(UTC) - hour) == []


def test_pages_meet_each_run_once_while_others_begin(db: Any) -> None:
    for number in range(7):
        child.with_options(key=f"r-{number}").run("x")
    seen: list[str] = []
    page = agentrun.runs(limit=3)
    while page and len(seen) < 20:
        seen += [run.key for run in page]
        child.run("younger")
        page = agentrun.runs(limit=3, after=page[-1].cursor)
    assert seen == [f"r-{number}" for number in reversed(range(7))]


def test_bad_questions_say_what_is_right(db: Any) -> None:
    with pytest.raises(agentrun.ConfigError, match="one of queued, running"):
        agentrun.runs(status="finished")  # type: ignore[arg-type]
    with pytest.raises(agentrun.ConfigError, match="at least one run"):
        agentrun.runs(limit=0)
    with pytest.raises(agentrun.ConfigError, match="use the cursor"):
        agentrun.runs(after="page 2")


MANY = """
INSERT INTO agentrun.runs (run_id, key, agent, status, created_at)
SELECT gen_random_uuid(), 'many-' || n, 'agent-' || n % 20, 'done', now() - n * interval '1 minute'
FROM generate_series(1, 10000) n;
INSERT INTO agentrun.summaries (run_id, cost, error_type, error, last_message, started_at)
SELECT run_id, 0.01, 'LookupError', 'nothing', 'All is well.', created_at FROM agentrun.runs;
INSERT INTO agentrun.journal (run_id, seq, epoch, worker, batch, event, name, key)
SELECT run_id, 1, 0, 'w', gen_random_uuid(), 'created', agent, key FROM agentrun.runs;
ANALYZE agentrun.runs; ANALYZE agentrun.summaries; ANALYZE agentrun.journal;
"""
NO_FILTER: dict[str, Any] = dict.fromkeys(
    ["key", "status", "agent", "since", "until", "min_cost", "text", "error", "root", "after_at"]
) | {"after_id": None, "roots": False, "limit": 50}


@pytest.mark.tampers
@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"status": ["done"]},
        {"agent": "agent-7"},
        {"since": datetime(2020, 1, 1, tzinfo=UTC)},
        {"min_cost": Decimal("0.005")},
        {"text": "all is"},
        {"error": "LookupError"},
        {"roots": True},
    ],
    ids=str,
)
def test_no_list_reads_a_journal_or_a_whole_table(
    db: OpenDatabase, dsn: str, wanted: dict[str, Any]
) -> None:
    with Connection.connect(dsn, autocommit=True) as conn:
        for statement in MANY.strip().split(";\n"):
            conn.execute(statement)
        values = NO_FILTER | wanted
        (found,) = (
            conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + QUERIES["runs"], values).fetchone()
            or ()
        )
    plan = found[0]["Plan"]
    scans = list(walk(plan))
    assert ("Seq Scan", "runs") not in scans
    assert ("Seq Scan", "summaries") not in scans
    assert "journal" not in [table for _, table in scans]


@pytest.mark.tampers
def test_a_key_an_agent_and_a_place_in_the_list_are_found_in_an_index(
    db: OpenDatabase, dsn: str
) -> None:
    with Connection.connect(dsn, autocommit=True) as conn:
        for statement in MANY.strip().split(";\n"):
            conn.execute(statement)
        ((at, run_id),) = conn.execute(
            "SELECT created_at, run_id FROM agentrun.runs WHERE key = 'many-9000'"
        ).fetchall()
    with db.connection() as own:  # whose statements are planned once
        for wanted in (
            {"key": "many-9000"},
            {"agent": "agent-7"},
            {"after_at": at, "after_id": run_id},
        ):
            assert sum(passed_over(explain(own, wanted))) <= 1, wanted


def explain(conn: Connection[Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """How the list is found that `list_runs` asks for, with the rows that were read."""
    statement = "EXPLAIN (ANALYZE, FORMAT JSON) " + QUERIES["runs"]
    cursor = ClientCursor(conn, row_factory=tuple_row)
    ((found,),) = cursor.execute(statement, NO_FILTER | wanted).fetchall()
    plan: dict[str, Any] = found[0]["Plan"]
    return plan


def passed_over(plan: dict[str, Any]) -> Any:
    """Of each scan, the rows that were read for nothing."""
    yield plan.get("Rows Removed by Filter", 0) * plan["Actual Loops"]
    for below in plan.get("Plans", []):
        yield from passed_over(below)


def walk(plan: dict[str, Any]) -> Any:
    """The scans that were executed: kind and table."""
    if "Relation Name" in plan and plan["Actual Loops"]:
        yield plan["Node Type"], plan["Relation Name"]
    for below in plan.get("Plans", []):
        yield from walk(below)


ERRORS = [
    ({"flaw": {"text": "the stream was cut", "billed": True}}, "NoAnswer", "the stream was cut"),
    (
        {"error": {"type": "builtins.OSError", "message": "no route"}},
        "builtins.OSError",
        "no route",
    ),
    ({"type": "builtins.OSError", "message": "no route"}, "builtins.OSError", "no route"),
    ({"error": ["httpx.ConnectError", "refused"]}, "httpx.ConnectError", "refused"),
    ({"error": "spoiled"}, "Error", "spoiled"),
    ({"status": 429, "body": {"error": {"message": "slow down"}}}, "HTTP 429", "slow down"),
    ({"status": 404, "body": {"error": "model not found"}}, "HTTP 404", "model not found"),
    ({"status": 422, "body": {"message": "no such role"}}, "HTTP 422", "no such role"),
    ({"status": 500, "body": "<html>"}, "HTTP 500", ""),
    ({"status": 500}, "HTTP 500", ""),
    ({}, "Error", ""),
    (None, "Error", ""),
    ({"error": {"type": "T", "message": "x" * 900}}, "T", "x" * 900),
]


@pytest.mark.parametrize(("output", "kind", "text"), ERRORS)
def test_lists_and_transcripts_read_the_same_error(
    sql: Any, output: Any, kind: str, text: str
) -> None:
    failure = read_failure(output)
    assert (failure.type, failure.message) == (kind, text)
    stored = json.dumps(output)
    asked = "SELECT agentrun.error_type(%s::json), coalesce(agentrun.error_text(%s::json), '')"
    assert sql(asked, stored, stored) == [(kind, text[:200])]
