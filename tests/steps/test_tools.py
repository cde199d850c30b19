"""Tools: plain outside a run; inside recorded, retried, timed, settled by effect class."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import agentrun


def test_outside_a_run_a_tool_is_the_plain_function() -> None:
    @agentrun.tool
    def add(a: int, b: int = 2, idempotency_key: str = "") -> int:
        assert idempotency_key == ""
        return a + b

    assert add(1) == 3


def test_inside_a_run_the_key_is_filled_in_and_stays_the_same(db: Any) -> None:
    seen: list[tuple[str, int]] = []

    @agentrun.tool(effect="idempotent", retries=2)
    def act(idempotency_key: str = "") -> str:
        step = agentrun.current_step()
        assert step.key == idempotency_key
        seen.append((idempotency_key, step.attempt))
        if len(seen) < 3:
            raise OSError("try again")
        return idempotency_key

    @agentrun.agent
    def run() -> str:
        return act()

    key = run.run()
    assert seen == [(key, 1), (key, 2), (key, 3)]


def test_retries_are_recorded_attempts_and_then_the_error_is_the_outcome(
    db: Any, events: Any
) -> None:
    @agentrun.tool(effect="idempotent", retries=1)
    def broken() -> None:
        raise OSError("down")

    @agentrun.agent
    def run() -> str:
        try:
            broken()
        except OSError as error:
            return str(error)
        return ""

    assert run.with_options(key="k").run() == "down"
    assert [e.event for e in events("k") if e.step] == [
        "attempt_started", "attempt_failed", "attempt_started", "step_finished",
    ]  # fmt: skip


def test_a_read_step_has_no_intent(db: Any, events: Any) -> None:
    @agentrun.tool(effect="read")
    def look() -> int:
        return 1

    @agentrun.agent
    def run() -> int:
        return look()

    run.with_options(key="k").run()
    assert [e.event for e in events("k") if e.step] == ["step_finished"]


def test_invalid_arguments_have_no_effect(db: Any, events: Any) -> None:
    @agentrun.tool
    def pay(cents: int) -> int:
        raise AssertionError("called")

    @agentrun.agent
    def run() -> str:
        try:
            pay("many")  # type: ignore[arg-type]
        except agentrun.ToolFailed as error:
            return str(error)
        return ""

    assert "cents" in run.with_options(key="k").run()
    assert not [e for e in events("k") if e.step]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"effect": "twice"}, "choose one of"),
        ({"effect": "once", "retries": 1}, "a failed call may have taken effect"),
        ({"effect": "once", "timeout": 1.0}, "cannot be stopped"),
        ({"effect": "transaction", "timeout": 1.0}, "statement_timeout"),
        ({"on_doubt": "panic"}, "choose one of"),
        ({"retries": -1, "effect": "read"}, "0 or more"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(agentrun.ConfigError, match=match):

        @agentrun.tool(**options)
        def any_tool() -> None: ...


def test_var_arguments_are_refused() -> None:
    with pytest.raises(agentrun.ConfigError, match=r"takes \*rest"):

        @agentrun.tool
        def loose(*rest: int) -> None: ...


def test_a_sync_idempotent_tool_times_out_and_is_retried(db: Any) -> None:
    release = threading.Event()
    calls: list[int] = []

    @agentrun.tool(effect="idempotent", timeout=0.2, retries=1)
    def slow() -> str:
        calls.append(1)
        if len(calls) == 1:
            release.wait(10)
        return "done"

    @agentrun.agent
    def run() -> str:
        return slow()

    assert run.run() == "done"
    release.set()


def test_an_async_once_tool_that_times_out_is_in_doubt(db: Any) -> None:
    @agentrun.tool(timeout=0.1)
    async def slow() -> None:
        await asyncio.sleep(30)

    @agentrun.agent
    async def run() -> None:
        await slow()

    with pytest.raises(agentrun.RunHeld) as held:
        run.with_options(key="k").run()
    assert held.value.step == 1
    assert agentrun.get("k").status() == "held"


def test_current_step_has_a_connection_only_in_transactions(db: Any) -> None:
    @agentrun.tool
    def nosy() -> str:
        try:
            agentrun.current_step().connection  # noqa: B018
        except agentrun.ConfigError as error:
            return str(error)
        return ""

    @agentrun.agent
    def run() -> str:
        return nosy()

    assert "transaction" in run.run()


# -- transactions -----------------------------------------------------------------------------


@agentrun.tool(effect="transaction")
def add_row(n: int) -> int:
    connection = agentrun.current_step().connection
    connection.execute("INSERT INTO counted VALUES (%s)", (n,))
    return int(connection.execute("SELECT count(*) FROM counted").fetchone()[0])


@pytest.fixture
def counted(sql: Any) -> Any:
    sql_run = sql
    with pytest.raises(Exception):  # noqa: B017, PT011 - DDL returns no rows
        sql_run("CREATE TABLE counted (n int)")
    return lambda: sql_run("SELECT count(*) FROM counted")[0][0]


def test_a_transaction_commits_with_its_checkpoint(db: Any, counted: Any, events: Any) -> None:
    @agentrun.agent
    def run() -> list[int]:
        return [add_row(1), add_row(2)]

    assert run.with_options(key="k").run() == [1, 2]
    assert counted() == 2
    assert [e.event for e in events("k") if e.step] == ["step_finished"] * 2


def test_a_transaction_that_raises_leaves_nothing(db: Any, counted: Any) -> None:
    @agentrun.tool(effect="transaction")
    def half() -> None:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (1)")
        raise ValueError("no")

    @agentrun.agent
    def run() -> None:
        half()

    with pytest.raises(agentrun.RunFailed, match="no"):
        run.run()
    assert counted() == 0


def test_a_transaction_must_not_commit_by_itself(db: Any, counted: Any) -> None:
    @agentrun.tool(effect="transaction")
    def eager() -> None:
        connection = agentrun.current_step().connection
        connection.execute("INSERT INTO counted VALUES (1)")
        connection.commit()

    @agentrun.agent
    def run() -> None:
        eager()

    with pytest.raises(agentrun.RunFailed, match="must not commit"):
        run.run()
    assert counted() == 0


def test_a_serialization_failure_reruns_the_body_whole(db: Any, counted: Any, dsn: str) -> None:
    import psycopg

    bodies: list[int] = []

    @agentrun.tool(effect="transaction")
    def contended() -> int:
        connection = agentrun.current_step().connection
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT * FROM counted").fetchall()
        bodies.append(1)
        if len(bodies) == 1:
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute("UPDATE counted SET n = n + 1")
        connection.execute("UPDATE counted SET n = n + 10")
        return len(bodies)

    @agentrun.agent
    def run() -> int:
        add_row(0)
        return contended()

    assert run.run() == 2


def test_an_async_transaction(db: Any, counted: Any) -> None:
    @agentrun.tool(effect="transaction")
    async def insert() -> str:
        connection = agentrun.current_step().connection
        await connection.execute("INSERT INTO counted VALUES (1)")
        return "in"

    @agentrun.agent
    async def run() -> str:
        return await insert()

    assert run.run() == "in"
    assert counted() == 1


def test_steps_beside_a_transaction_wait_for_its_seq(db: Any, counted: Any) -> None:
    """While a transaction has taken a seq, other branches of the run go on after it."""

    @agentrun.tool(effect="transaction")
    async def insert(n: int) -> int:
        connection = agentrun.current_step().connection
        await connection.execute("INSERT INTO counted VALUES (%s)", (n,))
        await asyncio.sleep(0.02)
        return n

    @agentrun.tool(effect="idempotent")
    async def act(n: int) -> int:
        await asyncio.sleep(0.001 * n)
        return n

    @agentrun.agent
    async def run() -> int:
        results = await asyncio.gather(*(insert(n) for n in range(5)), *(act(n) for n in range(30)))
        return sum(results)

    assert run.run() == sum(range(5)) + sum(range(30))
    assert counted() == 5


# -- one-off steps -------------------------------------------------------------------------------


def test_step_records_any_function(db: Any) -> None:
    calls: list[int] = []
    crash = True

    def fetch(n: int) -> int:
        calls.append(n)
        return n * 2

    @agentrun.agent
    def run() -> int:
        value = agentrun.step(fetch)(21)
        if crash:
            raise SystemExit
        return value

    keyed = run.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    assert keyed.run() == 42
    assert calls == [21]


def test_a_function_without_a_signature_is_refused_and_a_lambda_takes_it(db: Any) -> None:
    with pytest.raises(agentrun.ConfigError, match=r"iter has no signature.*or a lambda"):
        agentrun.step(iter)

    @agentrun.agent
    def count_letters() -> int:
        return agentrun.step(lambda text: len(list(iter(text))), name="letters")("abc")

    assert count_letters.run() == 3


def test_a_step_inside_a_tool_is_a_step_of_its_own(db: Any, events: Any) -> None:
    @agentrun.step(effect="idempotent")
    def inner(n: int) -> int:
        return n

    @agentrun.tool(effect="idempotent")
    def outer() -> int:
        return inner(1) + inner(2)

    @agentrun.agent
    def run() -> int:
        return outer()

    assert run.with_options(key="k").run() == 3
    finished = [(e.ident, e.status) for e in events("k") if e.event == "step_finished"]
    assert finished == [("1>1", "ok"), ("1>2", "ok"), ("1", "ok")]


def test_no_step_waits_for_a_commit_of_its_outcome_alone(db: Any, sql: Any) -> None:
    """The outcome of a step and the intent of the next share a commit."""

    @agentrun.tool
    def act(n: int) -> int:
        return n

    @agentrun.agent
    def run() -> None:
        for n in range(50):
            act(n)

    started = time.monotonic()
    run.with_options(key="k").run()
    assert time.monotonic() > started
    ((batches,),) = sql("SELECT count(DISTINCT batch) FROM agentrun.journal WHERE step IS NOT NULL")
    assert batches < 100


def test_threads_of_a_body_know_its_step(db: Any) -> None:
    keys: list[str] = []

    def note() -> None:
        keys.append(agentrun.current_step().key)

    @agentrun.tool(effect="idempotent")
    def act() -> None:
        note()
        thread = threading.Thread(target=note)
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(note).result()

    @agentrun.agent
    def run() -> None:
        act()

    run.run()
    (key,) = set(keys)
    assert key
    assert len(keys) == 3
