"""A run: done once, answered from the journal after, failed and resumed, and its options."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

import agentrun
from agentrun.core.codec import MAX_DEPTH
from agentrun.store.runs import find_run
from agentrun.store.values import read_events


def test_a_done_run_is_answered_from_the_journal(db: Any) -> None:
    calls = []

    @agentrun.agent
    def once(n: int) -> int:
        calls.append(n)
        return n * 2

    keyed = once.with_options(key="k")
    assert [keyed.run(4), keyed.run(4)] == [8, 8]
    assert calls == [4]


def test_without_a_key_each_call_is_a_fresh_run(db: Any) -> None:
    calls = []

    @agentrun.agent
    def again() -> None:
        calls.append(1)

    again.run()
    again.run()
    assert len(calls) == 2


def test_the_same_key_with_other_arguments_conflicts(db: Any) -> None:
    @agentrun.agent
    def echo(text: str) -> str:
        return text

    keyed = echo.with_options(key="k")
    keyed.run("a")
    with pytest.raises(agentrun.RunConflict, match="other arguments"):
        keyed.run("b")


def test_the_same_key_with_another_agent_conflicts(db: Any) -> None:
    @agentrun.agent
    def one() -> None: ...

    @agentrun.agent
    def two() -> None: ...

    one.with_options(key="k").run()
    with pytest.raises(agentrun.RunConflict, match="belongs to agent 'one'"):
        two.with_options(key="k").run()


def test_an_unknown_key_names_what_is_near(db: Any) -> None:
    @agentrun.agent
    def echo() -> None: ...

    echo.with_options(key="ticket-42").run()
    with pytest.raises(agentrun.RunNotFound, match="ticket-42"):
        agentrun.get("ticket-43")


class Order(BaseModel):
    number: int
    placed: dt.date


@dataclass
class Receipt:
    order: Order
    total: int


def test_arguments_and_results_keep_their_types(db: Any) -> None:
    @agentrun.tool(effect="read")
    def price(order: Order) -> Receipt:
        assert isinstance(order, Order)
        return Receipt(order, 5)

    @agentrun.agent
    def typed(order: Order) -> Receipt:
        return price(order)

    order = Order(number=7, placed=dt.date(2026, 11, 22))
    keyed = typed.with_options(key="k")
    assert keyed.run(order) == keyed.run(order) == Receipt(order, 5)


def test_a_failed_run_raises_again_and_resume_goes_on(db: Any, events: Any) -> None:
    broken = True
    done: list[str] = []

    @agentrun.tool
    def first() -> str:
        done.append("first")
        return "one"

    @agentrun.tool(effect="idempotent")
    def second() -> str:
        if broken:
            raise ValueError("no luck")
        return "two"

    @agentrun.agent
    def flaky() -> str:
        return first() + second()

    keyed = flaky.with_options(key="k")
    for _ in range(2):
        with pytest.raises(agentrun.RunFailed, match="no luck") as failure:
            keyed.run()
        assert isinstance(failure.value.__cause__, ValueError)
    broken = False
    assert agentrun.resume("k", by="ada", reason="fixed") == "onetwo"
    assert done == ["first"]
    (decision,) = [e for e in events("k") if e.event == "resolved"]
    assert (decision.status, decision.by, decision.step) == ("reopened", "ada", 2)


def test_a_recorded_exception_takes_the_same_path_on_resume(db: Any, reincarnate: Any) -> None:
    class OutOfStock(Exception):
        def __init__(self, item: str, left: int) -> None:
            super().__init__(item, left)
            self.left = left

    attempts: list[str] = []
    crash = True

    @agentrun.tool
    def buy(item: str) -> str:
        attempts.append(item)
        raise OutOfStock(item, 3)

    @agentrun.agent
    def shop() -> int:
        try:
            buy("hat")
        except OutOfStock as error:
            if crash:
                raise SystemExit from None
            return error.left
        return -1

    keyed = shop.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    assert keyed.run() == 3
    assert attempts == ["hat"]


def test_ctrl_c_hands_the_run_back(db: Any) -> None:
    interrupt = True

    @agentrun.step
    def work() -> int:
        return 1

    @agentrun.agent
    def patient() -> int:
        n = work()
        if interrupt:
            raise KeyboardInterrupt
        return n

    keyed = patient.with_options(key="k")
    with pytest.raises(KeyboardInterrupt):
        keyed.run()
    assert agentrun.get("k").status() == "queued"
    interrupt = False
    assert keyed.run() == 1


def test_run_of_an_async_agent_in_a_loop_names_arun(db: Any) -> None:
    @agentrun.agent
    async def wait() -> int:
        return 1

    async def inside() -> None:
        with pytest.raises(agentrun.ConfigError, match=r"await wait\.arun"):
            wait.run()
        assert await wait.arun() == 1

    asyncio.run(inside())
    assert wait.run() == 1


def test_arun_of_a_sync_agent_uses_a_thread(db: Any) -> None:
    @agentrun.tool
    def act(n: int) -> int:
        return n + 1

    @agentrun.agent
    def blocking(n: int) -> int:
        return act(n)

    assert asyncio.run(blocking.arun(1)) == 2


def test_a_run_is_read_the_same_from_async_code(db: Any) -> None:
    @agentrun.agent
    def quick() -> int:
        return 7

    async def read() -> list[Any]:
        handle = agentrun.get("k")
        return [
            await handle.astatus(),
            await handle.aresult(),
            await handle.atranscript(),
            await agentrun.atranscript("k"),
        ]

    quick.with_options(key="k").run()
    transcript = agentrun.transcript("k")
    assert asyncio.run(read()) == ["done", 7, transcript, transcript]


def test_a_result_that_cannot_be_recorded_fails_the_run_and_loses_nothing(
    db: Any, events: Any
) -> None:
    acted = []

    @agentrun.tool
    def act() -> float:
        acted.append(1)
        return float("nan")

    @agentrun.agent
    def careless() -> float:
        return act()

    keyed = careless.with_options(key="k")
    for _ in range(2):
        with pytest.raises(agentrun.RunFailed, match="result is NaN"):
            keyed.run()
    assert acted == [1]
    assert [e.status for e in events("k") if e.event == "step_finished"] == ["error"]


HOSTILE = {
    "nul": "a\x00b",
    "surrogate": "\ud800x",
    "escape": "␛0000",
    "emoji": "🙂",
    "\x00key": 1,
    "\ud800key": {"\udfff": [1]},
    "minus zero": -0.0,
    "big": 10**40,
    "ten megabytes": "x" * 10_000_000,
}


def test_hostile_values_come_back_as_they_were(db: Any, sql: Any) -> None:
    crash = True

    @agentrun.tool
    def hostile() -> dict[str, Any]:
        return HOSTILE

    @agentrun.agent
    def survives() -> int:
        value = hostile()
        if crash:
            raise SystemExit
        assert value == HOSTILE
        assert str(value["minus zero"]) == "-0.0"
        return len(value)

    keyed = survives.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    assert keyed.run() == len(HOSTILE)
    views = ["steps", "turns", "tool_calls", "model_calls", "attempts", "transcript", "in_doubt",
             "inbox", "resumes", "spend", "spend_by_run", "late_answers"]  # fmt: skip
    for view in views:
        sql(f"SELECT * FROM agentrun.{view}")  # noqa: S608
    assert str(agentrun.transcript("k"))


@pytest.mark.parametrize("annotation", [Any, dict, dict[str, Any], dict[str, int | list[int]]])
def test_any_text_may_be_a_key_whatever_the_type(db: Any, annotation: Any) -> None:
    """pydantic refuses some lone surrogates in keys and replaces others, in silence."""
    value = {"\ud800": 1, "\udfff": [2], "\ufffd": 3, "\0": 4}  # noqa: F601

    def echo(given: Any) -> Any:
        return given

    echo.__annotations__ = {"given": annotation, "return": annotation}
    tool, agent = agentrun.tool(echo), agentrun.agent(name="keeper")(echo)

    @agentrun.agent
    def parent(given: Any) -> list[Any]:
        return [tool(given), agent(given)]

    keyed = parent.with_options(key="k")
    assert [keyed.run(value), keyed.run(value)] == [[value, value]] * 2
    (step, *_) = agentrun.transcript("k").steps
    assert step.input == {"given": value}


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


def test_values_may_be_as_deep_as_the_limit_wherever_they_pass(db: Any) -> None:
    crash = True
    acted: list[bool] = []

    @agentrun.tool
    def give(deep: Any, fail: bool) -> Any:
        acted.append(fail)
        if fail:
            raise ValueError(nested(MAX_DEPTH))
        return nested(MAX_DEPTH)

    @agentrun.agent
    def child() -> Any:
        return nested(MAX_DEPTH)

    @agentrun.agent
    def passes(deep: Any) -> Any:
        assert give(deep, False) == child() == nested(MAX_DEPTH)
        assert agentrun.receive("deep") == deep
        with pytest.raises(ValueError, match=r"\[\[") as raised:
            give(deep, True)
        assert raised.value.args == (nested(MAX_DEPTH),)
        if crash:
            raise SystemExit
        return nested(MAX_DEPTH)

    keyed, deep = passes.with_options(key="k"), nested(MAX_DEPTH - 1)  # under its name
    keyed.submit(deep)
    agentrun.send("k", "deep", deep)
    with pytest.raises(SystemExit):
        keyed.run(deep)
    crash = False
    assert keyed.run(deep) == nested(MAX_DEPTH)
    assert acted == [False, True]


@pytest.mark.parametrize("key", ["", "a\x00b", "\ud800"])
def test_a_key_that_cannot_be_stored_is_refused(db: Any, key: str) -> None:
    @agentrun.agent
    def any_agent() -> None: ...

    if key:
        with pytest.raises(agentrun.ConfigError, match="run key"):
            any_agent.with_options(key=key).run()


def test_a_key_that_holds_a_credential_is_refused() -> None:
    @agentrun.agent
    def any_agent() -> None: ...

    secret = "sk-proj-" + "a1B2" * 12
    with pytest.raises(
        agentrun.ConfigError, match=r"'for \[masked: openai key, 56 chars"
    ) as refused:
        any_agent.with_options(key=f"for {secret}")
    assert "a1B2a1B2" not in str(refused.value)


def test_an_unknown_option_value_is_refused() -> None:
    @agentrun.agent
    def any_agent() -> None: ...

    with pytest.raises(agentrun.ConfigError, match="on_busy='later'"):
        any_agent.with_options(on_busy="later")  # type: ignore[arg-type]


def test_runs_equals_what_the_journal_says(db: Any, sql: Any) -> None:
    from agentrun.core.state import status_after

    @agentrun.agent
    def fine() -> int:
        return 1

    @agentrun.agent
    def bad() -> int:
        raise ValueError

    fine.with_options(key="fine").run()
    with pytest.raises(agentrun.RunFailed):
        bad.with_options(key="bad").run()
    for key, status, epoch in sql("SELECT key, status, epoch FROM agentrun.runs"):
        events, _ = read_events(db, find_run(db, key).run_id)
        statuses = [s for s in map(status_after, events) if s]
        assert (status, epoch) == (statuses[-1], events[-1].epoch)


def test_the_journal_is_append_only(db: Any, sql: Any) -> None:
    @agentrun.agent
    def fine() -> int:
        return 1

    fine.run()
    for change in ("UPDATE agentrun.journal SET seq = 0", "DELETE FROM agentrun.journal",
                   "TRUNCATE agentrun.journal"):  # fmt: skip
        with pytest.raises(Exception, match="append-only"):
            sql(change)


def test_now_uuid_and_rng_are_the_same_on_resume(db: Any) -> None:
    seen: list[Any] = []
    crash = True

    @agentrun.agent
    def clocked() -> None:
        seen.append((agentrun.now(), agentrun.uuid(), agentrun.uuid(), agentrun.rng().random()))
        if crash:
            raise SystemExit

    keyed = clocked.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    keyed.run()
    assert seen[0] == seen[1]
    assert seen[0][1] != seen[0][2]
    assert seen[0][0].tzinfo is not None
