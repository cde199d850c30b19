"""Caps on tool calls: in one reply, and of a whole run. The model is told before anything else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from crashing import World, die_recorded, killed
from openai import OpenAI

import agentrun
from agentrun import Budget
from agentrun.testing import Call, Provider, Reply

Sql = Callable[..., list[tuple[Any, ...]]]
OVER = "not performed: at most 2 calls in one reply, and this one asked for 5: 3 left out. "
USED_UP = "not performed: the budget of tool calls is used up (tool_calls: "


@pytest.fixture
def book(world: World) -> Any:
    @agentrun.tool
    def book(n: int) -> int:
        world.act(str(n))
        return n

    return book


def asks(*numbers: int) -> Reply:
    return Reply(tool_calls=[Call("book", {"n": n}) for n in numbers])


def answered(messages: list[Any]) -> list[str]:
    return [m["content"] for m in messages if m["role"] == "tool"]


def errors(messages: list[Any]) -> list[str]:
    told = [json.loads(text) for text in answered(messages)]
    return [one["error"] for one in told if isinstance(one, dict)]


def talker(client: OpenAI, tool: Any, **caps: Any) -> Any:
    """An agent with the usual loop; it returns all that was said."""

    @agentrun.agent
    def talker() -> list[Any]:
        messages: list[Any] = [{"role": "user", "content": "go"}]
        while True:
            completion = client.chat.completions.create(model="gpt-5-mini", messages=messages)
            reply = completion.choices[0].message
            messages.append(reply.model_dump(exclude_none=True))
            if not reply.tool_calls:
                return messages
            messages += agentrun.call_tools(completion, [tool], **caps)

    return talker


# -- in one reply ----------------------------------------------------------------------------------


def test_calls_over_the_cap_are_answered_and_not_performed(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any
) -> None:
    provider.say([asks(1, 2, 3, 4, 5), "done"])
    agent = talker(client, book, max_calls=2).with_options(key="k")
    messages = agent.run()
    assert answered(messages)[:2] == ["1", "2"]
    assert len(errors(messages)) == 3
    assert all(error.startswith(OVER) for error in errors(messages))
    assert world.effects == ["1", "2"]
    assert [step.status for step in agentrun.transcript("k").steps if step.kind == "tool"] == [
        *["ok"] * 2, *["error"] * 3
    ]  # fmt: skip
    assert agent.run() == messages


@pytest.mark.parametrize("cap", [2, 4, None], ids=["the same", "a larger one", "none"])
def test_what_was_left_out_stays_so_whatever_the_cap_is_on_resume(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any, reincarnate: Any,
    cap: int | None,
) -> None:  # fmt: skip
    provider.say([asks(1, 2, 3, 4, 5), "done"])
    seen: list[Any] = []

    @agentrun.agent
    def crashes() -> list[str]:
        reply = client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "go"}]
        )
        told = agentrun.call_tools(reply, [book], max_calls=cap if seen else 2)
        seen.append(told)
        if len(seen) == 1:
            raise SystemExit
        return answered(told)

    agent = crashes.with_options(key="k")
    with pytest.raises(SystemExit):
        agent.run()
    reincarnate()
    assert agent.run() == answered(seen[0])
    assert seen[0] == seen[1]
    assert world.effects == ["1", "2"]


def test_all_at_once_and_outside_a_run_too(
    db: Any, provider: Provider, world: World, book: Any
) -> None:
    calls = [
        {"id": str(n), "type": "function",
         "function": {"name": "book", "arguments": json.dumps({"n": n})}}
        for n in range(5)
    ]  # fmt: skip
    message = {"role": "assistant", "tool_calls": calls}

    @agentrun.agent
    async def many() -> list[Any]:
        return await agentrun.acall_tools(message, [book], max_calls=2)

    for told in (many.run(), agentrun.call_tools(message, [book], max_calls=2)):
        assert sorted(answered(told))[:2] == ["0", "1"]
        assert [error.startswith(OVER) for error in errors(told)] == [True] * 3
    assert sorted(world.effects) == ["0", "0", "1", "1"]


def test_the_ready_made_agent_takes_one(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any
) -> None:
    provider.say([asks(1, 2, 3, 4, 5), "done"])
    made = agentrun.Agent(name="made", client=client, model="m", tools=[book], max_calls=2)
    assert made.run("go") == "done"
    assert world.effects == ["1", "2"]
    told = [m["content"] for m in provider.ledger()[-1].body["messages"] if m["role"] == "tool"]
    assert [OVER in text for text in told] == [False, False, True, True, True]


def test_a_cap_is_a_whole_number_above_zero(client: OpenAI, book: Any) -> None:
    for wrong in (0, -1, 1.5, "two"):
        with pytest.raises(agentrun.ConfigError, match="max_calls="):
            agentrun.call_tools({"role": "assistant"}, [book], max_calls=wrong)  # type: ignore[arg-type]
        with pytest.raises(agentrun.ConfigError, match="max_calls="):
            agentrun.Agent(name="no", client=client, model="m", max_calls=wrong)  # type: ignore[arg-type]


# -- of a run --------------------------------------------------------------------------------------


def test_the_model_is_told_that_the_budget_is_used_up_and_may_answer(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any
) -> None:
    provider.say([asks(1, 2), asks(3, 4, 5), "what I have"])
    agent = talker(client, book).with_options(key="k", budget=Budget(tool_calls=3))
    messages = agent.run()
    assert messages[-1]["content"] == "what I have"
    assert world.effects == ["1", "2", "3"]
    assert len(errors(messages)) == 2
    for error in errors(messages):
        assert error.startswith(f"{USED_UP}3 of 3); 2 of the 3 calls of this reply left out. ")
        assert error.endswith("answer now, with what you have")
    assert agentrun.inbox() == []
    assert agent.run() == messages


def test_if_it_asks_again_the_run_waits_for_a_larger_budget(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any
) -> None:
    provider.say([asks(1, 2), asks(3, 4), "done"])
    agent = talker(client, book).with_options(key="k", budget=Budget(tool_calls=1))
    with pytest.raises(agentrun.RunHeld, match="next tool call: tool_calls: 1 of 1") as held:
        agent.run()
    assert held.value.step is not None
    assert "agentrun inbox k" in str(held.value)
    assert [one.suggested_budget for one in agentrun.inbox("k")] == [{"tool_calls": 2}]
    assert world.effects == ["1"]
    with pytest.raises(agentrun.RunHeld):
        agent.run()  # nothing has changed
    agentrun.approve("k", held.value.step, budget=Budget(tool_calls=9), by="ada")
    messages = agent.run()
    assert world.effects == ["1", "3", "4"]
    assert [error.startswith(USED_UP) for error in errors(messages)] == [True]


def test_or_fails_if_it_is_to(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any
) -> None:
    provider.say([asks(1), asks(2), asks(3), "done"])
    budget = Budget(tool_calls=1, on_exhausted="fail")
    agent = talker(client, book).with_options(key="k", budget=budget)
    with pytest.raises(agentrun.RunFailed, match="--budget tool_calls=2") as failed:
        agent.run()
    assert isinstance(failed.value.__cause__, agentrun.LimitExceeded)
    assert provider.billed() == 3
    assert world.effects == ["1"]
    messages = agentrun.resume("k", budget=Budget(tool_calls=2))
    assert messages[-1]["content"] == "done"
    assert world.effects == ["1", "3"]


def test_a_loop_of_ones_own_is_told_by_an_exception_that_a_resume_raises_again(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any, reincarnate: Any
) -> None:
    provider.say([asks(1, 2, 3), asks(4)])
    seen: list[list[str]] = []

    @agentrun.agent
    def plain() -> None:
        told: list[str] = []
        seen.append(told)
        for part in ("one", "two"):
            completion = client.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": part}]
            )
            for call in completion.choices[0].message.tool_calls or []:
                try:
                    told.append(book(**json.loads(call.function.arguments)))  # type: ignore[union-attr]
                except agentrun.ToolFailed as error:
                    told.append(str(error))
            if len(seen) == 1:
                raise SystemExit

    agent = plain.with_options(key="k", budget=Budget(tool_calls=1, on_exhausted="fail"))
    with pytest.raises(SystemExit):
        agent.run()
    reincarnate()
    with pytest.raises(agentrun.RunFailed, match="tool_calls: 1 of 1"):
        agent.run()
    assert seen[0] == seen[1]
    assert [isinstance(one, str) and USED_UP in one for one in seen[0]] == [False, True, True]
    assert world.effects == ["1"]


def test_killed_in_the_middle_of_a_reply_it_counts_each_call_once(
    db: Any, dsn: str, provider: Provider, world: World
) -> None:
    """Three are allowed. The second one is under way at each of two kills, and counts once."""
    provider.say([asks(1, 2, 3, 4), "done"])

    @agentrun.tool(effect="idempotent")
    def book(n: int) -> int:
        world.act(str(n))
        if n == 2 and world.effects.count("2") < 3:
            die_recorded()
        return n

    def attempt() -> Any:
        with agentrun.connect(dsn):
            client = agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))
            agent = talker(client, book).with_options(key="k", budget=Budget(tool_calls=3))
            return agent.run()

    killed(attempt)
    killed(attempt)
    messages = attempt()
    assert world.effects == ["1", "2", "2", "2", "3"]
    (error,) = errors(messages)
    assert error.startswith(f"{USED_UP}3 of 3); 1 of the 4 calls of this reply left out. ")


def test_calls_at_once_and_of_children_do_not_pass_it_together(
    db: Any, provider: Provider, world: World, sql: Sql
) -> None:
    @agentrun.tool(effect="read")
    async def look(who: str, n: int) -> int:
        await asyncio.sleep(0)
        world.act(f"{who} {n}")
        return n

    async def three(who: str) -> int:
        refused = 0
        for n in range(3):
            try:
                await look(who, n)
            except agentrun.ToolFailed:
                refused += 1
        return refused

    @agentrun.agent
    async def child(who: str) -> int:
        return await three(who)

    @agentrun.agent
    async def parent() -> int:
        async def branch(name: str) -> int:
            with agentrun.branch(name):
                return await three(name)

        names = ("a", "b")
        return sum(
            await asyncio.gather(*(branch(n) for n in names), *(child.arun(n + n) for n in names))
        )

    agent = parent.with_options(key="k", budget=Budget(tool_calls=11))
    assert agent.run() == 1
    assert len(world.effects) == 11
    assert sql("SELECT count(*) FROM agentrun.counted_calls") == [(11,)]


def test_a_larger_budget_is_no_approval_of_the_call(
    db: Any, client: OpenAI, provider: Provider, world: World
) -> None:
    @agentrun.tool(approve=lambda n: n > 2)
    def book(n: int) -> int:
        world.act(str(n))
        return n

    provider.say([asks(1), asks(2), asks(3), "done"])
    agent = talker(client, book).with_options(key="k", budget=Budget(tool_calls=1))
    with pytest.raises(agentrun.RunHeld, match="next tool call") as held:
        agent.run()
    assert held.value.step is not None
    agentrun.approve("k", held.value.step, budget=Budget(tool_calls=9))
    with pytest.raises(agentrun.RunHeld, match="waits for an approval") as asked:
        agent.run()
    assert asked.value.step == held.value.step
    assert world.effects == ["1"]
    agentrun.approve("k", held.value.step)
    agent.run()
    assert world.effects == ["1", "3"]


def test_calls_that_cannot_be_made_do_not_count(
    db: Any, client: OpenAI, provider: Provider, world: World, book: Any, sql: Sql
) -> None:
    nobody = Call("nobody", {})
    provider.say([Reply(tool_calls=[nobody, Call("book", {"n": 1}), nobody]), asks(2), "done"])
    talker(client, book).with_options(key="k", budget=Budget(tool_calls=2)).run()
    assert world.effects == ["1", "2"]
    assert sql("SELECT count(*) FROM agentrun.counted_calls") == [(2,)]


def test_without_such_a_budget_nothing_is_counted(
    db: Any, client: OpenAI, provider: Provider, book: Any, sql: Sql
) -> None:
    provider.say([asks(1), "done"])
    talker(client, book).with_options(budget=Budget(model_calls=9)).run()
    assert sql("SELECT * FROM agentrun.counted_calls") == []
