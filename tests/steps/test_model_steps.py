"""Model calls inside a run: recorded once, replayed with zero requests, paid once."""

from __future__ import annotations

import asyncio
import json
import threading
from decimal import Decimal
from typing import Any

import openai
import pytest
from crashing import World, die, die_recorded, killed, until
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from zstandard import ZstdDecompressor

import agentrun
from agentrun.store.database import OpenDatabase
from agentrun.store.run_list import RunFilter, list_runs
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Call, Fault, Provider, Reply

MODEL = "gpt-5-mini"


def test_a_conversation_with_tools_resumes_without_paying_again(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    provider.say([
        Reply(tool_calls=[Call("refund", {"order_id": "7"}), Call("refund", {"order_id": "8"})]),
        Reply(tool_calls=[Call("refund", {"order_id": "7"})]),
        Reply("done"),
    ])  # fmt: skip
    crash = [True]

    @agentrun.tool
    def refund(order_id: str, cents: int = 100) -> dict[str, Any]:
        world.act(order_id)
        return {"refunded": order_id, "cents": cents}

    @agentrun.agent
    def support(question: str) -> str | None:
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            reply = (
                client.chat.completions.create(
                    model=MODEL, messages=messages, tools=agentrun.schemas(refund)
                )
                .choices[0]
                .message
            )
            messages.append(reply.model_dump(exclude_none=True))
            if not reply.tool_calls:
                return reply.content
            for call in reply.tool_calls:
                result = refund(**json.loads(call.function.arguments))
                messages.append(
                    {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)}
                )
            if crash[0] and len(world.effects) == 3:
                die_recorded()

    keyed = support.with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        keyed.run("refund orders 7 and 8")

    killed(action)
    crash[0] = False
    assert keyed.run("refund orders 7 and 8") == "done"
    assert provider.billed() == 3
    assert world.effects == ["7", "8", "7"]
    assert keyed.run("refund orders 7 and 8") == "done"
    assert provider.billed() == 3
    transcript = agentrun.transcript("k")
    assert transcript.totals.model_calls == 3


class Verdict(BaseModel):
    ok: bool


def shapes(client: OpenAI) -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    create = client.chat.completions.create
    plain = create(model=MODEL, messages=messages)
    streamed = [chunk.model_dump() for chunk in create(model=MODEL, messages=messages, stream=True)]
    with client.chat.completions.stream(model=MODEL, messages=messages) as stream:
        events = [event.type for event in stream]
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages)
    copied = client.with_options(timeout=30).chat.completions.create(model=MODEL, messages=messages)
    return {
        "plain": plain.model_dump(), "request id": plain._request_id, "streamed": streamed,
        "events": events, "raw": raw.text, "copied": copied.model_dump(),
    }  # fmt: skip


def test_every_shape_replays_the_same_with_no_request(
    db: Any, dsn: str, provider: Provider, reincarnate: Any
) -> None:
    provider.say(["hi there"])
    seen: list[dict[str, Any]] = []
    crash = True

    @agentrun.agent
    def talk() -> None:
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
        seen.append(shapes(client))
        if crash:
            raise SystemExit

    keyed = talk.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    requests = len(provider.requests())
    crash = False
    keyed.run()
    assert seen[0] == seen[1]
    assert len(provider.requests()) == requests == provider.billed() == 5


async def ashapes(client: AsyncOpenAI) -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    create = client.chat.completions.create
    plain, stream = await asyncio.gather(
        create(model=MODEL, messages=messages), create(model=MODEL, messages=messages, stream=True)
    )
    streamed = [chunk.model_dump() async for chunk in stream]
    return {"plain": plain.model_dump(), "streamed": streamed}


