"""`Agent`: the ready-made loop, with every kind of client, killed and resumed."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from crashing import World, die_recorded, killed
from openai import AsyncOpenAI, OpenAI
from sayings import Saying, Server, completion

import agentrun
from agentrun.lifecycle.event_loop import run_in_loop
from agentrun.testing import Call, Provider, Reply

CLIENTS: dict[str, tuple[type[Any], str]] = {
    "chat": (OpenAI, "chat"),
    "async chat": (AsyncOpenAI, "chat"),
    "responses": (OpenAI, "responses"),
    "async responses": (AsyncOpenAI, "responses"),
    "anthropic": (Anthropic, "anthropic"),
    "async anthropic": (AsyncAnthropic, "anthropic"),
}


@agentrun.tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def client_of(provider: Provider) -> Iterator[Callable[[str], Any]]:
    opened = []

    def client(shape: str, base_url: str = provider.base_url, **options: Any) -> Any:
        kind, api = CLIENTS[shape]
        # Anthropic's client adds /v1 by itself.
        url = base_url.removesuffix("/v1") if api == "anthropic" else base_url
        opened.append(kind(base_url=url, api_key="k", **options))
        return opened[-1]

    yield client
    for client in opened:
        if closing := client.close():
            run_in_loop(closing)


@pytest.fixture
def made(client_of: Any) -> Callable[..., agentrun.Agent]:
    def make(shape: str, **options: Any) -> agentrun.Agent:
        api: Any = CLIENTS[shape][1]
        given = {"tools": [add], **options}
        client = client_of(shape)
        return agentrun.Agent(name="helper", client=client, model="gpt-5-mini", api=api, **given)

    return make


@pytest.mark.parametrize("shape", CLIENTS)
def test_it_asks_performs_and_answers(
    db: Any, provider: Provider, made: Any, shape: str, events: Callable[[str], Any]
) -> None:
    provider.say([Reply(tool_calls=[Call("add", {"a": 2, "b": 3})]), "It is 5."])
    agent = made(shape, prompt="Be brief.", extra_body={"temperature": 0})
    assert agent.with_options(key="k").run("2 + 3?") == "It is 5."
    finished = [e for e in events("k") if e.event == "step_finished"]
    assert [(e.kind, e.turn) for e in finished] == [("model", 1), ("tool", 1), ("model", 2)]
    asked = next(e for e in events("k") if e.event == "attempt_started")
    assert asked.input["body"]["temperature"] == 0
    assert "Be brief." in agentrun.as_text(agentrun.transcript("k"))
    assert agent.with_options(key="k").run("2 + 3?") == "It is 5."
    assert provider.billed() == 2


@pytest.mark.parametrize("shape", CLIENTS)
def test_killed_in_a_tool_it_goes_on_without_paying_again(
    db: Any, dsn: str, provider: Provider, made: Any, tmp_path: Path, shape: str
) -> None:
    world = World(tmp_path / "effects")
    provider.say([Reply(tool_calls=[Call("book", {"day": "Monday"})]), "Booked."])
    crash = [True]

    def find(key: str, day: str) -> Any:
        done = day in world.effects
        return agentrun.Happened(day) if done else agentrun.NotHappened()

    @agentrun.tool(reconcile=find)
    def book(day: str) -> str:
        world.act(day)
        if crash[0]:
            die_recorded()
        return day

    agent = made(shape, tools=[book]).with_options(key="k")

    def action() -> None:
        agentrun.connect(dsn)
        agent.run("book Monday")

    killed(action)
    crash[0] = False
    assert agent.run("book Monday") == "Booked."
    assert world.effects == ["Monday"]
    assert provider.billed() == 2


def test_the_prompt_may_be_a_file(db: Any, provider: Provider, made: Any, tmp_path: Path) -> None:
    file = tmp_path / "prompt.md"
    file.write_text("Answer in verse.\n")
    provider.say(["la la"])
    agent = made("chat", prompt=file, tools=[])
    assert agent.run("sing") == "la la"
    (entry,) = provider.ledger()
    assert entry.body["messages"][0] == {"role": "system", "content": "Answer in verse."}
    assert "tools" not in entry.body


def test_a_model_that_never_answers_fails_the_run(db: Any, provider: Provider, made: Any) -> None:
    provider.say([Reply(tool_calls=[Call("add", {"a": 1, "b": 1})])] * 3)
    with pytest.raises(agentrun.RunFailed, match="asked its model 2 times") as failed:
        made("chat", max_turns=2).run("go")
    assert isinstance(failed.value.__cause__, agentrun.LimitExceeded)


FINE: dict[str, dict[str, Any]] = {
    "chat": completion("fine"),
    "responses": {"output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant",
         "content": [{"type": "output_text", "text": "fi"}, {"type": "output_text", "text": "ne"}]},
    ]},
    "anthropic": {"type": "message", "role": "assistant",
                  "content": [{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}]},
}  # fmt: skip
NONSENSE: list[Any] = [{}, [], 7, "text", None,
    *({field: value} for field in ("choices", "output", "content") for value in (None, 7, {}, "x")),
    {"choices": []}, {"choices": [None]}, {"choices": [[]]}, {"choices": [{"message": None}]},
    {"choices": [{"message": "text"}]},
]  # fmt: skip


@pytest.fixture
def words() -> Iterator[Server]:
    with Server() as words:
        yield words


@pytest.fixture
def listener(client_of: Any, words: Server) -> Callable[[str], agentrun.Agent]:
    def make(shape: str) -> agentrun.Agent:
        # One attempt a request: a reply that is no answer is otherwise a failed attempt first.
        client, api = client_of(shape, words.url, max_retries=0), CLIENTS[shape][1]
        return agentrun.Agent(name="listener", client=client, model="m", api=api, tools=[add])

    return make


@pytest.mark.parametrize("shape", CLIENTS)
def test_a_reply_without_a_message_after_the_last_attempt_is_asked_for_again(
    db: Any, words: Server, listener: Any, shape: str
) -> None:
    agent, fine = listener(shape), FINE[CLIENTS[shape][1]]
    for number, body in enumerate(NONSENSE):
        plain = Saying((b"busy",), headers=(("content-type", "text/plain"),))
        words.say(Saying.json(body), plain, Saying.json(fine))
        keyed = agent.with_options(key=f"k{number}")
        assert [keyed.run("hi"), keyed.run("hi")] == ["fine", "fine"]
        assert words.sayings == []
    asked = json.loads(words.requests[-1][2])
    assert json.dumps(asked).count("Your reply held no message") == 2


@pytest.mark.parametrize("shape", ["chat", "async responses", "anthropic"])
def test_a_model_that_says_nothing_fails_the_run(
    db: Any, words: Server, listener: Any, shape: str
) -> None:
    words.say(*[Saying.json({})] * 9)
    with pytest.raises(agentrun.RunFailed, match="4 replies in a row held no message"):
        listener(shape).run("hi")
    assert len(words.requests) == 4


@pytest.mark.parametrize("shape", ["chat", "responses", "anthropic"])
def test_what_is_no_utf8_can_be_said_to_the_model_again(
    db: Any, words: Server, listener: Any, shape: str
) -> None:
    arguments = {"a": "\ud800", "b": "\0"}
    text = json.dumps(arguments)
    call = {
        "id": "\udfff",
        "type": "function",
        "function": {"name": "add\ud800", "arguments": text},
    }
    asks: dict[str, dict[str, Any]] = {
        "chat": {"choices": [{"message": {"role": "assistant", "content": "\ud83d",
                                          "tool_calls": [call]}}]},
        "responses": {"output": [{"type": "function_call", "call_id": "\udfff",
                                  "name": "add\ud800", "arguments": text}]},
        "anthropic": {"content": [{"type": "tool_use", "id": "\udfff", "name": "add\ud800",
                                   "input": arguments}]},
    }  # fmt: skip
    words.say(Saying.json(asks[shape]), Saying.json(FINE[shape]))
    keyed = listener(shape).with_options(key="k")
    assert [keyed.run("hi"), keyed.run("hi")] == ["fine", "fine"]
    assert "there is no tool" in words.requests[-1][2].decode()


def test_it_is_an_agent_like_any_other(db: Any, provider: Provider, made: Any) -> None:
    provider.say(["hello"])
    agent = made("chat", tools=[])
    assert isinstance(agent.with_options(key="k"), agentrun.Agent)

    @agentrun.agent
    def parent() -> str:
        return str(agent("as a child"))

    assert parent.run() == "hello"
    with agentrun.Worker([agent]):
        assert agent.submit("queued").result(timeout=60) == "hello"


def test_an_async_agent_may_be_run_again_and_again(db: Any, provider: Provider, made: Any) -> None:
    provider.say(["hello"])
    agent = made("async chat", tools=[])
    assert [agent.run("hi") for _ in range(3)] == ["hello"] * 3  # on the connection of the first


def test_a_loop_that_is_closed_is_forgotten(db: Any) -> None:
    @agentrun.tool
    async def act() -> None: ...

    @agentrun.agent
    async def acts() -> None:
        await act()
        loops.append(weakref.ref(asyncio.get_running_loop()))

    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    asyncio.run(acts.arun())
    gc.collect()
    assert loops[0]() is None


FORKS = """
import asyncio, gc, os
from agentrun.lifecycle.event_loop import run_in_loop

