"""Runs that wait: sleeps, signals, approvals; in place, and parked in a worker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from crashing import World, die, die_recorded, killed, until

import agentrun
from agentrun.steps.execution_point import current_context
from agentrun.steps.run_context import RunContext
from agentrun.store.journal import Writer


def test_a_sleep_in_place_is_recorded(db: Any, events: Any) -> None:
    @agentrun.agent
    def nap() -> str:
        agentrun.sleep(0.05)
        return "awake"

    assert nap.with_options(key="k").run() == "awake"
    assert [e.name for e in events("k") if e.event == "step_finished"] == ["sleep"]


def test_a_crash_does_not_begin_a_sleep_anew(db: Any, dsn: str) -> None:
    crash = [True]

    @agentrun.agent
    def nap() -> str:
        if crash[0]:
            threading.Timer(0.3, die_recorded_in, (current_context(),)).start()
        agentrun.sleep(1.5)
        return "awake"

    def die_recorded_in(run: Any) -> None:
        from crashing import die

        die()

    def action() -> None:
        agentrun.connect(dsn)
        nap.with_options(key="k").run()

    killed(action)
    time.sleep(1.3)  # most of the night passes with nobody there
    crash[0] = False
    started = datetime.now(UTC)
    assert nap.with_options(key="k").run() == "awake"
    assert datetime.now(UTC) - started < timedelta(seconds=1.4)


def test_a_signal_is_received_once_and_in_order(db: Any) -> None:
    @agentrun.agent
    def hears() -> list[Any]:
        return [agentrun.receive("word"), agentrun.receive("word")]

    keyed = hears.with_options(key="k")
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(keyed.run()))
    thread.start()
    until(lambda: bool(db.query("run", key="k")))
    for word in ("first", {"second": 2}):
        agentrun.send("k", "word", word)
    thread.join()
    assert results == [["first", {"second": 2}]]
    assert keyed.run() == ["first", {"second": 2}]


def test_a_signal_that_was_received_before_a_kill_is_not_received_again(
    db: Any, dsn: str, tmp_path: Path
) -> None:
    dies = tmp_path / "dies"
    dies.touch()

    @agentrun.agent
    def hears() -> list[Any]:
        first = agentrun.receive("word")
        if dies.exists():
            die_recorded()
        return [first, agentrun.receive("word")]

    keyed = hears.with_options(key="k")
    keyed.submit()
    agentrun.send("k", "word", "first")
    killed(lambda: (agentrun.connect(dsn), keyed.run()))
    dies.unlink()
    agentrun.send("k", "word", "second")
    assert keyed.run() == ["first", "second"]


def test_of_two_threads_one_receives_a_signal(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen it when the first one takes it."""
    seen, look = threading.Barrier(2), RunContext.letters

    def slowly(run: RunContext, ident: str) -> Any:
        found = yield from look(run, ident)
        if found:
            with contextlib.suppress(threading.BrokenBarrierError):
                seen.wait(1.0)
        return found

    @agentrun.agent
    def run() -> list[Any]:
        def one() -> Any:
            try:
                return agentrun.receive("go", timeout=4)
            except TimeoutError:
                return "none"

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return sorted(one.result() for one in [pool.submit(one) for _ in range(2)])

    keyed = run.with_options(key="k")
    keyed.submit()
    agentrun.send("k", "go", "it")
    monkeypatch.setattr(RunContext, "letters", slowly)
    assert keyed.run() == ["it", "none"]


