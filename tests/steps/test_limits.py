"""Limits that processes share: what the double, which enforces them, has to refuse; who waits."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from crashing import ended, spawn, until
from openai import OpenAI

import agentrun
from agentrun.store.database import OpenDatabase
from agentrun.store.limits import Hold, LimitedCall, SharedLimits
from agentrun.store.runs import find_run
from agentrun.testing import Fault, Provider

MODEL = "127.0.0.1:*/gpt-5-mini"
PROCESSES = 8


def ask(provider: Provider, text: str = "go") -> str:
    with agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k")) as client:
        message: Any = {"role": "user", "content": text}
        reply = client.chat.completions.create(
            model="gpt-5-mini", messages=[message], max_completion_tokens=10
        )
    return reply.choices[0].message.content or ""


def limit(db: OpenDatabase, **most: int) -> None:
    db.query("set_limit", model=MODEL, **{"rpm": None, "tpm": None, "concurrency": None, **most})


def name_of(provider: Provider) -> str:
    return f"{provider.url.removeprefix('http://')}/gpt-5-mini"


def refused(provider: Provider) -> int:
    return sum("answered 429" in str(entry) for entry in provider.ledger())


@pytest.fixture
def spawned() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Starts processes, and ends those that are left."""
    children: list[int] = []

    def start(action: Callable[[], None]) -> int:
        children.append(spawn(action))
        return children[-1]

    yield start
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
        try:
            ended(child)
        except ChildProcessError:
            continue


# -- the bucket ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rpm", "seconds", "share"),
    [
        pytest.param(600, 8, 0.5, id="some"),
        pytest.param(1200, 60, 0.9, id="many", marks=pytest.mark.long),
    ],
)
def test_processes_at_one_limit_use_it_and_are_refused_nothing(
    dsn: str, rpm: int, seconds: int, share: float, spawned: Any
) -> None:
    with Provider(rpm=rpm) as provider:

        def hammer() -> None:
            @agentrun.agent(name=f"hammers-{os.getpid()}")
            def hammers() -> None:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    ask(provider)

            with agentrun.connect(dsn):
                hammers.run()

        with agentrun.connect(dsn) as db:
            limit(db, rpm=rpm)
        children = [spawned(hammer) for _ in range(PROCESSES)]
        provider.wait_for("received")
        began = time.monotonic()
        assert [ended(child) for child in children] == [0] * PROCESSES
        took = time.monotonic() - began
        assert refused(provider) == 0
        used = provider.billed() / (rpm / 60 * min(took, seconds))
        print(f"{PROCESSES} processes: {used:.0%} of the limit used")
        assert used >= share


def test_tokens_are_reserved_and_what_was_not_used_comes_back(db: Any, provider: Provider) -> None:
    limit(db, tpm=600)  # ten a second; the request has some ten, and may be answered by ten

    @agentrun.agent
    def talks() -> float:
        began = time.monotonic()
        for n in range(3):
            ask(provider, f"hello {n}")
        return time.monotonic() - began

    assert talks.run() > 0.5
    with db.connection() as conn:
        until(lambda: conn.execute("SELECT FROM agentrun.permits").rowcount == 0)


# -- what one is told concerns all -----------------------------------------------------------------


def test_one_retry_after_holds_everybody_back(dsn: str, provider: Provider, spawned: Any) -> None:
    def other() -> None:
        @agentrun.agent(name="other")
        def asks() -> None:
            ask(provider, "before")
            provider.wait_for("refused")
            time.sleep(1.5)  # a beat
            ask(provider, "after")

        with agentrun.connect(dsn):
            asks.run()

    child = spawned(other)
    provider.wait_for("delivered")
    provider.arm(Fault.error(429, headers={"retry-after": "4"}))

    @agentrun.agent
    def asks() -> str:
        return ask(provider, "refused")

    with agentrun.connect(dsn):
        assert asks.run() == "echo: refused"
    assert ended(child) == 0
    before, told, *held = provider.ledger()
    assert (before.outcome, told.reason, len(held)) == ("effect", "answered 429", 2)
    assert all(entry.at >= told.at + 4 for entry in held)


def test_after_failures_in_a_row_one_tries_alone(db: Any, provider: Provider, sql: Any) -> None:
    provider.arm(Fault.error(500, times=6))

    @agentrun.agent
    def asks() -> str:
        return ask(provider)

    for _ in range(2):
        with pytest.raises(agentrun.RunFailed):
            asks.run()
    until(lambda: sql("SELECT model, circuit FROM agentrun.holds") == [(name_of(provider), True)])
    sql("UPDATE agentrun.holds SET until = now() + interval '1 s' RETURNING model")
    provider.disarm()
    assert asks.run() == "echo: go"
    until(lambda: sql("SELECT model FROM agentrun.holds") == [])


