"""Mail that a parked run does not want must not wake it again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from crashing import die, killed

import agentrun
from agentrun.store.mail import send_letter

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
        send_letter(db, "k", "cancel", by="ada", payload={})
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


NAMED = "deploy-" + "ghp_" + "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z7A9b"


def test_a_name_that_holds_a_credential_is_refused_without_showing_it(db: Any) -> None:
    @agentrun.agent
    def waits(how: str) -> None:
        if how == "receive":
            agentrun.receive(NAMED, timeout=0.1)
        with agentrun.branch(NAMED):
            agentrun.now()

    waits.with_options(key="k").submit("receive")
    with pytest.raises(agentrun.ConfigError, match="the signal name") as sent:
        agentrun.send("k", NAMED, {})
    with pytest.raises(agentrun.ConfigError, match="the run key") as keyed:
        waits.with_options(key=NAMED)
    with pytest.raises(agentrun.RunFailed, match="ConfigError: the signal name") as received:
        waits.run("receive")
    with pytest.raises(agentrun.RunFailed, match="ConfigError: the branch name") as branched:
        waits.run("branch")
    for told in map(str, [sent.value, keyed.value, received.value, branched.value]):
        assert "deploy-[masked: github token, 40 chars, #" in told
        assert NAMED not in told
    with pytest.raises(agentrun.ConfigError, match="non-empty string without NUL"):
        agentrun.send("k", "a\0", {})


def test_what_threads_a_library_starts_does_not_change_which_letter_is_sent(
    db: Any, dsn: str, sql: Any
) -> None:
    """A letter's id is of the task that sends it, also where a thread does the sending."""
    crash = [True]

    @agentrun.agent
    async def sends_letters() -> str:
        if crash[0]:
            await asyncio.to_thread(str)  # this time, as a client that opens a connection
        await agentrun.asend("k", "first")
        if crash[0]:
            die()
        await agentrun.asend("k", "second")
        return "sent"

    keyed = sends_letters.with_options(key="k")
    killed(lambda: (agentrun.connect(dsn), keyed.run()))
    crash[0] = False
    assert keyed.run() == "sent"
    names = sql("SELECT payload ->> 'name' FROM agentrun.mail ORDER BY sent_at")
    assert names == [("first",), ("second",)]
