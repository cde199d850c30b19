"""A tool that is called without a step is named in a warning: a resumed run calls it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI

import agentrun
from agentrun.steps import unrecorded_calls
from agentrun.testing import Call, Provider, Reply

Loop = Callable[[OpenAI, Callable[[str], str]], None]


@pytest.fixture(autouse=True)
def warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded_calls, "_warned", set())


def chat(client: OpenAI, act: Callable[[str], str]) -> None:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    while True:
        reply = client.chat.completions.create(model="gpt-5-mini", messages=messages)
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls or ():
            content = act(json.loads(call.function.arguments)["what"])  # type: ignore[union-attr]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        if not message.tool_calls:
            return


def responses(client: OpenAI, act: Callable[[str], str]) -> None:
    items: list[Any] = [{"role": "user", "content": "go"}]
    while True:
        reply = client.responses.create(model="gpt-5-mini", input=items)
        calls = [item for item in reply.output if item.type == "function_call"]
        items += [item.model_dump(exclude_none=True) for item in reply.output]
        for call in calls:
            output = act(json.loads(call.arguments)["what"])
            one = {"type": "function_call_output", "call_id": call.call_id, "output": output}
            items.append(one)
        if not calls:
            return


def run(client: OpenAI, loop: Loop, act: Callable[[str], str]) -> None:
    @agentrun.agent(name=f"unrecorded {loop.__name__}")
    def agent() -> None:
        loop(client, act)

    agent.run()


def asking(provider: Provider, tool: str) -> None:
    """The model asks for the tool twice, in two replies."""
    asks = [Reply(tool_calls=[Call(tool, {"what": what})]) for what in ("one", "two")]
    provider.say([*asks, "done"])


@pytest.mark.parametrize("loop", [chat, responses])
def test_a_plain_function_is_named_once(
    db: Any, provider: Provider, client: OpenAI, caplog: pytest.LogCaptureFixture, loop: Loop
) -> None:
    asking(provider, "ship")
    run(client, loop, lambda what: f"shipped {what}")
    (record,) = [one for one in caplog.records if "without a step" in one.message]
    assert "the tool 'ship'" in record.message
    assert "@agentrun.tool" in record.message


@pytest.mark.parametrize("loop", [chat, responses])
def test_a_decorated_tool_is_not(
    db: Any, provider: Provider, client: OpenAI, caplog: pytest.LogCaptureFixture, loop: Loop
) -> None:
    @agentrun.tool(effect="idempotent")
    def ship(what: str) -> str:
        return f"shipped {what}"

    asking(provider, "ship")
    run(client, loop, ship)
    assert "without a step" not in caplog.text


def test_what_call_tools_refuses_is_recorded_too(
    db: Any, provider: Provider, client: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    @agentrun.agent
    def agent() -> None:
        messages: list[Any] = [{"role": "user", "content": "go"}]
        for _ in range(2):
            reply = client.chat.completions.create(model="gpt-5-mini", messages=messages)
            messages.append(reply.choices[0].message.model_dump(exclude_none=True))
            messages.extend(agentrun.call_tools(reply, []))

    provider.say([Reply(tool_calls=[Call("nobody", {"what": "x"})]), "done"])
    agent.run()
    assert "without a step" not in caplog.text


def test_what_only_hands_the_conversation_on_is_not(
    db: Any, provider: Provider, client: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    asking(provider, "transfer_to_billing")
    run(client, chat, lambda _: "transferred")
    assert "without a step" not in caplog.text