def test_a_hold_that_another_thread_takes_away_fails_no_call(db: Any) -> None:
    limits = SharedLimits(db)

    class TakenAway(Hold):
        """Somebody else's call is answered as soon as one looks at it."""

        def __getattribute__(self, name: str) -> Any:
            limits._holds.pop("p/m", None)
            return super().__getattribute__(name)

    hold = TakenAway(until=db.heart.now() + timedelta(seconds=9), circuit=True, reason="it failed")
    limits._holds = {"p/m": hold}
    call = LimitedCall(uuid4(), "k", "w", "p/m", 1)
    wait, why = limits.request_permit(call)
    assert wait > 1
    assert why == "it failed"
    assert limits.request_permit(call) == (0.0, "")
    limits._holds = {"p/m": hold}
    limits.record_success("p/m")
    limits.close()


# -- deaths ----------------------------------------------------------------------------------------


def test_a_permit_of_the_dead_is_free_again(dsn: str, provider: Provider, spawned: Any) -> None:
    provider.arm(Fault.hold("effect"))

    def dies() -> None:
        @agentrun.agent(name="dies")
        def asks() -> None:
            ask(provider)

        with agentrun.connect(dsn, lease=2.0):
            asks.run()

    with agentrun.connect(dsn) as db:
        limit(db, concurrency=1)
        child = spawned(dies)
        provider.wait_for("held")
        os.kill(child, signal.SIGKILL)
        ended(child)

        @agentrun.agent
        def asks() -> str:
            return ask(provider)

        assert asks.run() == "echo: go"


def test_a_call_that_waits_long_holds_no_slot_and_keeps_its_place(
    db: Any, provider: Provider, sql: Any
) -> None:
    limit(db, rpm=6)  # the second has to wait ten seconds

    @agentrun.agent
    async def asks(text: str) -> str:
        return await asyncio.to_thread(ask, provider, text)

    @agentrun.agent
    async def idle() -> str:
        return "idle"

    with agentrun.Worker([asks, idle], concurrency=1):
        first, second = (asks.with_options(key=k).submit(k) for k in ("one", "two"))
        assert first.result(timeout=30) == "echo: one"
        until(lambda: second.status() == "waiting")
        assert idle.submit().result(timeout=8) == "idle"
        ((reason, key),) = sql("SELECT reason, key FROM agentrun.runs WHERE status = 'waiting'")
        assert key == "two"
        assert "the limit of" in reason
        assert second.result(timeout=40) == "echo: two"
    ((steps,),) = sql("SELECT array_agg(step) FROM agentrun.model_calls")
    assert steps == [1, 1]


# -- who goes first ----------------------------------------------------------------------------


def test_the_higher_priority_goes_first(db: Any, sql: Any) -> None:
    limit(db, rpm=60)
    sql("UPDATE agentrun.limits SET requests = 0, filled_at = now() RETURNING model")
    for name, priority in (("low", 0), ("high", 5)):
        db.create(name, "a", {"args": {}}, "", priority=priority)

    def wait(name: str) -> float:
        (told,) = db.query(
            "permit", run_id=find_run(db, name).run_id, key=name, model=MODEL, tokens=1,
            worker=db.heart.worker,
        )  # fmt: skip
        return float(told["wait"])

    assert 0.5 < wait("low") < 1.1
    assert 0.5 < wait("high") < 1.1
    time.sleep(1.1)
    sql("UPDATE agentrun.permits SET next_at = clock_timestamp() RETURNING key")
    assert wait("low") > 0  # it was there first, and the other may go before it
    sql("UPDATE agentrun.permits SET next_at = clock_timestamp() RETURNING key")
    assert wait("high") == 0


def test_without_limits_nothing_is_asked(db: Any, provider: Provider, sql: Any) -> None:
    asked: list[str] = []
    plain = db.query

    def query(name: str, **parameters: Any) -> Any:
        asked.append(name)
        return plain(name, **parameters)

    db.query = query

    @agentrun.agent
    def talks() -> None:
        for n in range(3):
            ask(provider, f"hello {n}")

    talks.run()
    assert asked.count("shared_limits") <= 1
    assert {"permit", "release", "hold"}.isdisjoint(asked)