def test_a_signal_that_was_read_is_not_lost_in_a_crash(
    db: Any, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies as soon as it is on disk that the letter was read."""
    append = Writer.append

    def append_and_die(self: Writer, tail: Any, events: Any) -> Any:
        events = list(events)
        done = append(self, tail, events)
        if any(event.event == "received" for event in events):
            self.wait(done)
            die()
        return done

    @agentrun.agent
    def hears() -> Any:
        return agentrun.receive("word", timeout=1.0)

    keyed = hears.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run()

    keyed.submit()
    agentrun.send("k", "word", "heard")
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "append", append_and_die)
        killed(action)
    assert keyed.run() == "heard"


def test_no_signal_in_time_is_a_timeout_also_on_resume(db: Any) -> None:
    crash = True

    @agentrun.agent
    def hears() -> str:
        try:
            agentrun.receive("never", timeout=0.05)
        except TimeoutError as error:
            if crash:
                raise SystemExit from None
            return str(error)
        return ""

    keyed = hears.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    assert "never" in keyed.run()


def test_receive_outside_a_run_is_refused() -> None:
    with pytest.raises(agentrun.ConfigError, match="outside a run"):
        agentrun.receive("word")


# -- approvals -----------------------------------------------------------------------------------


def refunds(world: World, **options: Any) -> Any:
    @agentrun.tool(approve=lambda order, cents: cents > 100, **options)
    def refund(order: str, cents: int) -> str:
        world.act(f"{order} {cents}")
        return f"{cents} refunded"

    @agentrun.agent
    def support(cents: int) -> str:
        try:
            return refund("7", cents)
        except agentrun.ToolFailed as error:
            return f"told: {error}"

    return support.with_options(key="k")


def test_a_call_waits_for_its_approval(db: Any, world: World, sql: Any) -> None:
    agent = refunds(world)
    for _ in range(2):
        with pytest.raises(agentrun.RunHeld, match="agentrun inbox k"):
            agent.run(500)
    assert world.effects == []
    ((step, name, args),) = sql("SELECT step, name, args FROM agentrun.inbox")
    assert (step, name, args) == (1, "refund", {"order": "7", "cents": 500})
    agentrun.approve("k", 1, by="ada", reason="a good customer")
    assert sql("SELECT * FROM agentrun.inbox") == []
    assert agent.run(500) == "500 refunded"
    assert world.effects == ["7 500"]
    told = agentrun.as_text(agentrun.transcript("k"))
    assert "approved by ada · a good customer" in told
    assert "in doubt:" not in told
    assert sql("SELECT in_doubt FROM agentrun.resumes") == [(0,)] * told.count("resumed by")


def test_the_inbox_lists_what_waits_in_one_run_or_in_all(db: Any, world: World) -> None:
    agents = {key: refunds(world).with_options(key=key) for key in ("a", "b")}
    for agent in agents.values():
        with pytest.raises(agentrun.RunHeld):
            agent.run(500)
    assert [one.key for one in agentrun.inbox()] == ["a", "b"]
    (waiting,) = agentrun.inbox("b")
    assert (waiting.agent, waiting.step, waiting.waits_for) == ("support", 1, "decision")
    assert (waiting.name, waiting.args) == ("refund", {"order": "7", "cents": 500})
    agentrun.approve(waiting.key, waiting.step)
    assert agentrun.inbox("b") == []
    assert [one.key for one in agentrun.inbox()] == ["a"]


def test_a_call_below_the_predicate_needs_none(db: Any, world: World) -> None:
    assert refunds(world).run(50) == "50 refunded"


def test_a_rejection_is_told(db: Any, world: World) -> None:
    agent = refunds(world)
    with pytest.raises(agentrun.RunHeld):
        agent.run(500)
    agentrun.reject("k", 1, by="ada", reason="too much")
    assert agent.run(500) == "told: refund was not approved by ada: too much"
    assert agent.run(500) == "told: refund was not approved by ada: too much"
    assert world.effects == []


def test_edited_arguments_are_recorded_beside_the_original(
    db: Any, world: World, events: Any
) -> None:
    agent = refunds(world)
    with pytest.raises(agentrun.RunHeld):
        agent.run(500)
    agentrun.approve("k", 1, by="ada", arguments={"order": "7", "cents": 200})
    assert agent.run(500) == "200 refunded"
    (decision,) = [e for e in events("k") if e.event == "resolved"]
    assert decision.output == {
        "original": {"order": "7", "cents": 500}, "approved": {"order": "7", "cents": 200},
        "claimed_by": "ada",
    }  # fmt: skip


@pytest.mark.parametrize("edited", [{"what": 1}, {"nope": 1}])
def test_edited_arguments_that_do_not_fit_are_the_steps_error(
    db: Any, edited: dict[str, Any], events: Any
) -> None:
    acted: list[str] = []

    @agentrun.tool(approve=True)
    def act(what: str) -> None:
        acted.append(what)

    @agentrun.agent
    def run() -> str:
        with pytest.raises(agentrun.ToolFailed, match="not valid") as failed:
            act("this")
        return str(failed.value)

    keyed = run.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    agentrun.approve("k", 1, arguments=edited)
    assert keyed.run() == keyed.run()
    assert acted == []
    assert [e.status for e in events("k") if e.event == "step_finished"] == ["error"]


def test_arguments_edited_away_stay_away_on_resume(db: Any) -> None:
    acted: list[str] = []
    crash = True

    @agentrun.tool(approve=True, effect="idempotent")
    def act(what: str = "nothing") -> None:
        acted.append(what)
        if crash:
            raise SystemExit

    @agentrun.agent
    def run() -> None:
        act("everything")

    keyed = run.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    agentrun.approve("k", 1, arguments={})
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    keyed.run()
    assert acted == ["nothing", "nothing"]


def test_what_does_not_wait_cannot_be_approved(db: Any, world: World) -> None:
    refunds(world).run(50)
    with pytest.raises(agentrun.RunError, match="does not wait"):
        agentrun.approve("k", 1)


def test_an_approval_in_a_transaction_tool(db: Any, sql: Any) -> None:
    with db.connection() as conn:
        conn.execute("CREATE TABLE counted (n int)")

    @agentrun.tool(effect="transaction", approve=True)
    def insert(n: int) -> int:
        agentrun.current_step().connection.execute("INSERT INTO counted VALUES (%s)", (n,))
        return n

    @agentrun.agent
    def run() -> int:
        return insert(1)

    keyed = run.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    assert sql("SELECT count(*) FROM counted") == [(0,)]
    agentrun.approve("k", 1)
    assert keyed.run() == 1
    assert sql("SELECT count(*) FROM counted") == [(1,)]


# -- children --------------------------------------------------------------------------------------


def test_an_agent_inside_a_run_is_a_child_run(db: Any, dsn: str, world: World) -> None:
    crash = [True]

    @agentrun.tool
    def act(n: int) -> int:
        world.act(str(n))
        return n

    @agentrun.agent
    def inner(n: int) -> int:
        return act(n) * 10

    @agentrun.agent
    def outer() -> int:
        total = inner(1) + inner.run(2)
        if crash[0]:
            die_recorded()
        return total + inner(3)

    def action() -> None:
        agentrun.connect(dsn)
        outer.with_options(key="k").run()

    killed(action)
    crash[0] = False
    assert outer.with_options(key="k").run() == 60
    assert world.effects == ["1", "2", "3"]
    assert [agentrun.get(f"k/{n}").status() for n in (1, 2, 3)] == ["done"] * 3


def test_a_run_whose_child_waits_for_a_person_does_not_wait_in_place(db: Any, world: World) -> None:
    inner = refunds(world).with_options(key="inner")

    @agentrun.agent
    def outer() -> str:
        return f"inner: {inner(500)}"

    agent = outer.with_options(key="outer")
    for _ in range(2):
        with pytest.raises(agentrun.RunHeld, match=r"its child: .* `agentrun inbox inner`"):
            agent.run()
        assert agentrun.get("outer").status() == "waiting"
    agentrun.approve("inner", 1, by="ada")
    assert agent.run() == "inner: 500 refunded"
    assert world.effects == ["7 500"]


@pytest.mark.parametrize("where", ["here", "worker"])
def test_within_a_tool_a_child_waits_for_its_person_in_place(
    db: Any, world: World, where: str
) -> None:
    """No tool can park; and the only slot of a worker is its parent's."""
    inner = refunds(world).with_options(key="inner")

    @agentrun.tool
    def ask() -> str:
        return f"inner: {inner(500)}"

    @agentrun.agent
    def outer() -> str:
        return f"tool: {ask()}"

    agent = outer.with_options(key="outer")

    def go() -> str:
        if where == "here":
            return agent.run()
        with agentrun.Worker([agent, inner], concurrency=1):
            return agent.submit().result(timeout=60)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        result = pool.submit(go)
        until(lambda: any(asked.key == "inner" for asked in agentrun.inbox()))
        agentrun.approve("inner", 1, by="ada")
        assert result.result(timeout=60) == "tool: inner: 500 refunded"
    assert world.effects == ["7 500"]


def test_a_run_that_waits_for_people_does_so_for_its_children(db: Any, world: World) -> None:
    inner = refunds(world).with_options(key="inner")

    @agentrun.agent
    async def outer() -> list[str]:
        return await asyncio.gather(asyncio.to_thread(inner, 500), anap())

    async def anap() -> str:
        await agentrun.asleep(0.1)
        return "slept"

    def asks(key: str) -> bool:
        return any(asked.key == key for asked in agentrun.inbox())

    def approve() -> None:
        until(lambda: asks("inner"))
        agentrun.approve("inner", 1, by="ada")

    with concurrent.futures.ThreadPoolExecutor() as pool:
        approved = pool.submit(approve)
        agent = outer.with_options(key="outer", on_held="wait")
        assert agent.run() == ["500 refunded", "slept"]
        approved.result()
    assert world.effects == ["7 500"]


def test_children_are_gathered(db: Any, world: World) -> None:
    @agentrun.tool
    async def act(n: int) -> int:
        await asyncio.sleep(0.01)
        world.act(str(n))
        return n

    @agentrun.agent
    async def inner(n: int) -> int:
        return await act(n)

    @agentrun.agent
    async def outer() -> int:
        return sum(await asyncio.gather(*(inner(n) for n in range(5))))

    assert outer.run() == 10
    assert len(world.effects) == 5


def test_a_childs_failure_is_the_parents_to_handle(db: Any) -> None:
    @agentrun.agent
    def inner() -> None:
        raise ValueError("no")

    @agentrun.agent
    def outer() -> str:
        try:
            inner()
        except ValueError as error:
            return f"handled {error}"
        return ""

    assert outer.run() == "handled no"


def test_a_run_is_cancelled_with_its_children(db: Any, world: World) -> None:
    @agentrun.agent
    def inner() -> None:
        agentrun.receive("never")

    @agentrun.agent
    def outer() -> None:
        inner()

    keyed = outer.with_options(key="k")
    failures: list[BaseException] = []

    def execute() -> None:
        try:
            keyed.run()
        except agentrun.RunError as error:
            failures.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    until(lambda: bool(db.query("run", key="k/1")))
    agentrun.cancel("k", by="ada", reason="changed her mind")
    thread.join(30)
    assert "changed her mind" in str(failures[0])
    assert [agentrun.get(key).status() for key in ("k", "k/1")] == ["cancelled"] * 2
    with pytest.raises(agentrun.RunError, match="cancelled already"):
        agentrun.cancel("k")