def test_async_shapes_in_parallel_replay_the_same(
    db: Any, provider: Provider, reincarnate: Any
) -> None:
    provider.say(["hi there"])
    seen: list[dict[str, Any]] = []
    crash = True

    @agentrun.agent
    async def talk() -> None:
        async with AsyncOpenAI(base_url=provider.base_url, api_key="k") as client:
            seen.append(await ashapes(agentrun.wrap(client)))
        if crash:
            raise SystemExit

    keyed = talk.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    keyed.run()
    assert seen[0] == seen[1]
    assert provider.billed() == 2


def test_retries_are_attempts_of_one_step(
    db: Any, provider: Provider, client: OpenAI, events: Any
) -> None:
    provider.arm(Fault.error(429, retry_after=0), Fault.error(500, nth=2))

    @agentrun.agent
    def talk() -> str | None:
        reply = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}]
        )
        return reply.choices[0].message.content

    talk.with_options(key="k").run()
    steps = [(e.event, e.attempt, e.step) for e in events("k") if e.kind == "model"]
    assert steps[-1] == ("step_finished", 3, 1)
    assert [s for s in steps if s[0] == "attempt_failed"] == [
        ("attempt_failed", 1, 1), ("attempt_failed", 2, 1),
    ]  # fmt: skip
    assert provider.billed() == 1


def test_a_long_wait_that_a_provider_asks_for_frees_the_slot(
    db: Any, provider: Provider, client: OpenAI, events: Any
) -> None:
    provider.arm(Fault.error(429, retry_after=6, when={"contains": "later"}))

    @agentrun.agent
    def talk(words: str) -> str | None:
        reply = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": words}]
        )
        return reply.choices[0].message.content

    with agentrun.Worker([talk], concurrency=1):
        later = talk.with_options(key="later").submit("later")
        until(lambda: later.status() == "waiting")
        assert "HTTP 429; tries again at" in find_run(db, "later").reason
        assert talk.with_options(key="now").submit("now").result(timeout=60) == "echo: now"
        assert later.result(timeout=60) == "echo: later"
    (failed,) = (e for e in events("later") if e.event == "attempt_failed")
    (again,) = (e for e in events("later") if e.event == "attempt_started" and e.attempt == 2)
    assert (again.at - failed.at).total_seconds() >= 6
    assert provider.billed() == 2


def test_a_resumed_run_keeps_the_wait_that_was_asked_for(
    db: Any, dsn: str, provider: Provider, client: OpenAI, events: Any
) -> None:
    """Killed in the wait; the next attempt begins no earlier for it."""
    provider.arm(Fault.error(503, retry_after=2))

    @agentrun.agent
    def talk() -> str | None:
        reply = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}]
        )
        return reply.choices[0].message.content

    def in_child() -> None:
        with agentrun.connect(dsn) as own:
            threading.Thread(target=die_refused, args=[own]).start()
            talk.with_options(key="k").run()

    def die_refused(own: OpenDatabase) -> None:
        until(lambda: bool(list_runs(own, RunFilter(("running",)), limit=1)))
        run_id = find_run(own, "k").run_id
        until(lambda: read_events(own, run_id)[0][-1].event == "attempt_failed")
        die()

    killed(in_child)
    assert talk.with_options(key="k").run() == "echo: hi"
    (failed,) = (e for e in events("k") if e.event == "attempt_failed")
    (again,) = (e for e in events("k") if e.event == "attempt_started" and e.attempt == 2)
    assert (again.at - failed.at).total_seconds() >= 2
    assert provider.billed() == 1


def test_an_error_that_reached_the_code_is_replayed(
    db: Any, provider: Provider, client: OpenAI, reincarnate: Any
) -> None:
    provider.arm(Fault.error(400, times=1))
    seen: list[Any] = []
    crash = True

    @agentrun.agent
    def talk() -> None:
        try:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
        except openai.BadRequestError as error:
            seen.append((error.status_code, error.request_id, str(error)))
        if crash:
            raise SystemExit

    keyed = talk.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    keyed.run()
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(provider.requests()) == 1


