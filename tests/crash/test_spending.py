"""Budgets under SIGKILL: whatever is killed, the provider's own ledger stays within them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from crashing import ended, in_child, spawn, until
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun import Budget
from agentrun.models.usage import list_price
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply

SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)
MODEL = "gpt-4o"  # $10 a million tokens written
KILLS = 20
TURNS = 105  # a cent each, at least
CHILDREN = 50


def bills(provider: Provider) -> Decimal:
    """What the double has charged, by its own ledger."""
    total = Decimal(0)
    for entry in provider.effects():
        usage = entry.facts["usage"]
        cost, _ = list_price(
            "",
            [MODEL],
            {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
            },
        )
        assert cost is not None
        total += cost
    return total


def test_a_run_killed_twenty_times_never_passes_its_dollar(dsn: str) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED} (AGENTRUN_SEED)")
    turn = Reply("on", [Call("look")], output_tokens=1_000, delay_s=0.1)

    with Provider(script=[turn] * TURNS) as provider:

        @agentrun.tool(effect="read")
        def look() -> str:
            return "seen"

        @agentrun.agent(budget=Budget(usd=1))
        def spender() -> int:
            client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
            messages: list[Any] = [{"role": "user", "content": "go on"}]
            while len(messages) < 2 * TURNS:
                reply: Any = client.chat.completions.create(
                    model=MODEL, messages=messages, max_completion_tokens=1_000
                )
                messages.append(reply.choices[0].message.model_dump(exclude_none=True))
                messages += agentrun.call_tools(reply, [look])
            return len(messages)

        keyed = spender.with_options(key="k")

        def execute() -> None:
            with agentrun.connect(dsn), suppress(agentrun.RunHeld):
                keyed.run()

        for _ in range(KILLS):
            seen = len(provider.ledger())
            child = spawn(execute)
            until(lambda seen=seen: len(provider.ledger()) > seen)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.2))
            kill(child)
            assert bills(provider) <= 1
        with agentrun.connect(dsn) as db:
            with pytest.raises(agentrun.RunHeld, match=r"usd: \$0.9\d+ of \$1.00") as held:
                keyed.run()
            once = bills(provider)
            assert Decimal("0.5") < once <= 1
            assert held.value.step is not None
            agentrun.approve("k", held.value.step, budget=Budget(usd=2), by="ada")
            assert keyed.run() >= 2 * TURNS
            assert once < bills(provider) <= 2
            with db.connection() as conn:
                spend = conn.execute(
                    "SELECT sum(cost) AS confirmed, count(*) FILTER (WHERE cost IS NULL) AS open,"
                    " sum(coalesce(cost, reserved)) AS most FROM agentrun.spend"
                ).fetchone()
            # A call that was killed is listed: what is confirmed, and what may be, hold the bill.
            assert spend["confirmed"] <= bills(provider) <= spend["most"] <= 2
            assert spend["open"] <= KILLS


def test_a_tree_of_fifty_children_shares_one_budget_over_killed_workers(dsn: str) -> None:
    with Provider(script=[Reply("x", output_tokens=2_000, delay_s=0.1)]) as provider:

        @agentrun.agent
        async def child(n: int) -> int:
            async with agentrun.wrap(AsyncOpenAI(base_url=provider.base_url, api_key="k")) as c:
                messages: Any = [{"role": "user", "content": f"part {n}"}]
                await c.chat.completions.create(
                    model=MODEL, messages=messages, max_completion_tokens=2_000
                )
            return n

        @agentrun.agent(budget=Budget(usd=1))
        async def parent() -> int:
            few = asyncio.Semaphore(5)  # all at once, a kill would lose the whole budget

            async def one(n: int) -> int:
                async with few:
                    return await child.arun(n)

            return sum(await asyncio.gather(*(one(n) for n in range(CHILDREN))))

        def serve() -> None:
            with agentrun.connect(dsn, lease=2.0), agentrun.Worker([parent, child], concurrency=8):
                time.sleep(120)

        with agentrun.connect(dsn):
            handle = parent.with_options(key="k").submit()
            workers = [spawn(serve) for _ in range(2)]
            try:
                for n in range(3):
                    seen = len(provider.ledger())
                    until(lambda seen=seen: len(provider.ledger()) > seen + 2)  # type: ignore[misc]
                    kill(workers[n % 2])
                    workers[n % 2] = spawn(serve)
                    assert bills(provider) <= 1
                until(lambda: handle.status() == "waiting")
                once = bills(provider)
                assert Decimal("0.4") < once <= 1
                (waits, *_) = agentrun.inbox()
                agentrun.approve(waits.key, waits.step, budget=Budget(usd=3))
                assert handle.result(timeout=120) == sum(range(CHILDREN))
                assert once < bills(provider) <= 3
            finally:
                for worker in workers:
                    kill(worker)


def kill(worker: int) -> None:
    os.kill(worker, signal.SIGKILL)
    ended(worker)


def test_a_budget_needs_no_network_but_loopback(dsn: str) -> None:
    with Provider() as provider:

        @agentrun.agent(budget=Budget(usd=1))
        def asks() -> str | None:
            client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
            messages: Any = [{"role": "user", "content": "hi"}]
            reply = client.chat.completions.create(model=MODEL, messages=messages)
            return reply.choices[0].message.content

        def offline() -> None:
            forbid_network()
            with agentrun.connect(dsn) as db:
                assert asks.with_options(key="k").run() == "echo: hi"
                intents = [
                    event.usage
                    for event in read_events(db, find_run(db, "k").run_id)[0]
                    if event.event == "attempt_started"
                ]
            assert [usage and "tokens by" in (usage.priced_by or "") for usage in intents] == [True]

        assert in_child(offline) == 0


def forbid_network() -> None:
    """In this process, whatever looks for a host or connects beyond loopback is a failure."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def local(self: socket.socket, address: Any) -> None:
        inside = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1")
        return connect(self, address) if inside else os._exit(99)

    def known(host: Any, *rest: Any, **more: Any) -> Any:
        return resolve(host, *rest, **more) if host in ("127.0.0.1", "::1") else os._exit(98)

    socket.socket.connect = local  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = known  # type: ignore[assignment]
