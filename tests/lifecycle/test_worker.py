"""A worker in this process: taking runs, parking those that wait, priorities, queues, results."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import pytest
from crashing import die_recorded, killed, until
from proxy import Fault, FaultProxy

import agentrun
from agentrun.core import points
from agentrun.lifecycle import worker
from agentrun.store.runs import find_run
from agentrun.store.values import read_events


@agentrun.agent
def double(n: int) -> int:
    return n * 2


def test_submitted_runs_are_executed(db: Any) -> None:
    handles = [double.submit(n) for n in range(20)]
    assert handles[0].status() == "queued"
    with agentrun.Worker([double], concurrency=4):
        assert [handle.result(timeout=30) for handle in handles] == [n * 2 for n in range(20)]


def test_a_run_that_was_claimed_again_and_again_for_nothing_is_parked(db: Any, dsn: str) -> None:
    executed: list[int] = []

    @agentrun.agent
    def poison() -> None:
        executed.append(1)

    handle = poison.with_options(key="bad").submit()
    for _ in range(5):
        assert db.claim(find_run(db, "bad"), "a test") is not None
    with db.connection() as conn:
        conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone'")
    with (
        agentrun.connect(dsn) as another,
        agentrun.Worker([poison], database=another),
        pytest.raises(agentrun.RunHeld, match="5 claims in a row recorded no step"),
    ):
        handle.result(timeout=60)
    with agentrun.connect(dsn):
        agentrun.send("bad", "whatever")
        for _ in range(2):
            with pytest.raises(agentrun.RunHeld, match="5 claims in a row recorded no step"):
                poison.with_options(key="bad").run()
        assert executed == []
        assert agentrun.resume("bad") is None
    assert executed == [1]


def test_the_steps_of_a_child_run_are_steps_forward_of_its_parent(db: Any, dsn: str) -> None:
    crashes = [1, 3, 5, 7, 9, 11]

    @agentrun.step(effect="idempotent")
    def act(n: int) -> int:
        return n

    @agentrun.agent
    def inner() -> int:
        for n in range(12):
            act(n)
            if crashes and n == crashes[0]:
                die_recorded()
        return 12

    @agentrun.agent
    def outer() -> int:
        return inner()

    def work() -> None:
        with agentrun.connect(dsn), agentrun.Worker([outer]):
            threading.Event().wait(60)

    handle = outer.submit()
    while crashes:
        killed(work)
        crashes.pop(0)
    with agentrun.Worker([outer]):
        assert handle.result(timeout=60) == 12


def test_runs_that_may_crash_their_workers_are_tried_one_at_a_time(
    db: Any, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that died with a poison have as many claims for nothing: they are not parked, too."""
    begun: list[int] = []
    step, leave = threading.Event(), threading.Event()
    sweeps: list[str] = []

    @agentrun.tool
    def act() -> None:
        step.wait(30)

    @agentrun.agent
    def suspect(n: int) -> int:
        begun.append(n)
        act()
        assert n or leave.wait(30)
        return n

    handles = [suspect.with_options(key=f"k{n}").submit(n) for n in range(3)]
    for n in range(3):
        for _ in range(2):
            assert db.claim(find_run(db, f"k{n}"), "a test") is not None
    with db.connection() as conn:
        conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone'")
    monkeypatch.setattr(worker, "SWEEP", 0.0)
    points.arm(lambda point: sweeps.append(point) if point == "overlooked:after" else None)
    try:
        with agentrun.connect(dsn) as another, agentrun.Worker([suspect], database=another):
            until(lambda: begun and len(sweeps) > 3)
            assert begun == [0], "tried together, the one takes the others with it"
            step.set()
            assert [handle.result(timeout=30) for handle in handles[1:]] == [1, 2]
            assert handles[0].status() == "running", "one step forward is enough"
            leave.set()
            assert handles[0].result(timeout=30) == 0
    finally:
        points.arm(None)


def test_runs_that_wait_for_their_trial_hide_none_behind_them(db: Any, dsn: str) -> None:
    leave = threading.Event()

    @agentrun.agent
    def suspect() -> None:
        leave.wait(30)

    waiting = [suspect.with_options(key=f"k{n}").submit() for n in range(4)]
    handle = double.with_options(key="fine").submit(2)
    for key in [one.key for one in waiting] * 2 + [handle.key]:
        assert db.claim(find_run(db, key), "a test") is not None
    with db.connection() as conn:
        conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone'")
    with (
        agentrun.connect(dsn) as another,
        agentrun.Worker([suspect, double], database=another, concurrency=2),
    ):
        try:
            assert handle.result(timeout=30) == 4
        finally:
            leave.set()
        assert [one.result(timeout=30) for one in waiting] == [None] * 4