async def woken():
    async with asyncio.timeout(20):
        return await asyncio.to_thread(lambda: True)

assert run_in_loop(woken())
if (child := os.fork()) == 0:
    asyncio.run(asyncio.sleep(0))
    gc.collect()  # of the loop that it inherited
    os._exit(0)
os.waitpid(child, 0)
assert run_in_loop(woken())
"""


def test_a_forked_child_leaves_its_parents_loop_alone() -> None:
    subprocess.run([sys.executable, "-c", FORKS], check=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"client": object()}, "wrap\\(\\) takes an OpenAI or Anthropic client"),
        ({"api": "anthropic"}, "speaks chat and responses"),
        ({"prompt": Path("/nowhere/prompt.md")}, "prompt='/nowhere/prompt.md' cannot be read"),
        ({"tools": [len]}, "is not a tool"),
    ],
)
def test_what_does_not_fit_is_refused(client_of: Any, options: dict[str, Any], says: str) -> None:
    given = {"client": client_of("chat"), **options}
    with pytest.raises(agentrun.ConfigError, match=says):
        agentrun.Agent(name="helper", model="m", **given)


def test_an_async_tool_needs_an_async_client(made: Any) -> None:
    @agentrun.tool
    async def later() -> None: ...

    with pytest.raises(agentrun.ConfigError, match="cannot await tool 'later'"):
        made("chat", tools=[later])
