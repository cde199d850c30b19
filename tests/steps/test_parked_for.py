"""The row of a parked run says what it waits for, and which step waits. Its reason is only text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashing import die, killed, until
from openai import OpenAI

import agentrun
from agentrun import Budget
from agentrun.store.runs import find_run

Parked = Callable[[str], tuple[str, str | None, int | None]]
ASKED: Any = [{"role": "user", "content": "go"}]


@pytest.fixture
def parked(db: Any, sql: Any) -> Parked:
    """Status, what for and which step of a run: in its row, and the same in its journal."""

    def read(key: str) -> tuple[str, str | None, int | None]:
        (row,) = sql(
            "SELECT status, parked_for, parked_step FROM agentrun.runs WHERE key = %s", key
        )
        (last,) = sql(
            "SELECT j.status, j.parked_for, j.step FROM agentrun.journal j JOIN agentrun.runs r"
            " USING (run_id) WHERE r.key = %s AND j.event = 'parked' ORDER BY j.seq DESC LIMIT 1",
            key,
        )
        assert row == last
        return tuple(row)  # type: ignore[return-value]

    return read


@agentrun.tool(approve=True)
def act(what: str) -> str:
    return what


@agentrun.agent
def parked_to_sleep() -> None:
    agentrun.sleep(3600)


@agentrun.agent
def parked_for_signal() -> None:
    agentrun.receive("never")


@agentrun.agent
def parked_for_approval() -> str:
    return act("one")


@agentrun.agent
def parked_for_child() -> str:
    return parked_for_approval()


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (parked_to_sleep, ("waiting", "time", 1)),
        (parked_for_signal, ("waiting", "signal", 1)),
        (parked_for_child, ("waiting", "child", 1)),
        (parked_for_approval, ("held", "approval", 1)),
    ],
)
def test_a_parked_run_says_what_it_waits_for(agent: Any, expected: Any, parked: Parked) -> None:
    with agentrun.Worker(
        [parked_to_sleep, parked_for_signal, parked_for_approval, parked_for_child]
    ):
        handle = agent.with_options(key="k").submit()
        until(lambda: handle.status() == expected[0])
        assert parked("k") == expected


def test_of_several_waits_that_for_a_person_counts(parked: Parked) -> None:
    @agentrun.agent
    async def asks_beside_a_sleep() -> str:
        async def ask() -> str:
            await agentrun.asleep(0.01)
            return await asyncio.to_thread(act, "one")

        _, done = await asyncio.gather(agentrun.asleep(3600), ask())
        return done

    with agentrun.Worker([asks_beside_a_sleep]):
        handle = asks_beside_a_sleep.with_options(key="k").submit()
        until(lambda: handle.status() == "held")
        assert parked("k") == ("held", "approval", 3)


def test_a_run_that_goes_on_waits_for_nothing(parked: Parked, sql: Any) -> None:
    with pytest.raises(agentrun.RunHeld):
        parked_for_approval.with_options(key="k").run()
    agentrun.approve("k", 1)
    assert parked_for_approval.with_options(key="k").run() == "one"
    assert sql("SELECT status, parked_for, parked_step FROM agentrun.runs") == [
        ("done", None, None)
    ]


def test_a_run_is_parked_for_a_budget(parked: Parked, client: OpenAI) -> None:
    @agentrun.agent
    def talks() -> None:
        for _ in range(2):
            client.chat.completions.create(model="gpt-4o", messages=ASKED)

    with pytest.raises(agentrun.RunHeld):
        talks.with_options(key="k", budget=Budget(model_calls=1)).run()
    assert parked("k") == ("held", "budget", 2)


def test_a_run_is_parked_for_a_doubt(parked: Parked, dsn: str, tmp_path: Path) -> None:
    alive = tmp_path / "alive"

    @agentrun.tool
    def dies() -> str:
        if not alive.exists():
            alive.touch()
            die()
        return "lived"

    @agentrun.agent
    def run() -> str:
        return dies()

    def first() -> None:
        agentrun.connect(dsn)
        run.with_options(key="k").run()

    killed(first)
    with pytest.raises(agentrun.RunHeld):
        run.with_options(key="k").run()
    assert parked("k") == ("held", "doubt", 1)


def test_a_run_is_parked_for_a_divergence(db: Any, parked: Parked, sql: Any) -> None:
    code = ["receive"]

    @agentrun.agent
    def run() -> None:
        if code[0] == "receive":
            agentrun.receive("go")
        else:
            agentrun.now()

    with agentrun.Worker([run]):
        handle = run.with_options(key="k").submit()
        until(lambda: handle.status() == "waiting")
        code[0] = "now"
        agentrun.send("k", "go")
        until(lambda: handle.status() == "held")
    assert parked("k") == ("held", "divergence", None)


def test_a_run_that_is_held_for_a_review_did_not_diverge_whatever_its_reason_says(
    db: Any, parked: Parked
) -> None:
    parked_for_approval.with_options(key="k").submit()
    assert db.hold(find_run(db, "k"), "diverged: so says the text")
    assert parked("k") == ("held", "review", None)
    assert agentrun.resume_diverged() == []
    (waiting,) = agentrun.inbox("k")
    assert waiting.waits_for == "decision"
    with pytest.raises(agentrun.RunError, match="does not wait for a decision about step 1"):
        agentrun.approve("k", 1)