def test_async_agents_share_a_loop(db: Any) -> None:
    running: list[int] = []

    @agentrun.agent
    async def together(n: int) -> int:
        running.append(n)
        while len(running) < 10:
            await asyncio.sleep(0.001)
        return n

    async def main() -> list[int]:
        handles = [await together.asubmit(n) for n in range(10)]
        async with agentrun.Worker([together], concurrency=10):
            return [await handle.aresult(timeout=30) for handle in handles]

    assert asyncio.run(main()) == list(range(10))


@pytest.mark.direct("nobody listens through a pooler")
@pytest.mark.usefixtures("impatient")
def test_a_worker_whose_listening_connection_fell_silent_stops_all_the_same(dsn: str) -> None:
    with FaultProxy(dsn) as proxy, agentrun.connect(proxy.dsn):
        proxy.arm(Fault.STALL, b"LISTEN", answer=True)
        worker = agentrun.Worker([double]).start()
        assert proxy.struck.wait(30)
        stopping = threading.Thread(target=worker.stop, daemon=True)
        stopping.start()
        stopping.join(30)
        assert not stopping.is_alive(), "it hangs"


@pytest.mark.usefixtures("impatient")
def test_runs_whose_claim_was_not_answered_are_taken_all_the_same(dsn: str) -> None:
    with FaultProxy(dsn) as proxy, agentrun.connect(proxy.dsn):
        handles = [double.submit(n) for n in range(3)]
        proxy.arm(Fault.CUT_BEFORE, b"SKIP LOCKED", answer=True)
        with agentrun.Worker([double]):
            assert [handle.result(timeout=60) for handle in handles] == [0, 2, 4]
        assert proxy.struck.is_set()


def test_a_run_whose_journal_cannot_be_read_is_parked_while_others_go_on(db: Any) -> None:
    handles = [double.with_options(key=f"k{n}").submit(n) for n in range(3)]
    with db.connection() as conn, conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")  # past the append-only trigger
        damaged = '{"$ref": "lost"}'
        conn.execute(
            "UPDATE agentrun.journal SET codec = 16, input = %s WHERE key = 'k0'", [damaged]
        )
    with agentrun.Worker([double]):
        assert [handle.result(timeout=30) for handle in handles[1:]] == [2, 4]
        until(lambda: handles[0].status() == "held")
    with pytest.raises(agentrun.RunHeld, match="cannot be taken up: a shared value"):
        handles[0].result()


def test_waiting_runs_hold_no_slot(db: Any) -> None:
    @agentrun.agent
    def waits(n: int) -> Any:
        return [agentrun.receive("go"), agentrun.sleep(0.05), n]

    handles = [waits.with_options(key=f"k{n}").submit(n) for n in range(5)]
    with agentrun.Worker([waits, double], concurrency=1):
        until(lambda: all(handle.status() == "waiting" for handle in handles))
        assert double.submit(2).result(timeout=30) == 4
        for handle in handles:
            agentrun.send(handle.key, "go", handle.key)
        assert [h.result(timeout=30) for h in handles] == [[f"k{n}", None, n] for n in range(5)]


def test_a_sleeping_line_does_not_stop_its_sibling(db: Any) -> None:
    @agentrun.tool
    async def act(n: int) -> int:
        await asyncio.sleep(0.02)
        return n

    async def works() -> int:
        return sum([await act(n) for n in range(10)])

    @agentrun.agent
    async def both() -> int:
        _, total = await asyncio.gather(agentrun.asleep(0.4), works())
        return total

    handle = both.with_options(key="k").submit()
    with agentrun.Worker([both]):
        assert handle.result(timeout=30) == 45
    steps = agentrun.transcript("k").steps
    assert all(len(step.attempts) == 1 for step in steps if step.name == "act")


def test_priority_queue_and_delay(db: Any) -> None:
    order: list[str] = []

    @agentrun.agent
    def note(name: str) -> None:
        order.append(name)

    late = note.with_options(delay=0.6).submit("late")
    handles = [
        note.submit("low"),
        note.with_options(priority=5).submit("high"),
        note.with_options(queue="elsewhere").submit("never"),
    ]
    with agentrun.Worker([note], concurrency=1):
        late.result(timeout=30)
    assert order == ["high", "low", "late"]
    assert handles[2].status() == "queued"


