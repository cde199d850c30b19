"""The real openai SDK talks to the double as it does to the real thing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from agentrun.testing import Call, Provider, Reply, Rule

MODEL = "gpt-5-mini"
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "refund",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "string"}},
            "required": ["order"],
            "additionalProperties": False,
        },
    },
}


def say(client: OpenAI, messages: list[Any] = HELLO) -> Any:
    return client.chat.completions.create(model=MODEL, messages=messages)


def test_without_a_script_the_last_message_is_echoed(client: OpenAI) -> None:
    reply = say(client)
    assert reply.choices[0].message.content == "echo: hello there"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.id.startswith("chatcmpl-")


def test_usage_adds_up_and_depends_on_the_text_alone(client: OpenAI) -> None:
    first, second = say(client).usage, say(client).usage
    assert first == second
    assert first.total_tokens == first.prompt_tokens + first.completion_tokens
    longer = say(client, [{"role": "user", "content": "hello there " * 10}]).usage
    assert longer.prompt_tokens > first.prompt_tokens


def test_the_script_is_indexed_by_the_turn_of_the_conversation(
    provider: Provider, client: OpenAI
) -> None:
    provider.say([Reply(tool_calls=[Call("refund", {"order": "7"})]), "refunded"])
    asked = say(client).choices[0].message
    again = say(client).choices[0].message
    assert asked.tool_calls[0].function.arguments == again.tool_calls[0].function.arguments
    assert asked.tool_calls[0].id != again.tool_calls[0].id
    call_id = asked.tool_calls[0].id
    history = [*HELLO, asked.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": call_id, "content": "ok"})
    assert say(client, history).choices[0].message.content == "refunded"
    assert [entry.facts["turn"] for entry in provider.effects()] == [0, 0, 1]
    assert provider.billed() == 3


def test_a_repeated_request_is_billed_again_under_one_digest(
    provider: Provider, client: OpenAI
) -> None:
    say(client)
    say(client)
    say(client, [{"role": "user", "content": "other"}])
    digests = [entry.digest for entry in provider.effects()]
    assert digests[0] == digests[1] != digests[2]


def test_rules_match_role_text_tool_and_model(provider: Provider, client: OpenAI) -> None:
    provider.say(
        rules=[
            Rule({"tool": "refund"}, "after the tool"),
            Rule({"last_role": "user", "contains": "money"}, "about money"),
            Rule({"mentions": "order 7"}, ["first of order 7"]),
            Rule({"model": "other"}, "not me"),
        ],
        script=["fallback"],
    )
    assert say(client, [{"role": "user", "content": "my money"}]).choices[0].message.content == (
        "about money"
    )
    order = [{"role": "user", "content": [{"type": "text", "text": "order 7"}]}]
    assert say(client, order).choices[0].message.content == "first of order 7"
    assert say(client).choices[0].message.content == "fallback"
    call = {"id": "c", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
    told = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    assert say(client, [*HELLO, *told]).choices[0].message.content == "after the tool"


def test_a_misspelt_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="no field contain;"):
        Rule({"contain": "x"}, "never")  # type: ignore[typeddict-unknown-key]


def test_a_stream_has_the_events_of_the_real_one(provider: Provider, client: OpenAI) -> None:
    provider.say([Reply(text="one two  three", tool_calls=[Call("refund", {"order": "7"})])])
    events = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert events[0].choices[0].delta.role == "assistant"
    assert len({event.id for event in events}) == 1
    deltas = [event.choices[0].delta for event in events if event.choices]
    assert [d.content for d in deltas if d.content] == ["one", " two", "  three"]
    calls = [call for d in deltas for call in d.tool_calls or ()]
    assert calls[0].id is not None
    assert calls[0].id.startswith("call_")
    pieces = [call.function.arguments for call in calls if call.function]
    assert len(pieces) > 2
    assert json.loads("".join(map(str, pieces))) == {"order": "7"}
    assert events[-2].choices[0].finish_reason == "tool_calls"
    assert events[-1].choices == []
    assert events[-1].usage is not None


def test_a_stream_without_asking_for_usage_has_none_and_is_billed(
    provider: Provider, client: OpenAI
) -> None:
    events = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert all(event.usage is None for event in events)
    assert provider.effects()[0].facts["usage"]["completion_tokens"] > 0


def test_the_stream_helper_folds_to_the_plain_answer(provider: Provider, client: OpenAI) -> None:
    text = "a longer answer, in several words"
    calls = [Call("refund", {"order": "7"}), Call("refund", {"order": "8"})]
    provider.say([Reply(text=text, tool_calls=calls, chunks=5)])
    with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == text
    assert message.tool_calls is not None
    given = [json.loads(call.function.arguments)["order"] for call in message.tool_calls]
    assert given == ["7", "8"]


def test_parse_reads_structured_text_and_arguments(provider: Provider, client: OpenAI) -> None:
    class Weather(BaseModel):
        city: str
        degrees: int

    provider.say(['{"city": "Oslo", "degrees": 4}'])
    parsed = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Oslo", degrees=4)


def test_async_calls_and_streams(provider: Provider) -> None:
    async def talk() -> tuple[str | None, str]:
        async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client:
            plain = client.chat.completions.create(model=MODEL, messages=HELLO)
            stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            reply, events = await asyncio.gather(plain, stream)
            text = [e.choices[0].delta.content or "" async for e in events if e.choices]
            return reply.choices[0].message.content, "".join(text)

    assert asyncio.run(talk()) == ("echo: hello there", "echo: hello there")
    assert provider.billed() == 2


def test_headers_are_those_of_the_provider(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.request_id is not None
    assert raw.request_id.startswith("req_")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) > 0
    assert int(raw.headers["openai-processing-ms"]) > 0


def test_tool_call_ids_may_be_empty_missing_or_repeated(provider: Provider, client: OpenAI) -> None:
    given = [("", "{}"), (None, "{}"), ("call_0", "{bad"), ("call_0", "{}")]
    calls = [Call("refund", arguments, id=call_id) for call_id, arguments in given]
    provider.say([Reply(tool_calls=calls)])
    got = say(client).choices[0].message.tool_calls
    assert [(call.id, call.function.arguments) for call in got] == given


def test_a_raw_reply_replaces_the_body(provider: Provider, client: OpenAI) -> None:
    provider.say([Reply(raw={"id": "chatcmpl-x", "choices": [], "object": "chat.completion"})])
    assert say(client).choices == []


def test_text_that_is_not_plain_ascii_survives(provider: Provider, client: OpenAI) -> None:
    text = "naïve \U0001f600 \x00 \x1b[31m </script>"
    provider.say([text])
    assert say(client).choices[0].message.content == text


def test_a_conversation_with_unanswered_tool_calls_is_refused_unbilled(
    provider: Provider, client: OpenAI
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
    asked = {"role": "assistant", "tool_calls": [call]}
    with pytest.raises(openai.BadRequestError, match="did not have response messages: c"):
        say(client, [*HELLO, asked])
    with pytest.raises(openai.BadRequestError, match="must be a response to a preceding"):
        say(client, [*HELLO, {"role": "tool", "tool_call_id": "c", "content": "x"}])
    assert provider.billed() == 0
    assert [entry.outcome for entry in provider.ledger()] == ["refused", "refused"]


def test_models_and_unknown_paths_cost_nothing(provider: Provider, client: OpenAI) -> None:
    assert "gpt-5-mini" in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError):
        client.post("/nowhere", cast_to=object, body={"model": MODEL, "input": "hello"})
    assert provider.billed() == 0


def test_embeddings_depend_on_the_text_and_are_billed(provider: Provider, client: OpenAI) -> None:
    def embed(text: str, **options: Any) -> list[float]:
        return client.embeddings.create(model="e", input=text, **options).data[0].embedding

    assert embed("a") == embed("a") != embed("b")
    assert embed("a", encoding_format="float") == pytest.approx(embed("a"))
    assert len(embed("a", dimensions=3)) == 3
    assert provider.billed() == 6


def test_the_ledger_has_the_idempotency_key_and_no_credentials(
    provider: Provider, client: OpenAI
) -> None:
    client.chat.completions.create(
        model=MODEL, messages=HELLO, extra_headers={"Idempotency-Key": "run-1/0"}
    )
    entry = provider.ledger()[0]
    assert entry.idempotency_key == "run-1/0"
    assert entry.body == {"model": MODEL, "messages": HELLO}
    assert provider.requests() == [entry.body]
    assert "sk-very-secret" not in str(entry)
