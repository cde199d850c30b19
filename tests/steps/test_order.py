"""What leaves only when something else is durable, and answers that come after a run was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai import OpenAI

import agentrun
from agentrun.steps.execution_point import current_context
from agentrun.store.journal import Writer
from agentrun.testing import Fault, Provider

LONG = 60.0  # seconds in which a thread comes to where it must
SOON = 0.3  # seconds in which it would have come to where it must not yet


@contextmanager
def nothing_is_committed(writer: Writer) -> Iterator[None]:
    """The writer is busy, as with a slow database: what is appended stays pending."""
    with writer._flushing:
        yield


class Thread(threading.Thread):
    """Calls something, and keeps what it gave or raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.outcome: list[Any] = []
        self.start()

    def run(self) -> None:
        try:
            self.outcome.append(self._call())
        except BaseException as error:
            self.outcome.append(error)

    @property
    def result(self) -> Any:
        self.join(LONG)
        return self.outcome[0]


def asked(provider: Provider) -> str | None:
    with agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k")) as client:
        message: Any = {"role": "user", "content": "go"}
        reply = client.chat.completions.create(model="gpt-5-mini", messages=[message])
    return reply.choices[0].message.content


@pytest.mark.parametrize("effect", ["once", "idempotent"])
def test_an_effect_begins_when_its_intent_is_durable(db: Any, effect: Any) -> None:
    begun = threading.Event()

    @agentrun.tool(effect=effect)
    def act() -> str:
        begun.set()
        return "done"

    @agentrun.agent
    def run() -> str:
        return act()

    with nothing_is_committed(db.writer):
        thread = Thread(run.run)
        assert not begun.wait(SOON)
    assert begun.wait(LONG)
    assert thread.result == "done"


def test_a_model_is_asked_when_the_intent_is_durable(db: Any, provider: Provider) -> None:
    provider.say(["done"])

    @agentrun.agent
    def run() -> str | None:
        return asked(provider)

    with nothing_is_committed(db.writer):
        thread = Thread(run.run)
        thread.join(SOON)
        assert provider.requests() == []
    assert thread.result == "done"


def test_an_effect_waits_for_the_outcome_before_it(db: Any) -> None:
    begun = threading.Event()

    @agentrun.tool(effect="read")
    def look() -> str:
        return "seen"

    @agentrun.tool
    def act(what: str) -> str:
        begun.set()
        return what

    @agentrun.agent
    def run() -> str:
        return act(look())

    with nothing_is_committed(db.writer):
        thread = Thread(run.run)
        assert not begun.wait(SOON)
    assert thread.result == "seen"


def test_a_result_is_handed_out_when_it_is_durable(db: Any) -> None:
    @agentrun.agent
    def run() -> str:
        return "done"

    with nothing_is_committed(db.writer):
        thread = Thread(run.run)
        thread.join(SOON)
        assert thread.outcome == []
    assert thread.result == "done"


@pytest.mark.parametrize("effect", ["read", "idempotent"])
def test_a_worker_that_was_declared_dead_sends_nothing(db: Any, effect: Any) -> None:
    """It slept through its lease: nobody told it, and what it appended was accepted."""
    sent: list[int] = []

    @agentrun.tool(effect=effect)
    def act() -> None:
        sent.append(epoch())

    def epoch() -> int:
        return current_context().tail.epoch  # type: ignore[union-attr]

    @agentrun.agent
    def run() -> int:
        if epoch() == 1:
            heart = current_context().heart  # type: ignore[union-attr]
            with heart._beating, db.connection() as conn:  # no beat comes in between
                conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'lease expired'")
                heart._confirmed = (0.0, 0.0)
        act()
        return epoch()

    assert run.run() == 2  # as a new worker
    assert sent == [2]


def test_a_thread_that_waits_for_another_of_its_run_looks_at_the_lease_after_that(db: Any) -> None:
    """Both may be stopped meanwhile, for longer than their lease."""
    sent: list[int] = []
    begun, waits = threading.Event(), threading.Event()
    runs: list[Any] = []

    @agentrun.tool(effect="idempotent")
    def act() -> None:
        sent.append(current_context().tail.epoch)  # type: ignore[union-attr]

    @agentrun.agent
    def run() -> None:
        runs.append(current_context())
        if len(runs) == 1:
            begun.set()
            assert waits.wait(LONG)
        act()

    thread = Thread(run.run)
    assert begun.wait(LONG)
    first = runs[0]
    with nothing_is_committed(db.writer):
        waits.set()
        while first.history.last_step == 0:  # its intent is queued
            thread.join(0.01)
        first.lock.acquire()
    try:
        thread.join(SOON)  # its intent is durable; it comes as far as the lock
        with first.heart._beating, db.connection() as conn:
            conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'lease expired'")
            first.heart._confirmed = (0.0, 0.0)
    finally:
        first.lock.release()
    assert thread.result is None
    assert sent == [2]


# -- late answers ----------------------------------------------------------------------------------