def test_usage_and_cost_are_recorded(db: Any, provider: Provider, client: OpenAI, sql: Any) -> None:
    @agentrun.agent
    def talk() -> None:
        for model in (MODEL, "nobodys-model"):
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}])

    talk.with_options(key="k").run()
    (priced, by), (unpriced, none) = sql(
        "SELECT cost, priced_by FROM agentrun.journal WHERE event = 'step_finished' ORDER BY seq"
    )
    assert priced > Decimal(0)
    assert by.startswith("genai-prices ")
    assert (unpriced, none) == (None, None)
    totals = agentrun.transcript("k").totals
    assert totals.cost == priced
    assert totals.unpriced == 1


def test_secrets_reach_no_row(
    db: Any, provider: Provider, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "sk-canary0123456789abcdefghijklmnop"
    environment = "an entirely ordinary looking value"
    monkeypatch.setenv("PAYROLL_TOKEN", environment)
    agentrun.connect(db.dsn)
    provider.say([Reply(f"the key is {canary}", chunks=3)])

    @agentrun.tool
    def leak(what: str) -> str:
        raise ValueError(f"{what} {environment} Bearer abcdefghijklmnopqrstuvwx")

    @agentrun.agent
    def talk() -> None:
        client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key=canary))
        message: Any = {"role": "user", "content": f"my key is {canary}"}
        client.chat.completions.create(model=MODEL, messages=[message])
        list(client.chat.completions.create(model=MODEL, messages=[message], stream=True))
        leak(canary)

    with pytest.raises(agentrun.RunFailed):
        talk.with_options(key="k").run()
    dump = "".join(str(row) for row in sql("SELECT j::text FROM agentrun.journal j"))
    dump += "".join(str(row) for row in sql("SELECT r::text FROM agentrun.runs r"))
    assert not sql("SELECT zstd FROM agentrun.payloads")
    dump += "".join(str(row) for row in sql("SELECT p::text FROM agentrun.partials p"))
    for secret in (canary, environment, "abcdefghijklmnopqrstuvwx"):
        parts = [secret[at : at + 10] for at in range(len(secret) - 9)]  # a stream spells it in 3
        assert not [part for part in parts if part in dump]
        assert secret not in str(agentrun.transcript("k"))
    exact = sql("SELECT part, zstd FROM agentrun.exact_values")
    assert {part for part, _ in exact} == {"input", "output", "raw"}
    kept = "".join(str(ZstdDecompressor().decompress(zstd)) for _, zstd in exact)
    assert canary in kept
    assert environment in kept


def test_the_resume_is_the_same_with_a_secret_in_the_conversation(
    db: Any, provider: Provider, client: OpenAI, reincarnate: Any
) -> None:
    secret = "sk-canary0123456789abcdefghijklmnop"
    crash = True

    @agentrun.agent
    def talk() -> None:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": secret}])
        if crash:
            raise SystemExit

    keyed = talk.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    keyed.run()
    assert provider.billed() == 1


def test_storage_is_linear_in_new_text(
    db: Any, provider: Provider, client: OpenAI, sql: Any
) -> None:
    import random

    turns = 40
    words = ["".join(random.choices("abcdefghij", k=9)) for _ in range(5000)]
    texts = [" ".join(random.choices(words, k=400)) for _ in range(turns)]
    provider.say([Reply(text) for text in texts])

    @agentrun.agent
    def talk() -> None:
        messages: list[Any] = []
        for n in range(turns):
            messages.append({"role": "user", "content": f"go on {n}"})
            reply = client.chat.completions.create(model=MODEL, messages=messages)
            message = reply.choices[0].message.model_dump(exclude_none=True)
            messages.append({"role": "assistant", "content": message["content"]})

    talk.with_options(key="k").run()
    ((stored,),) = sql(
        "SELECT sum(coalesce(length(input::text), 0) + coalesce(length(output::text), 0)) "
        "FROM agentrun.journal"
    )
    new = sum(map(len, texts))
    assert stored < new * 1.6  # per-call overhead is large beside 4 KB; quadratic would be 20 x