def test_a_child_run_that_waits_lets_its_parent_wait(db: Any) -> None:
    @agentrun.agent
    def inner() -> str:
        return str(agentrun.receive("go"))

    @agentrun.agent
    def outer() -> str:
        return "heard " + inner()

    handle = outer.with_options(key="k").submit()
    with agentrun.Worker([outer, inner], concurrency=1):
        until(lambda: handle.status() == "waiting")
        agentrun.send("k/1", "go", "it")
        assert handle.result(timeout=30) == "heard it"


def test_a_worker_stops_once_a_child_run_within_a_tool_has_ended(db: Any) -> None:
    """The tool is in flight, the child a part of it: handed back, nobody would end either."""
    began, go = threading.Event(), threading.Event()

    @agentrun.tool(effect="read")
    def act(n: int) -> int:
        began.set()
        assert go.wait(30)
        return n

    @agentrun.agent
    def innermost() -> int:
        return act(1) + act(2)

    @agentrun.agent
    def inner() -> int:
        return innermost()

    @agentrun.tool
    def ask() -> int:
        return inner()

    @agentrun.agent
    def outer() -> int:
        return ask()

    handle = outer.submit()
    working = agentrun.Worker([outer]).start()
    assert began.wait(30)
    stopping = threading.Thread(target=working.stop, daemon=True)
    stopping.start()
    until(lambda: db.active[find_run(db, handle.key).run_id].draining)
    go.set()
    stopping.join(30)
    assert not stopping.is_alive(), "it hangs"
    assert handle.result(timeout=0) == 3


def test_a_result_that_does_not_come_says_why(db: Any) -> None:
    with pytest.raises(TimeoutError, match="no live worker knows agent 'double'"):
        double.submit(1).result(timeout=0.05)


def test_a_result_warns_once_that_nobody_knows_the_agent(db: Any) -> None:
    handle = double.with_options(key="k").submit(1)
    told = "run 'k' waits: no live worker knows agent 'double': start one with `agentrun worker"
    with pytest.warns(agentrun.NoWorkerWarning, match=told) as given, pytest.raises(TimeoutError):
        handle.result(timeout=3)
    assert len([one for one in given if one.category is agentrun.NoWorkerWarning]) == 1
    with agentrun.Worker([double]):
        assert handle.result(timeout=30) == 2


def test_a_decision_warns_that_nobody_goes_on_and_how_the_run_does(db: Any) -> None:
    @agentrun.tool(approve=True)
    def pay() -> int:
        return 5

    @agentrun.agent
    def payer() -> int:
        return pay()

    keyed = payer.with_options(key="k")
    with pytest.raises(agentrun.RunHeld):
        keyed.run()
    with pytest.warns(agentrun.NoWorkerWarning, match="FILE`, or run your program again"):
        agentrun.approve("k", 1)
    assert keyed.run() == 5


def test_the_card_says_what_a_process_executes_by_now(db: Any) -> None:
    double.with_options(key="k", queue="other").submit(1)  # nobody takes it

    def alive() -> int:
        (row,) = db.query("servers", key="k")
        return int(row["knowing"])

    with agentrun.Worker([double]):
        until(lambda: alive() == 1)
        with db.connection() as conn:
            conn.execute("DELETE FROM agentrun.workers")  # as on a server that lagged behind
        until(lambda: alive() == 1)
    assert alive() == 0, "the process goes on, and executes nothing any more"


def test_a_result_waits_on_once_a_person_has_decided(db: Any) -> None:
    @agentrun.tool(approve=True)
    def pay(cents: int) -> int:
        return cents

    @agentrun.agent
    def clerk(cents: int) -> int:
        return pay(cents)

    handle = clerk.with_options(key="k").submit(5)
    with agentrun.Worker([clerk]), pytest.raises(agentrun.RunHeld):
        handle.result(timeout=30)
    agentrun.approve("k", 1)
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.05)
    with agentrun.Worker([clerk]):
        assert handle.result(timeout=30) == 5


