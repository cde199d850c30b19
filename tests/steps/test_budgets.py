"""Budgets of runs, against the double's own ledger: reserved, settled, held, raised, shared."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun import Budget
from agentrun.models.usage import list_price
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Fault, Provider, Reply

MODEL = "gpt-4o"  # $10 a million tokens written
Events = Callable[[str], list[Any]]
Sql = Callable[..., list[tuple[Any, ...]]]


def bills(provider: Provider) -> Decimal:
    """What the double has charged, by its own ledger."""
    total = Decimal(0)
    for entry in provider.effects():
        usage = entry.facts["usage"]
        used = {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
        }
        cost, _ = list_price("", [MODEL], used)
        assert cost is not None
        total += cost
    return total


def limits(provider: Provider) -> list[int | None]:
    return [entry.body.get("max_completion_tokens") for entry in provider.ledger()]


def asking(provider: Provider) -> AsyncOpenAI:
    return agentrun.wrap(AsyncOpenAI(base_url=provider.base_url, api_key="k"))


def talk(client: OpenAI, calls: int, **asked: Any) -> Any:
    @agentrun.agent
    def talker() -> int:
        for n in range(calls):
            messages: Any = [{"role": "user", "content": f"part {n}"}]
            client.chat.completions.create(model=MODEL, messages=messages, **asked)
        return calls

    return talker


def held(agent: Any, *arguments: Any) -> agentrun.RunHeld:
    with pytest.raises(agentrun.RunHeld) as caught:
        agent.run(*arguments)
    return caught.value


def test_what_fits_is_sent_as_it_is(db: Any, client: OpenAI, provider: Provider) -> None:
    talk(client, 2).with_options(budget=Budget(usd=1)).run()
    assert limits(provider) == [None, None]


def test_a_reply_is_capped_to_what_is_left_and_the_run_is_held_and_raised(
    db: Any, client: OpenAI, provider: Provider, events: Events, sql: Sql
) -> None:
    provider.say([Reply("x", output_tokens=9_000)])
    agent = talk(client, 20, max_completion_tokens=10_000)
    agent = agent.with_options(key="k", budget=Budget(usd=1))
    told = held(agent)
    assert Decimal("0.98") < bills(provider) <= 1
    assert limits(provider)[:3] == [10_000] * 3
    assert limits(provider)[-1] < 9_000  # what was left
    assert re.search(r"usd: \$(0\.9[89]\d*|1\.00) of \$1\.00", str(told))
    assert sql("SELECT step, waits_for, name, suggested_budget FROM agentrun.inbox") == [
        (told.step, "decision", MODEL, {"usd": 2})
    ]
    held(agent)  # nothing has changed
    assert told.step is not None
    agentrun.approve("k", told.step, budget=Budget(usd=2), by="ada")
    assert sql("SELECT * FROM agentrun.inbox") == []
    assert agent.run() == 20
    assert 1 < bills(provider) <= 2
    (decision,) = [e for e in events("k") if e.event == "resolved"]
    assert (decision.status, decision.output["claimed_by"]) == ("approved", "ada")
    assert sql("SELECT sum(cost) FROM agentrun.spend") == [(bills(provider),)]


def test_the_cap_is_recorded_and_is_no_divergence(
    db: Any, client: OpenAI, provider: Provider, events: Events, reincarnate: Any
) -> None:
    provider.say([Reply("x", output_tokens=9_000)])
    crash = True

    @agentrun.agent
    def capped() -> str | None:
        messages: Any = [{"role": "user", "content": "hi"}]
        reply = client.chat.completions.create(model=MODEL, messages=messages)
        if crash:
            raise SystemExit
        return reply.choices[0].finish_reason

    keyed = capped.with_options(key="k", budget=Budget(tokens=5_000))
    with pytest.raises(SystemExit):
        keyed.run()
    crash = False
    assert keyed.run() == "length"
    (intent,) = [e for e in events("k") if e.event == "attempt_started"]
    assert intent.usage.output_tokens == limits(provider)[0]
    assert 4_900 < intent.usage.output_tokens < 5_000
    assert "tokens by" in intent.usage.priced_by
    assert "max_completion_tokens" not in intent.input["body"]
    assert provider.billed() == 1


def test_it_fails_if_it_is_to(db: Any, client: OpenAI, provider: Provider) -> None:
    agent = talk(client, 5).with_options(budget=Budget(model_calls=2, on_exhausted="fail"), key="k")
    with pytest.raises(agentrun.RunFailed, match="model_calls: 2 of 2") as failed:
        agent.run()
    assert isinstance(failed.value.__cause__, agentrun.LimitExceeded)
    assert provider.billed() == 2
    assert agentrun.get("k").status() == "failed"
    with pytest.raises(agentrun.RunFailed, match="agentrun resume k FILE --budget model_calls=4"):
        agentrun.resume("k")
    assert agentrun.resume("k", by="ada", budget=Budget(model_calls=5)) == 5
    assert provider.billed() == 5
    (resumed,) = [
        event for event in read_events(db, find_run(db, "k").run_id)[0] if event.by == "ada"
    ]
    assert resumed.reason == "budget raised to model_calls=5"


def test_a_run_without_a_budget_has_none_to_raise(db: Any) -> None:
    @agentrun.agent
    def free() -> None:
        raise ValueError

    with pytest.raises(agentrun.RunFailed):
        free.with_options(key="k").run()
    with pytest.raises(agentrun.ConfigError, match="no budget of its own"):
        agentrun.resume("k", budget=Budget(usd=1))


def test_a_rejected_raise_fails_the_run(db: Any, client: OpenAI) -> None:
    agent = talk(client, 3).with_options(budget=Budget(turns=1), key="k")
    told = held(agent)
    assert told.step is not None
    agentrun.reject("k", told.step, by="ada", reason="dear enough")
    with pytest.raises(agentrun.RunFailed, match="rejected by ada: dear enough"):
        agent.run()


def test_a_mere_approval_of_a_budget_is_refused_and_decides_nothing(
    db: Any, client: OpenAI, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTRUN_APPROVAL_SECRET", "a secret of sixteen letters")
    agent = talk(client, 2).with_options(budget=Budget(model_calls=1), key="k")
    step = held(agent).step
    assert step is not None
    link = partial(agentrun.approval_link, "k", step, base_url="https://desk", signer="ann")
    for approve in (partial(agentrun.approve, "k", step), link):
        with pytest.raises(agentrun.RunError, match=r"--budget model_calls=2.*budget=Budget"):
            approve()
    assert sql("SELECT count(*) FROM agentrun.mail") == [(0,)]
    assert link(decision="reject")
    agentrun.approve("k", step, budget=Budget(model_calls=2))
    assert agent.run() == 2


def test_a_run_that_gets_what_is_suggested_goes_on(db: Any, client: OpenAI) -> None:
    agent = talk(client, 1).with_options(budget=Budget(usd=0.00005), key="k")
    held(agent)
    (waiting,) = agentrun.inbox("k")
    assert waiting.reason.count("$0.00005") == 1
    assert waiting.step is not None
    assert isinstance(waiting.suggested_budget, dict)
    agentrun.approve("k", waiting.step, budget=Budget(**waiting.suggested_budget))
    assert agent.run() == 1


def test_in_sql_and_not_with_nonsense(db: Any, client: OpenAI, sql: Sql) -> None:
    agent = talk(client, 3).with_options(budget=Budget(turns=1), key="k")
    step = held(agent).step
    sql("SELECT agentrun.send('k', 'approve', %s, '{\"budget\": {\"turns\": \"many\"}}')", step)
    assert held(agent).step == step
    sql("SELECT agentrun.send('k', 'approve', %s, '{\"budget\": {\"turns\": 9}}')", step)
    assert agent.run() == 3


def test_a_model_without_a_price_needs_a_limit_in_tokens(db: Any, client: OpenAI) -> None:
    @agentrun.agent
    def house() -> None:
        client.chat.completions.create(
            model="house-7b", messages=[{"role": "user", "content": "hi"}]
        )

    agent = house.with_options(key="k", budget=Budget(usd=1))
    told = held(agent)
    assert "the price of the model is not known" in str(told)
    assert told.step is not None
    agentrun.approve("k", told.step, budget=Budget(tokens=100_000))
    agent.run()


def test_a_failed_attempt_costs_nothing_and_a_lost_one_stays_reserved(
    db: Any, provider: Provider, sql: Sql
) -> None:
    client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"), retries=2)
    provider.arm(Fault.error(500, headers={"retry-after-ms": "1"}))
    provider.arm(Fault.drop("effect", nth=2))
    talk(client, 2, max_tokens=1000).with_options(budget=Budget(usd=1)).run()
    found = sql("SELECT billing, cost, reserved > 0.01 FROM agentrun.spend WHERE cost IS NULL")
    assert found == [("possibly billed", None, True)]
    assert provider.billed() == 3  # two answers, and the one that was lost


def test_calls_at_once_do_not_pass_the_budget_together(db: Any, provider: Provider) -> None:
    provider.say([Reply("x", output_tokens=9_000, delay_s=0.05)])

    @agentrun.agent
    async def crowd() -> int:
        async with asking(provider) as client:

            async def one(n: int) -> None:
                with agentrun.branch(str(n)):
                    messages: Any = [{"role": "user", "content": f"part {n}"}]
                    await client.chat.completions.create(model=MODEL, messages=messages)

            await asyncio.gather(*(one(n) for n in range(20)))
        return 20

    agent = crowd.with_options(key="k", budget=Budget(usd=1))
    told = held(agent)
    assert Decimal("0.9") < bills(provider) <= 1
    assert told.step is not None
    agentrun.approve("k", told.step, budget=Budget(usd=5))
    assert agent.run() == 20


def test_threads_do_not_either(db: Any, client: OpenAI, provider: Provider) -> None:
    provider.say([Reply("x", output_tokens=9_000, delay_s=0.05)])

    @agentrun.agent
    def crowd() -> None:
        def one(n: int) -> None:
            messages: Any = [{"role": "user", "content": f"part {n}"}]
            client.chat.completions.create(model=MODEL, messages=messages)

        def quiet(n: int) -> None:
            try:
                one(n)
            except agentrun.Interrupt:
                return

        threads = [threading.Thread(target=quiet, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    held(crowd.with_options(key="k", budget=Budget(usd=1)))
    assert Decimal("0.8") < bills(provider) <= 1


def test_children_spend_of_the_parents_budget_and_keep_their_own(
    db: Any, client: OpenAI, provider: Provider
) -> None:
    child = talk(client, 5)

    @agentrun.agent
    def parent() -> str:
        try:
            child.with_options(budget=Budget(model_calls=2, on_exhausted="fail"))()
        except agentrun.LimitExceeded:
            child()
        return "done"

    budget = Budget(model_calls=4, on_exhausted="fail")
    with pytest.raises(agentrun.RunFailed, match="model_calls: 4 of 4"):
        parent.with_options(key="k", budget=budget).run()
    assert provider.billed() == 4


def test_a_worker_holds_the_tree_and_one_approval_wakes_it_all(
    db: Any, provider: Provider, sql: Sql
) -> None:
    provider.say([Reply("x", output_tokens=9_000)])

    @agentrun.agent
    async def child(n: int) -> int:
        async with asking(provider) as client:
            messages: Any = [{"role": "user", "content": f"part {n}"}]
            await client.chat.completions.create(model=MODEL, messages=messages)
        return n

    @agentrun.agent
    async def parent() -> int:
        return sum(await asyncio.gather(*(child.arun(n) for n in range(20))))

    with agentrun.Worker([parent, child], concurrency=4):
        handle = parent.with_options(key="k", budget=Budget(usd=1)).submit()
        while agentrun.get("k").status() != "waiting":
            threading.Event().wait(0.05)
        assert Decimal("0.8") < bills(provider) <= 1
        waiting = sql("SELECT key, step FROM agentrun.inbox")
        assert len(waiting) >= 5
        agentrun.approve(*waiting[0], budget=Budget(usd=9))
        assert handle.result(timeout=60) == sum(range(20))
    assert sql("SELECT tree_calls, tree_cost FROM agentrun.spend_by_run WHERE key = 'k'") == [
        (20, bills(provider))
    ]


def test_a_warning_is_given_once(
    db: Any, client: OpenAI, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "agentrun"):
        talk(client, 10).with_options(key="near", budget=Budget(model_calls=10)).run()
    said = [record.getMessage() for record in caplog.records if "budget" in record.getMessage()]
    assert said == ["run 'near' nears its budget: model_calls: 8 of 10"]


def test_without_a_budget_nothing_is_reserved(db: Any, client: OpenAI, sql: Sql) -> None:
    talk(client, 2).run()
    assert sql("SELECT * FROM agentrun.reservations") == []


def test_the_ready_made_agent_takes_one(db: Any, client: OpenAI, provider: Provider) -> None:
    made = agentrun.Agent(name="made", client=client, model=MODEL, budget=Budget(model_calls=1))
    assert made.run("hi") == "echo: hi"
    told = held(made.with_options(key="k", budget=Budget(usd=0.0001)), "hi")
    assert "usd: $0.00 of $0.0001" in str(told)


def test_a_decorated_agent_has_one(db: Any, client: OpenAI) -> None:
    @agentrun.agent(budget=Budget(model_calls=1))
    def declared() -> None:
        for n in "ab":
            messages: Any = [{"role": "user", "content": n}]
            client.chat.completions.create(model=MODEL, messages=messages)

    assert "model_calls: 1 of 1" in str(held(declared))