class Handover:
    """A run that is lost while its effect is under way, and goes on elsewhere after the answer."""

    def __init__(self, db: Any, dsn: str, body: Callable[[], Any]) -> None:
        self.db, self.dsn, self.body = db, dsn, body
        self.under_way, self.answer, self.kept = (threading.Event() for _ in range(3))
        self.calls = 0

    def effect(self) -> str:
        """What the effect does: the first time, it takes until the run is another's."""
        self.calls += 1
        if self.calls == 1:
            self.under_way.set()
            assert self.answer.wait(LONG)
        return f"answer {self.calls}"

    def see(self) -> Any:
        """The result, of the run executed twice at once."""

        @agentrun.agent
        def run() -> Any:
            if current_context().tail.epoch > 1:  # type: ignore[union-attr]
                self.answer.set()
                assert self.kept.wait(LONG)
            return self.body()

        keyed = run.with_options(key="k")
        first = Thread(keyed.run)
        assert self.under_way.wait(LONG)
        self._declared_dead()
        with agentrun.connect(self.dsn):
            second = Thread(keyed.run)
            while not self._late():
                second.join(0.02)
            self.kept.set()
            result = second.result
        assert first.result == result
        return result

    def _declared_dead(self) -> None:
        """The first owner, which lives; so that its doubts are settled at once, for good."""
        with self.db.connection() as conn:
            conn.execute("UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone'")

    def _late(self) -> bool:
        with self.db.connection() as conn:
            return bool(conn.execute("SELECT FROM agentrun.late_results").fetchall())


def told(events: Any) -> list[tuple[str, int | None, str | None]]:
    return [(e.event, e.attempt, e.by) for e in events("k") if e.step == 1]


@pytest.mark.parametrize("effect", ["idempotent", "once"])
def test_a_late_answer_is_adopted_and_nothing_is_sent(
    db: Any, dsn: str, effect: Any, events: Any
) -> None:
    @agentrun.tool(effect=effect)
    def act() -> str:
        return handover.effect()

    handover = Handover(db, dsn, act)
    assert handover.see() == "answer 1"
    assert handover.calls == 1
    outcome = ("step_finished", 1, "late result")
    if effect == "once":
        assert told(events) == [
            ("attempt_started", 1, None), ("resolved", 1, "late result"), outcome,
        ]  # fmt: skip
    else:
        assert told(events) == [
            ("attempt_started", 1, None), ("attempt_started", 2, None), outcome,
        ]  # fmt: skip


def test_a_late_reply_of_a_model_is_adopted_and_paid_once(
    db: Any, dsn: str, provider: Provider, events: Any, sql: Any
) -> None:
    provider.say(["paid for"])
    provider.arm(Fault.hold("effect"))

    handover = Handover(db, dsn, lambda: asked(provider))
    threading.Thread(target=held_until_lost, args=(provider, handover), daemon=True).start()
    assert handover.see() == "paid for"
    assert provider.billed() == 1
    assert told(events)[-1][:2] == ("step_finished", 1)
    assert sql("SELECT attempt, billing, cost > 0 FROM agentrun.spend") == [(1, "confirmed", True)]
    assert sql("SELECT billing, other_attempt FROM agentrun.late_answers") == [("adopted", 1)]


def test_a_reply_that_comes_after_another_was_paid_is_listed_as_paid_twice(
    db: Any, dsn: str, provider: Provider, sql: Any
) -> None:
    provider.say(["paid for"])
    provider.arm(Fault.hold("effect"))
    handover = Handover(db, dsn, lambda: asked(provider))
    agent = agentrun.agent(name="asks")(lambda: asked(provider)).with_options(
        key="k", budget=agentrun.Budget(usd=1)
    )
    first = Thread(agent.run)
    provider.wait_for("held")
    handover._declared_dead()
    with agentrun.connect(dsn):
        assert agent.run() == "paid for"
        spend = "SELECT attempt, billing, cost > 0 FROM agentrun.spend ORDER BY attempt"
        assert sql(spend) == [(1, "possibly billed", None), (2, "confirmed", True)]
        provider.release()
        while not handover._late():
            first.join(0.02)
    assert first.result == "paid for"
    assert provider.billed() == 2
    assert sql(spend) == [(1, "paid twice", True), (2, "confirmed", True)]
    ((worker, other, reason),) = sql(
        "SELECT l.worker, l.other_worker, l.reason FROM agentrun.late_answers l"
    )
    assert worker != other
    assert reason.startswith("took over")
    assert sql("SELECT paid_twice, possibly_billed FROM agentrun.spend_by_run") == [(1, 0)]
    ((sums,),) = sql("SELECT sum(cost) FROM agentrun.spend")
    assert sql("SELECT cost FROM agentrun.spend_by_run") == [(sums,)]


def held_until_lost(provider: Provider, handover: Handover) -> None:
    provider.wait_for("held")
    handover.under_way.set()
    assert handover.answer.wait(LONG)
    provider.release()