def test_a_failed_run_raises_at_the_handle(db: Any) -> None:
    @agentrun.agent
    def broken() -> None:
        raise ValueError("no")

    with agentrun.Worker([broken]), pytest.raises(agentrun.RunFailed, match="no") as failure:
        broken.submit().result(timeout=30)
    assert isinstance(failure.value.__cause__, ValueError)


def test_a_cancelled_run_stops_in_its_worker(db: Any) -> None:
    began = threading.Event()

    @agentrun.agent
    async def endless() -> None:
        began.set()
        await asyncio.sleep(3600)

    handle = endless.submit()
    with agentrun.Worker([endless]):
        assert began.wait(30)
        agentrun.cancel(handle.key)
        with pytest.raises(agentrun.RunError, match="cancelled"):
            handle.result(timeout=30)


def test_leaving_the_worker_hands_runs_back(db: Any) -> None:
    began = threading.Event()
    go = threading.Event()

    @agentrun.step
    def wait() -> None:
        began.set()
        go.wait(30)

    @agentrun.agent
    def long() -> str:
        wait()
        wait()
        return "done"

    handle = long.submit()
    with agentrun.Worker([long]):
        assert began.wait(30)
        threading.Timer(0.1, go.set).start()
    assert handle.status() == "queued"
    with agentrun.Worker([long]):
        assert handle.result(timeout=30) == "done"


def test_leaving_one_worker_leaves_the_rest_of_the_process_alone(db: Any) -> None:
    """Neither the runs that others execute here nor the agents that they serve."""
    began, go = threading.Event(), threading.Event()

    @agentrun.agent
    def long() -> str:
        began.set()
        assert go.wait(30)
        return agentrun.step(lambda: "done", name="last")()

    @agentrun.agent
    def other() -> None: ...

    def cards() -> Any:
        with db.connection() as conn:
            rows = conn.execute("SELECT agents FROM agentrun.workers").fetchall()
        return [row["agents"] for row in rows]

    with concurrent.futures.ThreadPoolExecutor() as pool, agentrun.Worker([double]):
        with agentrun.Worker([other]):
            until(lambda: cards() == [["double", "other"]])
            ran = pool.submit(long.with_options(key="ran").run)
            assert began.wait(30)
        until(lambda: cards() == [["double"]])
        go.set()
        assert ran.result(timeout=30) == "done"


@pytest.mark.parametrize("wrong", [{"agents": []}, {"agents": [double], "concurrency": 0}])
def test_a_worker_needs_agents_and_slots(wrong: dict[str, Any]) -> None:
    with pytest.raises(agentrun.ConfigError, match="at least one agent"):
        agentrun.Worker(**wrong)


def test_a_run_that_is_due_as_it_parks_is_executed_by_the_worker_that_parked_it(db: Any) -> None:
    """Its next claim may come before the last one has left this process."""

    @agentrun.agent
    def nap() -> str:
        agentrun.sleep(0.1)
        return "awake"

    def late(point: str) -> None:
        if point == "wake:before":  # parked, and not yet left
            until(lambda: find_run(db, "k").epoch == 2)

    points.arm(late)
    try:
        handle = nap.with_options(key="k").submit()
        with agentrun.Worker([nap]):
            assert handle.result(timeout=30) == "awake"
    finally:
        points.arm(None)


def test_a_run_whose_earlier_claim_does_not_leave_goes_to_whoever_is_free(db: Any) -> None:
    class Busy:
        def drain(self) -> None: ...

    db.create("k", "double", {"args": {"n": 2}}, "")
    run = find_run(db, "k")
    assert db.enter(run.run_id, Busy())
    with agentrun.Worker([double]):
        until(lambda: find_run(db, "k").epoch == 2)
        db.leave(run.run_id)
        assert agentrun.get("k").result(timeout=30) == 4
    ends = [event.event for event in read_events(db, run.run_id)[0]][2:]
    assert ends[0] == "handed_back"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_an_agent_that_exits_in_a_worker_has_failed(db: Any, events: Any, kind: Any) -> None:
    """Handed back, it would be taken up again and again."""

    @agentrun.agent
    def exits() -> None:
        raise kind

    @agentrun.agent
    async def aexits() -> None:
        raise kind

    handles = [exits.submit(), aexits.submit()]
    with agentrun.Worker([exits, aexits]):
        for handle in handles:
            with pytest.raises(agentrun.RunFailed, match=kind.__name__):
                handle.result(timeout=30)
    for handle in handles:
        assert [event.event for event in events(handle.key)].count("claimed") == 1
