"""The double in its other dialects: the Responses API, Anthropic's messages, Azure's paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import AzureOpenAI, OpenAI

from agentrun.testing import Call, Fault, Provider, Reply, Rule

MODEL = "gpt-5-mini"
ASK: Any = {"model": "claude-double", "max_tokens": 50}
HELLO: Any = [{"role": "user", "content": "hello there"}]
SCRIPT = [Reply("I look.", [Call("look", {"at": "a"}), Call("look", {"at": "b"})]), "found"]
CALL: Any = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "c1", "output": "x"}
USE: Any = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look",
                                             "input": {}}]}  # fmt: skip
RESULT: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1",
                                            "content": "x"}]}  # fmt: skip


@pytest.fixture
def claude(provider: Provider) -> Iterator[Anthropic]:
    with Anthropic(base_url=provider.url, api_key="k", max_retries=0) as made:
        yield made


def said(message: Any) -> list[Any]:
    return [b.text if b.type == "text" else (b.name, b.input) for b in message.content]


# -- responses -------------------------------------------------------------------------------------


def test_a_response_echoes_and_is_billed(provider: Provider, client: OpenAI) -> None:
    reply = client.responses.create(model=MODEL, input="hello there")
    assert (reply.output_text, reply.status, reply.model) == (
        "echo: hello there",
        "completed",
        MODEL,
    )
    (bill,) = provider.effects()
    assert bill.facts["response_id"] == reply.id
    assert bill.facts["usage"]["input_tokens"] == reply.usage.input_tokens > 0
    assert reply._request_id


def test_a_turn_of_a_response_may_have_several_items(provider: Provider, client: OpenAI) -> None:
    provider.say(SCRIPT)
    reply: Any = client.responses.create(model=MODEL, input=HELLO)
    assert [item.type for item in reply.output] == ["message", "function_call", "function_call"]
    items = [*HELLO, *(item.model_dump() for item in reply.output)]
    items += [{**OUTPUT, "call_id": call.call_id} for call in reply.output[1:]]
    assert client.responses.create(model=MODEL, input=items).output_text == "found"
    assert [entry.facts["turn"] for entry in provider.effects()] == [0, 1]


def test_a_streamed_response_is_the_plain_one_in_pieces(provider: Provider, client: OpenAI) -> None:
    provider.say(SCRIPT)
    with client.responses.stream(model=MODEL, input=HELLO) as stream:
        events = list(stream)
        final: Any = stream.get_final_response()
    assert [e.sequence_number for e in events] == sorted({e.sequence_number for e in events})
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == final.output_text == "I look."
    assert [call.arguments for call in final.output[1:]] == ['{"at": "a"}', '{"at": "b"}']
    assert events[-1].type == "response.completed"


def test_a_response_at_its_limit_is_incomplete(provider: Provider, client: OpenAI) -> None:
    provider.say([Reply("so fa", finish_reason="length")])
    reply = client.responses.create(model=MODEL, input="hello")
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    *_, last = client.responses.create(model=MODEL, input="hello", stream=True)
    assert last.type == "response.incomplete"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"input": [*HELLO, CALL]}, "No tool output found for function call c1"),
        ({"input": [*HELLO, OUTPUT]}, "No tool call found for function call output"),
        ({"input": []}, "'input'"),
        ({"input": "x", "previous_response_id": "resp_1"}, "keeps no conversations"),
    ],
)
def test_a_response_that_the_api_would_refuse(
    provider: Provider, client: OpenAI, more: Any, says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client.responses.create(model=MODEL, **more)
    assert provider.billed() == 0


def test_rules_see_the_output_of_a_function(provider: Provider, client: OpenAI) -> None:
    provider.say(rules=[Rule({"tool": "look", "last_role": "tool", "contains": "x"}, "seen")])
    items = [*HELLO, CALL, OUTPUT]
    assert client.responses.create(model=MODEL, input=items).output_text == "seen"


# -- messages --------------------------------------------------------------------------------------


def test_a_message_echoes_and_is_billed(provider: Provider, claude: Anthropic) -> None:
    message = claude.messages.create(**ASK, messages=HELLO, system="Be brief.")
    assert said(message) == ["echo: hello there"]
    assert message.stop_reason == "end_turn"
    assert provider.effects()[0].facts["response_id"] == message.id
    assert message._request_id


def test_a_message_uses_tools_and_goes_on(provider: Provider, claude: Anthropic) -> None:
    provider.say(SCRIPT)
    asked = claude.messages.create(**ASK, messages=HELLO)
    assert said(asked) == ["I look.", ("look", {"at": "a"}), ("look", {"at": "b"})]
    assert asked.stop_reason == "tool_use"
    uses: Any = asked.content[1:]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "x"} for use in uses]
    history: Any = [*HELLO, {"role": "assistant", "content": asked.content}]
    history.append({"role": "user", "content": results})
    assert said(claude.messages.create(**ASK, messages=history)) == ["found"]
    assert [entry.facts["turn"] for entry in provider.effects()] == [0, 1]


def test_a_streamed_message_is_the_plain_one_in_pieces(
    provider: Provider, claude: Anthropic
) -> None:
    provider.say(SCRIPT)
    with claude.messages.stream(**ASK, messages=HELLO) as stream:
        text = list(stream.text_stream)
        final = stream.get_final_message()
    assert text == ["I", " look."]
    assert said(final) == ["I look.", ("look", {"at": "a"}), ("look", {"at": "b"})]
    plain = claude.messages.create(**ASK, messages=HELLO)
    assert final.usage.output_tokens == plain.usage.output_tokens


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([*HELLO, USE], "`tool_use` ids were found without `tool_result`"),
        ([*HELLO, USE, *HELLO], "`tool_use` ids were found without `tool_result`"),
        ([*HELLO, RESULT], "unexpected `tool_use_id`"),
        ([{"role": "system", "content": "x"}], "Unexpected role"),
    ],
)
def test_a_message_that_the_api_would_refuse(
    provider: Provider, claude: Anthropic, messages: Any, says: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=says):
        claude.messages.create(**ASK, messages=messages)
    assert provider.billed() == 0


def test_rules_see_the_result_of_a_tool(provider: Provider, claude: Anthropic) -> None:
    provider.say(rules=[Rule({"tool": "look", "last_role": "tool", "contains": "x"}, "seen")])
    assert said(claude.messages.create(**ASK, messages=[*HELLO, USE, RESULT])) == ["seen"]


def test_an_armed_error_is_told_in_the_dialect_that_was_asked(
    provider: Provider, claude: Anthropic, client: OpenAI
) -> None:
    provider.arm(Fault.error(529))
    with pytest.raises(anthropic.APIStatusError) as caught:
        claude.messages.create(**ASK, messages=HELLO)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "overloaded_error")
    provider.arm(Fault.error(429))
    with pytest.raises(openai.RateLimitError, match="armed to answer 429"):
        client.responses.create(model=MODEL, input="x")


# -- Azure -----------------------------------------------------------------------------------------


def test_azure_has_its_own_paths(provider: Provider) -> None:
    with AzureOpenAI(azure_endpoint=provider.url, api_key="k", api_version="v") as azure:
        chat = azure.chat.completions.create(model="mine", messages=HELLO)
        assert chat.choices[0].message.content == "echo: hello there"
        assert azure.responses.create(model="mine", input="hi").output_text == "echo: hi"
    assert [entry.path.partition("?")[0] for entry in provider.effects()] == [
        "/openai/deployments/mine/chat/completions",
        "/openai/responses",
    ]


# -- how long a reply may be ----------------------------------------------------------------------


def test_a_reply_ends_at_the_limit_of_the_request(
    provider: Provider, client: OpenAI, claude: Anthropic
) -> None:
    provider.say([Reply("one two three four", [Call("look")], output_tokens=5_000)])
    chat = client.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=2)
    assert (chat.choices[0].finish_reason, chat.choices[0].message.content) == (
        "length",
        "one two ",
    )
    response = client.responses.create(model=MODEL, input="hello", max_output_tokens=2)
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    message = claude.messages.create(messages=HELLO, model="claude-double", max_tokens=2)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 2)
    whole = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5_000
    assert whole.choices[0].finish_reason == "tool_calls"
