"""Mail that a parked run does not want must not wake it again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import agentrun

Events = Callable[[str], list[Any]]


def until(key: str, status: str) -> None:
    deadline = time.monotonic() + 30
    while agentrun.get(key).status() != status:
        assert time.monotonic() < deadline, f"it does not come to be {status}"
        time.sleep(0.02)


@pytest.mark.parametrize("waits_for", ["another signal", "a time", "a person"])
def test_mail_that_a_parked_run_does_not_want_wakes_it_but_once(
    db: Any, events: Events, waits_for: str
) -> None:
    @agentrun.tool(approve=True)
    def act() -> str:
        return "acted"

    @agentrun.agent
    def waits() -> str:
        if waits_for == "another signal":
            return str(agentrun.receive("wanted"))
        if waits_for == "a time":
            agentrun.sleep(3.0)
            return str(agentrun.receive("unwanted"))
        return act()

    with agentrun.Worker([waits]):
        handle = waits.with_options(key="k").submit()
        until("k", "held" if waits_for == "a person" else "waiting")
        agentrun.send("k", "unwanted", 1)
        time.sleep(1.5)  # nemesis: time to wake up and park, over and over
        assert [event.event for event in events("k")].count("claimed") <= 4
        if waits_for == "another signal":
            agentrun.send("k", "wanted", 2)
        if waits_for == "a person":
            agentrun.approve("k", 1)
        until("k", "done")
        assert handle.result(timeout=30) in ("1", "2", "acted")


def test_a_cancellation_that_comes_as_the_run_parks_is_read_at_its_next_claim(
    db: Any, events: Events
) -> None:
    @agentrun.agent
    def waits() -> None:
        agentrun.receive("never")

    with agentrun.Worker([waits]):
        waits.with_options(key="k").submit()
        until("k", "waiting")
        # What `cancel` sends when it still finds an owner; nobody claims the run for it.
        db.send_mail("k", "cancel", step=None, by="ada", reason=None, payload={})
        until("k", "cancelled")
    assert events("k")[-1].event == "run_cancelled"


def test_an_exit_in_a_task_of_one_run_does_not_stop_the_worker(db: Any) -> None:
    @agentrun.agent
    async def exits() -> None:
        async def leave() -> None:
            raise SystemExit(3)

        await asyncio.gather(leave())

    @agentrun.agent
    async def works() -> int:
        return 1

    with agentrun.Worker([exits, works]):
        exits.submit()
        time.sleep(0.5)  # nemesis
        assert works.submit().result(timeout=30) == 1
