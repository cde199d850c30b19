"""Agents killed, stopped and outlived in the middle of calls that go through a gateway.

Real processes and SIGKILL, against the double's own ledger: what it billed are the model steps that
the journals have, one each.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from typing import Any

import pytest
from crashing import ended, spawn, until
from gateways import Gateway, statuses, steps
from openai import OpenAI

import agentrun
from agentrun.store.database import OpenDatabase
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Fault, Provider, Reply

SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)
TEXT = "the quick brown fox jumps over the lazy dog"
ASKED: Any = [{"role": "user", "content": TEXT}]
CLAUDE: Any = {"model": "claude-double", "max_tokens": 1000, "messages": ASKED}


# -- every way to ask ------------------------------------------------------------------------------


def chat(gateway: Gateway, stream: bool) -> str:
    with agentrun.wrap(gateway.openai()) as client:
        return said(client, ASKED, stream)


def said(client: OpenAI, asked: Any, stream: bool) -> str:
    if not stream:
        reply = client.chat.completions.create(model="gpt-5", messages=asked)
        return reply.choices[0].message.content or ""
    chunks = client.chat.completions.create(model="gpt-5", messages=asked, stream=True)
    return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)


async def achat(gateway: Gateway, stream: bool) -> str:
    async with agentrun.wrap(gateway.async_openai()) as client:
        if not stream:
            reply = await client.chat.completions.create(model="gpt-5", messages=ASKED)
            return reply.choices[0].message.content or ""
        chunks = await client.chat.completions.create(model="gpt-5", messages=ASKED, stream=True)
        return "".join([one.choices[0].delta.content or "" async for one in chunks if one.choices])


def responses(gateway: Gateway, stream: bool) -> str:
    with agentrun.wrap(gateway.openai()) as client:
        if not stream:
            return client.responses.create(model="gpt-5", input=TEXT).output_text
        events = client.responses.create(model="gpt-5", input=TEXT, stream=True)
        return "".join(one.delta for one in events if one.type == "response.output_text.delta")


async def aresponses(gateway: Gateway, stream: bool) -> str:
    async with agentrun.wrap(gateway.async_openai()) as client:
        if not stream:
            return (await client.responses.create(model="gpt-5", input=TEXT)).output_text
        events = await client.responses.create(model="gpt-5", input=TEXT, stream=True)
        deltas = [one async for one in events if one.type == "response.output_text.delta"]
        return "".join(one.delta for one in deltas)


def messages(gateway: Gateway, stream: bool) -> str:
    with agentrun.wrap(gateway.anthropic()) as client:
        if not stream:
            return str(client.messages.create(**CLAUDE).content[0].text)
        with client.messages.stream(**CLAUDE) as events:
            return "".join(events.text_stream)


async def amessages(gateway: Gateway, stream: bool) -> str:
    async with agentrun.wrap(gateway.async_anthropic()) as client:
        if not stream:
            return str((await client.messages.create(**CLAUDE)).content[0].text)
        async with client.messages.stream(**CLAUDE) as events:
            return "".join([text async for text in events.text_stream])


SYNC: dict[str, Any] = {"chat": chat, "responses": responses, "messages": messages}
ASYNC: dict[str, Any] = {"chat": achat, "responses": aresponses, "messages": amessages}


@pytest.mark.parametrize("api", SYNC)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("how", ["sync", "async"])
def test_an_agent_killed_in_a_call_gets_its_answer_and_no_second_bill(
    dsn: str, gateway: Gateway, provider: Provider, api: str, stream: bool, how: str
) -> None:
    if how == "sync":

        @agentrun.agent(name="asks")
        def asks() -> str:
            return str(SYNC[api](gateway, stream))

    else:

        @agentrun.agent(name="asks")
        async def asks() -> str:
            return str(await ASYNC[api](gateway, stream))

    provider.arm(Fault.hold(2 if stream else "effect"))
    child = started(dsn, asks)
    provider.wait_for("held")
    kill(child)
    provider.release()
    with agentrun.connect(dsn) as db:
        assert asks.with_options(key="k").run() == f"echo: {TEXT}"
        assert (provider.billed(), steps(db)) == (1, 1)
        assert spend(db) == {"answered": 1}


def test_a_stream_cut_at_any_chunk_resumes_to_the_same_text_without_a_second_bill(
    dsn: str, gateway: Gateway, provider: Provider
) -> None:
    """The agent is killed there. At even chunks its successor comes while the rest is held."""

    @agentrun.agent
    def asks() -> str:
        return chat(gateway, True)

    cuts = chunks_of(gateway, provider)
    assert cuts > 8
    for at in range(cuts):
        key, before = f"cut at {at}", provider.billed()
        provider.arm(Fault.hold(at))
        child = started(dsn, asks, key)
        provider.wait_for("held")
        kill(child)
        if at % 2:
            provider.release()
        successor = started(dsn, asks, key, expect=f"echo: {TEXT}")
        if not at % 2:
            with agentrun.connect(dsn) as db:
                until(lambda db=db, key=key: attempts(db, key) == 2)  # type: ignore[misc]
            provider.release()
        assert ended(successor) == 0
        assert provider.billed() == before + 1


def chunks_of(gateway: Gateway, provider: Provider) -> int:
    """How many chunks the streamed answer has."""
    text = gateway.post(TEXT, key=None, stream=True).text
    return text.count("\n\n")


# -- random kills ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kills", [pytest.param(10, id="some"), pytest.param(200, id="many", marks=pytest.mark.long)]
)
def test_what_is_billed_are_the_model_steps_whenever_the_agent_is_killed(
    dsn: str, gateway: Gateway, provider: Provider, kills: int
) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED} (AGENTRUN_SEED)")
    turns = 2 + kills * 5 // 4  # a kill may come a moment after its call
    provider.say([Reply(TEXT, delay_s=0.2)])

    @agentrun.agent
    def talks() -> int:
        with agentrun.wrap(gateway.openai()) as client:
            for turn in range(turns):
                asked = [{"role": "user", "content": f"turn {turn}"}]
                assert said(client, asked, stream=turn % 2 == 0) == TEXT
        return turns

    provider.arm(Fault.slow(0.02, times=0))
    for _ in range(kills):
        seen = len(provider.ledger())
        child = started(dsn, talks)
        provider.wait_for("received", seen + 1)
        time.sleep(chance.uniform(0, 0.25))
        kill(child)
    with agentrun.connect(dsn) as db:
        assert talks.with_options(key="k").run() == turns
        gateway.rest()
        struck = attempts(db, "k") - turns
        print(f"{kills} kills, {struck} inside a call: {provider.billed()} bills of {turns} steps")
        assert struck > kills / 2
        assert provider.billed() == len(provider.ledger()) == steps(db) == turns
        assert statuses(db) == ["answered"] * turns
        told = spend(db)
        assert told["answered"] == turns
        # Killed before it came to the gateway, which no agent can tell from after.
        print(f"possibly billed: {told['possibly billed']} of {struck}")
        assert told["possibly billed"] < struck / 4


# -- leases ------------------------------------------------------------------------------------


def test_a_call_longer_than_the_lease_is_paid_once(
    dsn: str, gateway: Gateway, provider: Provider
) -> None:
    provider.say([Reply(TEXT, delay_s=3)])

    @agentrun.agent
    def asks() -> str:
        return chat(gateway, False)

    with agentrun.connect(dsn, lease=1.0) as db:
        assert asks.with_options(key="k").run() == TEXT
        assert (provider.billed(), steps(db)) == (1, 1)


def test_a_worker_stopped_in_a_call_for_longer_than_its_lease_is_not_paid_for_twice(
    dsn: str, gateway: Gateway, provider: Provider
) -> None:
    @agentrun.agent
    def asks() -> str:
        return chat(gateway, True)

    provider.arm(Fault.hold(2))
    zombie = started(dsn, asks, lease=1.0, expect=f"echo: {TEXT}")
    provider.wait_for("held")
    os.kill(zombie, signal.SIGSTOP)
    successor = started(dsn, asks, lease=1.0, expect=f"echo: {TEXT}")
    with agentrun.connect(dsn) as db:
        until(lambda: attempts(db, "k") == 2)
    provider.release()
    assert ended(successor) == 0
    os.kill(zombie, signal.SIGCONT)
    assert ended(zombie) == 0  # it finds that it lost the run, and the recorded result
    with agentrun.connect(dsn) as db:
        assert (provider.billed(), steps(db), statuses(db)) == (1, 1, ["answered"])
        assert spend(db) == {"answered": 1}


def spend(db: OpenDatabase) -> Counter[str]:
    """What the view says of the bills; where a price is known or not makes no difference here."""
    with db.connection() as conn:
        rows = conn.execute("SELECT billing FROM agentrun.spend").fetchall()
    return Counter(
        row["billing"].replace("confirmed", "answered").replace("unpriced", "answered")
        for row in rows
    )


def attempts(db: OpenDatabase, key: str) -> int:
    """How often the run's processes were about to send a call."""
    try:
        events = read_events(db, find_run(db, key).run_id)[0]
    except agentrun.RunNotFound:
        return 0
    return sum(event.event == "attempt_started" for event in events)


# -- any other client --------------------------------------------------------------------------


def test_two_clients_that_know_nothing_of_agentrun_share_a_call(
    gateway: Gateway, provider: Provider
) -> None:
    provider.arm(Fault.hold("effect"))

    async def ask() -> str:
        async with gateway.async_openai() as client:
            reply = await client.chat.completions.create(
                model="gpt-5", messages=ASKED, extra_headers={"Idempotency-Key": "ticket 42"}
            )
        return reply.choices[0].message.content or ""

    async def both() -> list[str]:
        asking = [asyncio.create_task(ask()) for _ in range(2)]
        await asyncio.to_thread(provider.wait_for, "held")
        provider.release()
        return await asyncio.gather(*asking)

    assert asyncio.run(both()) == [f"echo: {TEXT}"] * 2
    assert provider.billed() == 1


# -- processes ---------------------------------------------------------------------------------


def started(
    dsn: str, agent: Any, key: str = "k", *, expect: Any = None, lease: float = 10.0
) -> int:
    """A process that executes the run, and fails unless it comes to what is expected."""

    def execute() -> None:
        with agentrun.connect(dsn, lease=lease):
            result = agent.with_options(key=key).run()
            assert expect is None or result == expect

    return spawn(execute)


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
