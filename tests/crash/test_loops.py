"""The promise, end to end: plain loops under SIGKILL at random moments.

Sync and async, streaming and not. The child that executes is killed again and again, a new one
goes on; afterwards three ledgers are compared: the provider double's, the outside world's (a file
synced at each effect) and the journal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from crashing import World, ended, spawn
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Provider, Reply

KILLS = 20
TURNS = 4
SEED = int(os.environ.get("AGENTRUN_SEED", "0")) or random.randrange(1 << 30)

SCRIPT = [
    Reply(
        f"Working on part {n}, one moment please.",
        tool_calls=[
            Call("look_up", {"order": n}),
            Call("book", {"order": n}),
            Call("mail", {"order": n}),
            Call("refund", {"order": n}),
        ],
    )
    for n in range(TURNS)
]


class Shop:
    """Four tools, one of each effect class, acting on a world outside the process."""

    def __init__(self, world: World) -> None:
        self.world = world

        @agentrun.tool(effect="read")
        def look_up(order: int) -> str:
            world.act(f"read {order}")
            return f"order {order}"

        def find(key: str, order: int) -> agentrun.Happened | agentrun.NotHappened:
            if f"once {order} {key}" in world.effects:
                return agentrun.Happened(f"booked {order}")
            return agentrun.NotHappened()

        @agentrun.tool(reconcile=find)
        def book(order: int, idempotency_key: str = "") -> str:
            time.sleep(0.002)
            world.act(f"once {order} {idempotency_key}")
            time.sleep(0.002)
            return f"booked {order}"

        @agentrun.tool(effect="idempotent")
        def mail(order: int, idempotency_key: str = "") -> str:
            world.act(f"idempotent {order} {idempotency_key}")
            return f"mailed {order}"

        @agentrun.tool(effect="transaction")
        def refund(order: int) -> str:
            connection = agentrun.current_step().connection
            connection.execute("INSERT INTO refunds VALUES (%s)", (order,))
            return f"refunded {order}"

        self.tools = [look_up, book, mail, refund]


def sync_loop(shop: Shop, url: str, stream: bool) -> Any:
    @agentrun.agent(name="killed_loop")
    def loop(question: str) -> str:
        client = agentrun.wrap(OpenAI(base_url=url, api_key="k"))
        messages: list[Any] = [{"role": "user", "content": question}]
        asked: dict[str, Any] = {"model": "gpt-5-mini", "tools": agentrun.schemas(*shop.tools)}
        while True:
            if stream:
                with client.chat.completions.stream(messages=messages, **asked) as chunks:
                    message = chunks.get_final_completion().choices[0].message
            else:
                completion = client.chat.completions.create(messages=messages, **asked)
                message = completion.choices[0].message
            messages.append(said(message))
            if not message.tool_calls:
                return str(message.content)
            messages += agentrun.call_tools(message, shop.tools)

    return loop


def async_loop(shop: Shop, url: str, stream: bool) -> Any:
    @agentrun.agent(name="killed_loop")
    async def loop(question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        asked: dict[str, Any] = {"model": "gpt-5-mini", "tools": agentrun.schemas(*shop.tools)}
        async with AsyncOpenAI(base_url=url, api_key="k") as plain:
            client = agentrun.wrap(plain)
            while True:
                if stream:
                    async with client.chat.completions.stream(messages=messages, **asked) as chunks:
                        completion: Any = await chunks.get_final_completion()
                else:
                    completion = await client.chat.completions.create(messages=messages, **asked)
                message = completion.choices[0].message
                messages.append(said(message))
                if not message.tool_calls:
                    return str(message.content)
                messages += await agentrun.acall_tools(message, shop.tools)

    return loop


def said(message: Any) -> dict[str, Any]:
    """The message as the API takes it back; `.stream` adds fields of its own."""
    calls = [
        {"id": c.id, "type": "function",
         "function": {"name": c.function.name, "arguments": c.function.arguments}}
        for c in message.tool_calls or ()
    ]  # fmt: skip
    return {"role": "assistant", "content": message.content} | (
        {"tool_calls": calls} if calls else {}
    )


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was faster
        os.kill(pid, signal.SIGKILL)


def run_until_killed(action: Callable[[], object], after: float | None) -> bool:
    """Run in a child, killed after so many seconds; whether it ended by itself."""
    pid = spawn(action)
    timer = None
    if after is not None:
        timer = threading.Timer(after, kill, (pid,))
        timer.start()
    code = ended(pid)
    if timer is not None:
        timer.cancel()
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}"
    return code == 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("make", [sync_loop, async_loop], ids=["sync", "async"])
def test_a_loop_survives_twenty_random_kills(
    make: Any, stream: bool, dsn: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED} (AGENTRUN_SEED)")
    with agentrun.connect(dsn) as db, db.connection() as conn:
        conn.execute("CREATE TABLE refunds (n int)")
    kills = runs = 0
    whole = 0.0  # seconds that an undisturbed run takes; the kills are spread over that
    with Provider(script=SCRIPT) as provider:
        # Children fork from a warmed process: what the SDK builds at first use is built here.
        warm = make(Shop(World(tmp_path / "warm")), provider.base_url, stream)
        with agentrun.connect(dsn) as db, db.connection() as conn:
            warm.run("please handle all parts")
            conn.execute("TRUNCATE refunds")
        while kills < KILLS:
            world = World(tmp_path / f"world-{runs}")
            agent = make(Shop(world), provider.base_url, stream).with_options(key=f"run-{runs}")

            def action(agent: Any = agent) -> None:
                agentrun.connect(dsn)
                agent.run("please handle all parts")

            spent = len(provider.ledger())
            started = time.monotonic()
            window = 1.1 * whole  # grows, since a busy machine may be slower than it was
            while not run_until_killed(action, chance.uniform(0.05, 1) * window or None):
                kills += 1
                window *= 1.2
                assert kills < 10 * KILLS, "it makes no progress"
            whole = whole or time.monotonic() - started
            compare(dsn, f"run-{runs}", provider.ledger()[spent:], world)
            runs += 1


def compare(dsn: str, key: str, ledger: list[Any], world: World) -> None:
    """What the outside saw of one run against what its journal says."""
    with agentrun.connect(dsn) as db:
        events, _ = read_events(db, find_run(db, key).run_id)
        transcript = agentrun.transcript(key)
        with db.connection() as conn:
            refunds = conn.execute("SELECT n FROM refunds").fetchall()
            conn.execute("TRUNCATE refunds")
    model_steps = [e for e in events if e.event == "step_finished" and e.kind == "model"]
    billed = [entry for entry in ledger if entry.outcome == "effect"]
    assert len(model_steps) == TURNS + 1
    assert len(billed) <= len(model_steps) + transcript.totals.possibly_billed
    per_key = Counter(entry.idempotency_key for entry in billed)
    assert set(per_key) == {e.key for e in model_steps}
    effects = [line.split() for line in world.effects]
    once = [tuple(rest) for kind, *rest in effects if kind == "once"]
    assert len(once) == TURNS, "a `once` effect was repeated or lost"
    idempotent = {tuple(rest) for kind, *rest in effects if kind == "idempotent"}
    assert len(idempotent) == TURNS, "an idempotent effect was sent under two keys"
    assert sorted(row["n"] for row in refunds) == list(range(TURNS))
    assert json.dumps(transcript.to_dict(), default=str)
