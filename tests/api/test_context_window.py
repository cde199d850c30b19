"""Conversations that come near the model's context window: cut between turns, alike on resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from crashing import die_recorded, killed
from openai import OpenAI
from openai.types.chat import ChatCompletionMessage

import agentrun
from agentrun.testing import Call, Provider, Reply, Rule

QUESTION = "how is the weather?"
APIS = {"chat": OpenAI, "responses": OpenAI, "anthropic": Anthropic}
TURNS = 14
LIMIT = 400  # tokens, by the double's count


def weather(n: int) -> str:
    return f"day {n}: " + "fine weather " * 20


@agentrun.tool
def look(n: int) -> str:
    return weather(n)


@pytest.fixture
def agent_of(provider: Provider) -> Iterator[Callable[..., agentrun.Agent]]:
    """Agents whose model looks at one day after the other, whatever it still remembers."""
    asks = [Reply(tool_calls=[Call("look", {"n": n})]) for n in range(TURNS)]
    rules = [Rule({"contains": f"day {n - 1}:"}, asks[n]) for n in range(1, TURNS)]
    last = Rule({"contains": f"day {TURNS - 1}:"}, "All is fine.")
    summary = Rule({"contains": "assistant calls look"}, "Much was fine.")
    provider.say([asks[0]], [summary, *rules, last])
    clients = []

    def agent(api: Any, tool: Any = look, **options: Any) -> agentrun.Agent:
        url = provider.base_url.removesuffix("/v1" if api == "anthropic" else "")
        clients.append(APIS[api](base_url=url, api_key="k"))
        return agentrun.Agent(
            name="watcher",
            client=clients[-1],
            model="gpt-5-mini",
            prompt="Be brief.",
            tools=[tool],
            api=api,
            **{"context_tokens": LIMIT, **options},
        )

    yield agent
    for client in clients:
        client.close()


@pytest.fixture
def requests(events: Callable[[str], Any]) -> Callable[[], list[dict[str, Any]]]:
    """The bodies that were sent to the model."""

    def sent() -> list[dict[str, Any]]:
        asked = [e for e in events("k") if e.event == "attempt_started" and e.kind == "model"]
        return [event.input["body"] for event in asked]

    return sent


def conversation(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = body.get("messages") or body["input"]
    return messages


def assert_whole(body: dict[str, Any]) -> None:
    """It begins with the question, and results are those of the calls, as providers demand."""
    assert QUESTION in json.dumps(conversation(body)[:2])
    ids: dict[str, list[str]] = {"call": [], "result": []}
    for part in parts(conversation(body)):
        if part.get("type") in ("function", "tool_use", "function_call"):
            ids["call"].append(part.get("call_id") or part["id"])
        result = part.get("tool_call_id") or part.get("tool_use_id")
        if part.get("type") == "function_call_output":
            result = part["call_id"]
        if result:
            ids["result"].append(result)
    assert ids["call"] == ids["result"]


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            yield from parts(item)


@pytest.mark.parametrize("api", APIS)
def test_an_agent_leaves_out_its_oldest_turns(
    db: Any, agent_of: Any, api: str, requests: Any, events: Callable[[str], Any]
) -> None:
    assert agent_of(api).with_options(key="k").run(QUESTION) == "All is fine."
    bodies = requests()
    assert len(bodies) == TURNS + 1
    for body in bodies:
        assert_whole(body)
    finished = [e.usage for e in events("k") if e.event == "step_finished" and e.usage]
    assert max(usage.input_tokens for usage in finished) < LIMIT
    lengths = [len(conversation(body)) for body in bodies]
    cuts = [n for n in range(1, len(lengths)) if lengths[n] < lengths[n - 1]]
    assert 1 < len(cuts) < TURNS / 2, "a third goes at once, so that the cache serves the rest"
    shown = agentrun.as_text(agentrun.transcript("k"))
    assert shown.count("left out from here on") == len(cuts)
    assert all(f"day {n}:" in shown for n in range(TURNS)), "the journal has it all"


@pytest.mark.parametrize("when_full", ["trim", "compact"])
def test_a_resumed_run_cuts_where_it_did(
    db: Any, provider: Provider, agent_of: Any, when_full: str, dsn: str
) -> None:
    """Killed behind the last cut: nothing that is recorded is asked again."""

    @agentrun.tool(name="look", effect="idempotent")
    def deadly(n: int) -> str:
        if n == TURNS - 1 and agentrun.current_step().attempt == 1:
            die_recorded()
        return weather(n)

    agent = agent_of("chat", tool=deadly, when_full=when_full).with_options(key="k")

    def in_child() -> None:
        with agentrun.connect(dsn):
            agent.run(QUESTION)

    killed(in_child)
    assert provider.billed() >= TURNS
    before = provider.billed()
    assert agent.run(QUESTION) == "All is fine."
    assert provider.billed() == before + 1


def test_compacting_puts_a_summary_where_the_turns_were(
    db: Any, agent_of: Any, requests: Any
) -> None:
    agent = agent_of("chat", when_full="compact").with_options(key="k")
    assert agent.run(QUESTION) == "All is fine."
    bodies = requests()
    asked = [n for n, body in enumerate(bodies) if "Sum up" in json.dumps(body)]
    assert asked
    for n in asked:
        head = conversation(bodies[n + 1])[:3]
        assert [message["role"] for message in head] == ["system", "user", "user"]
        assert head[2]["content"].endswith("Much was fine.")
        assert_whole(bodies[n + 1])
        assert "tools" not in bodies[n]
    assert "Much was fine." in json.dumps(bodies[asked[1]]), "a summary is summed up in its turn"


def test_what_fits_is_left_alone() -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    assert agentrun.trim_messages(messages, max_tokens=1_000) == messages
    assert agentrun.trim_messages([], max_tokens=1) == []


def test_a_message_may_be_an_object_of_the_sdk() -> None:
    said = ChatCompletionMessage(role="assistant", content="x" * 900)
    messages = [{"role": "user", "content": "q"}, said, {"role": "user", "content": "and?"}]
    assert agentrun.trim_messages(messages, max_tokens=1_000)[1] is said
    assert agentrun.trim_messages(messages, max_tokens=100) == [messages[0], messages[2]]


def test_what_was_cut_is_not_cut_again() -> None:
    messages = [{"role": "user", "content": f"{n} " * 50} for n in range(20)]
    once = agentrun.trim_messages(messages, max_tokens=300)
    assert once[0] == messages[0]
    assert once[1:] == messages[-len(once) + 1 :]
    assert agentrun.trim_messages(once, max_tokens=300) == once


def test_the_last_turn_stays_whatever_its_size() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "x" * 10_000},
    ]
    assert agentrun.trim_messages(messages, max_tokens=100) == [*messages[:2], messages[3]]


def test_the_bytes_of_an_image_are_no_tokens() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000}}
    messages = [{"role": "user", "content": "q"}, {"role": "user", "content": [picture]}]
    messages.append({"role": "assistant", "content": "a cat"})
    assert agentrun.trim_messages(messages, max_tokens=2_000) == messages


@pytest.mark.parametrize("wrong", [{"context_tokens": 0}, {"when_full": "explode"}])
def test_an_agent_that_cannot_be_is_refused(agent_of: Any, wrong: Any) -> None:
    with pytest.raises(agentrun.ConfigError, match=f"{next(iter(wrong))}=.*must be"):
        agent_of("chat", **wrong)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_tokens": 9, "bytes_per_token": 0}])
def test_a_limit_is_above_zero(wrong: Any) -> None:
    with pytest.raises(agentrun.ConfigError, match="above zero"):
        agentrun.trim_messages([], **wrong)
