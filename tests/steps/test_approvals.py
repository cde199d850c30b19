"""Approvals and doubts of several calls at once; which letters count; who decides first."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from crashing import World, die, killed, until
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun import Happened, NotHappened
from agentrun.core import points
from agentrun.steps.execution_point import current_context
from agentrun.testing import Call, Provider, Reply

Events = Callable[[str], list[Any]]


CALLS = [
    Call("refund", {"order": "1"}),
    Call("email", {"to": "ann"}),
    Call("refund", {"order": "2"}),
    Call("refund", {"order": "3"}),
]


def desk(world: World, url: str, how: str, **options: Any) -> Any:
    """An agent whose model asks for all of ``CALLS`` at once, made in one way or another."""

    @agentrun.tool(approve=True, **options)
    def refund(order: str) -> str:
        world.act(f"refund {order}")
        return "refunded"

    @agentrun.tool
    def email(to: str) -> str:
        world.act(f"email {to}")
        return "sent"

    named: dict[str, Any] = {"refund": refund, "email": email}
    tools = list(named.values())

    def make(call: Any) -> str:
        try:
            return str(named[call.function.name](**json.loads(call.function.arguments)))
        except agentrun.ToolFailed as error:
            return str(error)

    async def answered(calls: list[Any]) -> list[str]:
        if how == "gather":
            return await asyncio.gather(*(asyncio.to_thread(make, call) for call in calls))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.to_thread(make, call)) for call in calls]
        return [task.result() for task in tasks]

    def told(calls: list[Any], results: list[str]) -> list[Any]:
        return [
            {"role": "tool", "tool_call_id": call.id, "content": result}
            for call, result in zip(calls, results, strict=True)
        ]

    @agentrun.agent(name="support")
    def sync() -> str:
        client = agentrun.wrap(OpenAI(base_url=url, api_key="k"))
        messages: list[Any] = [{"role": "user", "content": "hi"}]
        while True:
            create = client.chat.completions.create
            reply = create(model="gpt-5-mini", messages=messages).choices[0].message
            messages.append(reply.model_dump(exclude_none=True))
            if not reply.tool_calls:
                return str(reply.content)
            if how == "call_tools":
                messages += agentrun.call_tools(reply, tools)
                continue
            with concurrent.futures.ThreadPoolExecutor(len(reply.tool_calls)) as pool:
                messages += told(reply.tool_calls, list(pool.map(make, reply.tool_calls)))

    @agentrun.agent(name="support")
    async def awaited() -> str:
        async with agentrun.wrap(AsyncOpenAI(base_url=url, api_key="k")) as client:
            return await loop(client.chat.completions.create)

    async def loop(create: Any) -> str:
        messages: list[Any] = [{"role": "user", "content": "hi"}]
        while True:
            reply = (await create(model="gpt-5-mini", messages=messages)).choices[0].message
            messages.append(reply.model_dump(exclude_none=True))
            if not reply.tool_calls:
                return str(reply.content)
            if how == "acall_tools":
                messages += await agentrun.acall_tools(reply, tools)
            else:
                messages += told(reply.tool_calls, await answered(reply.tool_calls))

    agent: Any = sync if how in ("call_tools", "threads") else awaited
    return agent.with_options(key="k")


@pytest.fixture
def ask(world: World, provider: Provider) -> Any:
    """Makes a `desk` whose model asks once and is content then."""

    def made(how: str, **options: Any) -> Any:
        provider.say([Reply(tool_calls=CALLS), "done"])
        return desk(world, provider.base_url, how, **options)

    return made


def waiting(waits_for: str = "decision") -> dict[int, Any]:
    return {one.step: one.args for one in agentrun.inbox("k") if one.waits_for == waits_for}


def no_doubts(events: Events) -> bool:
    return not any(e.event == "in_doubt" for e in events("k"))


WAYS = ["acall_tools", "gather", "taskgroup", "threads", "call_tools"]


@pytest.mark.parametrize("how", WAYS)
def test_all_approvals_of_a_reply_are_asked_at_once(
    db: Any, world: World, ask: Any, how: str, events: Events
) -> None:
    agent = ask(how)
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    asked = waiting()
    assert sorted(args["order"] for args in asked.values()) == ["1", "2", "3"]
    # The plain call is made, where it does not stand behind one that waits.
    assert world.effects == ([] if how == "call_tools" else ["email ann"])
    for step in asked:
        agentrun.approve("k", step, by="ada")
    assert agentrun.inbox("k") == []
    assert agent.run() == "done"
    assert sorted(world.effects) == ["email ann", "refund 1", "refund 2", "refund 3"]
    assert no_doubts(events)
    assert [e.status for e in events("k") if e.event == "resolved"] == ["approved"] * 3


@pytest.mark.parametrize("how", ["acall_tools", "threads"])
def test_those_that_are_approved_are_made_and_the_others_stay_listed(
    db: Any, world: World, ask: Any, how: str, events: Events
) -> None:
    agent = ask(how)
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    steps = {args["order"]: step for step, args in waiting().items()}
    agentrun.approve("k", steps["2"])
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    assert sorted(world.effects) == ["email ann", "refund 2"]
    assert sorted(args["order"] for args in waiting().values()) == ["1", "3"]
    agentrun.reject("k", steps["1"], by="bo")
    agentrun.approve("k", steps["3"])
    assert agent.run() == "done"
    assert sorted(world.effects) == ["email ann", "refund 2", "refund 3"]
    assert no_doubts(events)
    assert len([e for e in events("k") if e.event == "approval_requested"]) == 3


@pytest.mark.parametrize("how", WAYS)
def test_a_worker_asks_for_all_at_once(
    db: Any, world: World, ask: Any, how: str, events: Events
) -> None:
    agent = ask(how)
    with agentrun.Worker([agent], concurrency=1):
        handle = agent.submit()
        until(lambda: len(waiting()) == 3)
        for step in waiting():
            agentrun.approve("k", step)
        assert handle.result(timeout=60) == "done"
    assert sorted(world.effects) == ["email ann", "refund 1", "refund 2", "refund 3"]
    assert no_doubts(events)


@pytest.mark.tampers
def test_a_decision_that_comes_while_a_run_parks_is_waited_for(
    db: Any, world: World, ask: Any, sql: Any
) -> None:
    """The run is held, and its worker makes it due a moment after it has parked."""
    agent = ask("call_tools")
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    handle: agentrun.Handle[str] = agentrun.get("k")
    for step in waiting():
        with pytest.raises(agentrun.RunHeld):
            handle.result(timeout=5)
        agentrun.approve("k", step)
        sql("UPDATE agentrun.runs SET wake_at = NULL RETURNING key")
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.1)
    assert agent.run() == "done"


def test_more_calls_wait_than_a_pool_has_threads(db: Any, provider: Provider, world: World) -> None:
    calls = [Call("refund", {"order": str(n)}) for n in range(40)]
    provider.say([Reply(tool_calls=[*calls, Call("email", {"to": "ann"})]), "done"])
    agent = desk(world, provider.base_url, "acall_tools")
    with pytest.raises(agentrun.RunHeld, match="and 35 more: agentrun inbox k"):
        agent.run()
    assert len(waiting()) == 40
    assert world.effects == ["email ann"]
    last = max(waiting())
    agentrun.approve("k", last)
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    assert len(waiting()) == 39
    assert world.effects == ["email ann", "refund 39"]


def test_an_approval_is_listed_while_the_run_goes_on(db: Any, world: World, events: Events) -> None:
    """Its sibling takes long; a decision that comes meanwhile is taken up at once."""
    decided = threading.Event()

    @agentrun.tool(approve=True)
    def refund() -> str:
        world.act("refund")
        decided.set()
        return "refunded"

    @agentrun.tool
    def report() -> str:
        assert decided.wait(60)
        return "reported"

    @agentrun.agent
    async def support() -> list[str]:
        both = asyncio.to_thread(refund), asyncio.to_thread(report)
        return list(await asyncio.gather(*(asyncio.create_task(one) for one in both)))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(support.with_options(key="k").run)
        until(lambda: bool(agentrun.inbox("k")))
        assert agentrun.get("k").status() == "running"
        agentrun.approve("k", agentrun.inbox("k")[0].step or 0)
        assert running.result(60) == ["refunded", "reported"]
    assert not any(e.event == "parked" for e in events("k"))


def test_in_the_body_of_a_tool_nothing_parks(db: Any, world: World, events: Events) -> None:
    """The tool itself is under way: stopped there, it would be in doubt."""

    @agentrun.tool(approve=True)
    def refund() -> str:
        world.act("refund")
        return "refunded"

    @agentrun.tool
    def handle() -> str:
        world.act("begun")
        return refund()

    @agentrun.agent
    def support() -> str:
        return handle()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(support.with_options(key="k").run)
        until(lambda: bool(agentrun.inbox("k")))
        agentrun.approve("k", agentrun.inbox("k")[0].step or 0)
        assert running.result(60) == "refunded"
    assert world.effects == ["begun", "refund"]
    assert no_doubts(events)


def test_the_doubts_of_a_run_are_listed_and_decided_at_once(
    db: Any, dsn: str, world: World, events: Events
) -> None:
    crash = [True]
    both = threading.Barrier(2)

    @agentrun.tool
    def act(what: str) -> str:
        if crash[0]:
            both.wait(60)
            die()
        return what

    @agentrun.agent
    async def support() -> list[str]:
        calls = (asyncio.to_thread(act, what) for what in "ab")
        return list(await asyncio.gather(*(asyncio.create_task(call) for call in calls)))

    keyed = support.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    crash[0] = False
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    doubts = waiting("doubt")
    assert sorted(args["what"] for args in doubts.values()) == ["a", "b"]
    for step, args in doubts.items():
        outcome = Happened("was a") if args["what"] == "a" else NotHappened()
        agentrun.resolve("k", step, outcome, by="ada")
    assert keyed.run() == ["was a", "b"]


@pytest.mark.parametrize("effect", ["once", "idempotent"])
def test_an_intent_that_was_never_sent_is_closed_as_not_sent(
    db: Any, world: World, effect: Any, events: Events, sql: Any
) -> None:
    """The run is stopped in the instant in which the intent is durable."""

    @agentrun.tool(effect=effect)
    def act() -> str:
        world.act("acted")
        return "done"

    @agentrun.agent
    def support() -> str:
        return act()

    keyed = support.with_options(key="k")

    def stop(point: str) -> None:
        run = current_context()
        known = [] if run is None else [e.event for e in run.journaled_events(after=0)]
        if run is not None and point == "append:after" and "attempt_started" in known:
            points.arm(None)
            run.drain()

    points.arm(stop)
    try:
        with pytest.raises(agentrun.RunHeld, match="stopping"):
            keyed.run()
    finally:
        points.arm(None)
    assert world.effects == []
    assert keyed.run() == "done"
    assert world.effects == ["acted"]
    assert no_doubts(events)
    assert sql("SELECT attempt, status FROM agentrun.attempts ORDER BY attempt") == [
        (1, "not sent"),
        (2, "ok"),
    ]


# -- which letters count ---------------------------------------------------------------------------


@pytest.fixture
def held(ask: Any, db: Any) -> Any:
    """A run that waits for three approvals."""
    agent = ask("acall_tools")
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    return agent


def notes(events: Events) -> list[str]:
    return [e.reason for e in events("k") if (e.event, e.status) == ("received", "ignored")]


def test_a_letter_from_before_anything_is_asked_counts_for_nothing(
    db: Any, world: World, ask: Any, events: Events, sql: Any
) -> None:
    agent = ask("call_tools")
    agent.submit()
    with pytest.raises(agentrun.RunError, match="does not wait for a decision about step 2"):
        agentrun.approve("k", 2)
    sql("SELECT agentrun.send('k', 'approve', 2, '{}', 'the boss')")
    sql(
        "INSERT INTO agentrun.mail (run_id, id, kind, step, answers, by, sent_at, payload) "
        "SELECT run_id, gen_random_uuid(), 'approve', 3, 7, 'boss', now() + interval '1 day', '{}' "
        "FROM agentrun.runs RETURNING id"
    )
    with pytest.raises(agentrun.RunHeld):
        agent.run()
    assert world.effects == []
    assert len(waiting()) == 3
    assert len(notes(events)) == 2


def test_a_letter_about_other_arguments_counts_for_nothing(
    db: Any, world: World, held: Any, events: Events, sql: Any
) -> None:
    first = agentrun.inbox("k")[0]
    with pytest.raises(agentrun.RunError, match="asks for something else at step 2 now"):
        agentrun.approve("k", 2, fingerprint="of another")
    sql("SELECT agentrun.send('k', 'approve', 2, '{}', fingerprint => 'of another')")
    with pytest.raises(agentrun.RunHeld):
        held.run()
    assert world.effects == ["email ann"]
    agentrun.approve("k", 2, fingerprint=first.fingerprint)
    with pytest.raises(agentrun.RunHeld):
        held.run()
    assert world.effects == ["email ann", "refund 1"]
    assert len(notes(events)) == 1


POISON = [
    None,
    [1],
    5,
    {"expires": "tomorrow"},
    {"expires": "2999-01-01T00:00:00"},
    {"expires": 5},
    {"expires": "2999-13-45T00:00:00Z"},
    {"arguments": 5},
    {"budget": {"turns": "many"}},
]


@pytest.mark.parametrize("payload", POISON, ids=str)
def test_a_letter_that_cannot_be_read_is_noted_and_another_may_follow(
    db: Any, world: World, held: Any, events: Events, sql: Any, payload: Any
) -> None:
    sql("SELECT agentrun.send('k', 'approve', 2, %s::json)", json.dumps(payload))
    with pytest.raises(agentrun.RunHeld):
        held.run()
    assert len(notes(events)) == 1
    assert len(waiting()) == 3
    agentrun.approve("k", 2)
    with pytest.raises(agentrun.RunHeld):
        held.run()
    assert world.effects == ["email ann", "refund 1"]


@pytest.mark.parametrize("payload", [None, [1], "word"], ids=str)
def test_a_signal_that_cannot_be_read_is_noted(
    db: Any, events: Events, sql: Any, payload: Any
) -> None:
    @agentrun.agent
    def hears() -> Any:
        return agentrun.receive("word")

    keyed = hears.with_options(key="k")
    keyed.submit()
    sql("SELECT agentrun.send('k', 'signal', payload => %s::json)", json.dumps(payload))
    agentrun.send("k", "word", "heard")
    assert keyed.run() == "heard"
    assert notes(events) == ["signal does not count: its payload is not a JSON object"]


# -- who decides -----------------------------------------------------------------------------------


def test_the_second_decider_is_refused_with_who_came_first(
    db: Any, world: World, held: Any, events: Events, sql: Any
) -> None:
    agentrun.approve("k", 2, by="ana")
    first = r"step 2 of run 'k' is decided already: ana approved it \d+ s ago"
    for decide in (agentrun.approve, agentrun.reject):
        with pytest.raises(agentrun.AlreadyDecided, match=f"{first}, and no worker has taken"):
            decide("k", 2, by="bo")
    with pytest.raises(psycopg.errors.UniqueViolation, match=first):
        sql("SELECT agentrun.send('k', 'reject', 2)")
    with pytest.raises(agentrun.RunHeld):
        held.run()
    with pytest.raises(agentrun.AlreadyDecided, match=first):
        agentrun.reject("k", 2, by="bo")
    with pytest.raises(psycopg.errors.UniqueViolation, match=first):
        sql("SELECT agentrun.send('k', 'reject', 2)")
    assert world.effects == ["email ann", "refund 1"]
    assert notes(events) == []


def test_of_two_resolutions_the_second_is_refused(db: Any, dsn: str) -> None:
    @agentrun.tool
    def act() -> str:
        die()
        return ""

    @agentrun.agent
    def support() -> str:
        return act()

    keyed = support.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    killed(action)
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    agentrun.resolve("k", 1, Happened("ana's"), by="ana")
    with pytest.raises(agentrun.AlreadyDecided, match="ana resolved it"):
        agentrun.resolve("k", 1, NotHappened(), by="bo")
    assert keyed.run() == "ana's"


def test_of_deciders_at_the_same_instant_one_is_first(
    db: Any, dsn: str, held: Any, sql: Any
) -> None:
    start = threading.Barrier(8)

    def decide(n: int) -> str:
        with psycopg.connect(dsn, autocommit=True) as conn:
            start.wait(60)
            kind = "approve" if n % 2 else "reject"
            try:
                conn.execute("SELECT agentrun.send('k', %s, 2, '{}', %s)", (kind, f"p{n}"))
            except psycopg.errors.UniqueViolation as error:
                return str(error.diag.message_primary)
            return ""

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        told = list(pool.map(decide, range(8)))
    assert told.count("") == 1
    winner = f"p{told.index('')}"
    assert all(f"decided already: {winner} " in text for text in told if text)
    assert sql("SELECT claimed_by FROM agentrun.decided") == [(winner,)]


def test_who_decided_is_whom_the_database_knows_beside_whom_the_sender_names(
    db: Any, dsn: str, held: Any, events: Events, sql: Any
) -> None:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(
            "CREATE ROLE clerk LOGIN; GRANT USAGE ON SCHEMA agentrun TO clerk;"
            "GRANT SELECT ON ALL TABLES IN SCHEMA agentrun TO clerk;"
            "GRANT INSERT ON agentrun.mail TO clerk; GRANT UPDATE ON agentrun.runs TO clerk;"
            "GRANT EXECUTE ON FUNCTION agentrun.send TO clerk"
        )
    try:
        with psycopg.connect(dsn, user="clerk", autocommit=True) as conn:
            conn.execute("SELECT agentrun.send('k', 'approve', 2, '{}', 'the-cfo')")
            conn.execute(
                "INSERT INTO agentrun.mail (run_id, id, kind, step, by, payload) SELECT run_id, "
                "gen_random_uuid(), 'reject', 3, 'the-cfo', '{}' FROM agentrun.runs"
            )
        decided = sql('SELECT step, "by", claimed_by FROM agentrun.decided ORDER BY step')
        assert decided == [(2, "clerk", "the-cfo"), (3, "clerk", None)]
        with pytest.raises(agentrun.RunHeld):
            held.run()
        told = agentrun.as_text(agentrun.transcript("k"))
        assert "approved by the-cfo · database user clerk" in told
        decisions = [e for e in events("k") if e.event == "resolved"]
        assert {e.by for e in decisions} == {"clerk"}
    finally:
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute("DROP OWNED BY clerk; DROP ROLE clerk")


# -- in time ---------------------------------------------------------------------------------------


def test_an_approval_that_expired_is_no_refusal(
    db: Any, world: World, ask: Any, events: Events
) -> None:
    caught: list[str] = []

    @agentrun.tool(approve=True)
    def refund() -> str:
        world.act("refund")
        return "refunded"

    @agentrun.agent
    def support() -> str:
        try:
            return refund()
        except agentrun.ApprovalExpired as error:
            caught.append(str(error))
            return "too late"

    keyed = support.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    with pytest.raises(agentrun.ConfigError, match="no time zone"):
        agentrun.approve("k", 1, expires=datetime(2999, 1, 1))
    agentrun.approve("k", 1, expires=datetime.now(UTC) - timedelta(seconds=1))
    assert keyed.run() == keyed.run() == "too late"
    assert "the approval of refund expired" in caught[0]
    assert world.effects == []
    assert [e.status for e in events("k") if e.event == "resolved"] == ["expired"]


@pytest.mark.parametrize("where", ["here", "worker"])
def test_nobody_decided_in_time(db: Any, world: World, events: Events, where: str) -> None:
    @agentrun.tool(approve=True, approval_timeout=0.5)
    def refund() -> str:
        world.act("refund")
        return "refunded"

    @agentrun.agent
    def support() -> str:
        try:
            return refund()
        except agentrun.ToolFailed as error:
            return f"{type(error).__name__}: {error}"

    keyed = support.with_options(key="k", on_held="wait")
    if where == "here":
        told = keyed.run()
    else:
        with agentrun.Worker([keyed]):
            handle = keyed.submit()
            until(lambda: handle.status() == "done")
        told = handle.result()
    assert told == ("ApprovalExpired: nobody decided about refund within 0.5 s: it was not made")
    assert keyed.run() == told
    assert world.effects == []
    (decision,) = [e for e in events("k") if e.event == "resolved"]
    assert (decision.status, decision.by) == ("expired", "agentrun")


def test_an_approval_that_comes_too_late_counts_for_nothing(
    db: Any, world: World, events: Events
) -> None:
    @agentrun.tool(approve=True, approval_timeout=0.3)
    def refund() -> str:
        world.act("refund")
        return "refunded"

    @agentrun.agent
    def support() -> str:
        try:
            return refund()
        except agentrun.ApprovalExpired as error:
            return str(error)

    keyed = support.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    time.sleep(0.4)  # nobody executes the run, so nobody has said yet that it is too late
    agentrun.approve("k", 1)
    told = "nobody decided about refund within 0.3 s: it was not made"
    assert keyed.run() == keyed.run() == told
    assert world.effects == []
    assert [e.status for e in events("k") if e.event == "resolved"] == ["expired"]


# -- a transaction tool decides nothing ------------------------------------------------------------


@pytest.mark.parametrize(
    "first", ["", "RESET ALL;", "SET application_name = 'psql';", "DISCARD ALL;", "COMMIT;"]
)
def test_the_sql_of_a_tool_cannot_approve(
    db: Any, world: World, held: Any, sql: Any, first: str
) -> None:
    if first == "DISCARD ALL;":
        first = "COMMIT; DISCARD ALL;"

    @agentrun.tool(effect="transaction")
    def query(text: str) -> None:
        agentrun.current_step().connection.execute(text)

    @agentrun.agent
    def model() -> None:
        query(f"{first} SELECT agentrun.send('k', 'approve', 2, '{{}}', 'the-cfo')")

    with pytest.raises(agentrun.RunFailed):
        model.run()
    assert sql("SELECT * FROM agentrun.decided") == []
    assert len(waiting()) == 3


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", range(6))
def test_killed_between_a_letter_and_its_effect_the_call_is_made_once(
    db: Any, dsn: str, world: World, held: Any, events: Events, nth: int
) -> None:
    """At the nth commit after two approvals and a rejection were sent."""
    steps = {args["order"]: step for step, args in waiting().items()}
    agentrun.approve("k", steps["1"])
    agentrun.reject("k", steps["2"])
    agentrun.approve("k", steps["3"])

    def action() -> None:
        agentrun.connect(dsn)
        passed = iter(range(100))

        def strike(point: str) -> None:
            if point == "append:after" and next(passed) == nth:
                die()

        points.arm(strike)
        held.run()
        die()

    killed(action)
    for _ in range(3):
        try:
            held.run()
            break
        except (
            agentrun.RunHeld
        ):  # killed in the instant of an effect: that is in doubt, and no other
            for step in waiting("doubt"):
                done = f"refund {waiting('doubt')[step]['order']}" in world.effects
                agentrun.resolve("k", step, Happened("refunded") if done else NotHappened())
    assert sorted(world.effects) == ["email ann", "refund 1", "refund 3"]
    known = ("approved", "rejected")
    decided = [e.status for e in events("k") if e.event == "resolved" and e.status in known]
    assert sorted(decided) == ["approved", "approved", "rejected"]
