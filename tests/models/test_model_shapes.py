"""Every shape of the SDK is recorded, and handed out again without a request, the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from model_doubles import MemoryRecorder
from pydantic import BaseModel

from agentrun.models import async_http_client, http_client, wrap
from agentrun.testing import Call, Provider, Reply

MESSAGES: Any = [{"role": "user", "content": "say hello"}]
ASK: Any = {"model": "gpt-5-mini", "messages": MESSAGES}
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Answer(BaseModel):
    word: str


def whole(reply: Any) -> Any:
    return reply.model_dump(), reply._request_id


def create(client: openai.OpenAI) -> Any:
    return whole(client.chat.completions.create(**ASK))


def two_equal(client: openai.OpenAI) -> Any:
    return create(client), create(client)


def stream(client: openai.OpenAI) -> Any:
    options: Any = {"include_usage": True}
    chunks = client.chat.completions.create(**ASK, stream=True, stream_options=options)
    return [chunk.model_dump() for chunk in chunks]


def stream_helper(client: openai.OpenAI) -> Any:
    with client.chat.completions.stream(**ASK) as events:
        seen = [event.model_dump() for event in events]
        return seen, events.get_final_completion().model_dump()


def parse(client: openai.OpenAI) -> Any:
    return client.chat.completions.parse(**ASK, response_format=Answer).model_dump(warnings=False)


def raw_response(client: openai.OpenAI) -> Any:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    return raw.status_code, dict(raw.headers), raw.request_id, raw.text, raw.parse().model_dump()


def streaming_response(client: openai.OpenAI) -> Any:
    with client.chat.completions.with_streaming_response.create(**ASK) as raw:
        return raw.status_code, raw.request_id, b"".join(raw.iter_bytes())


def streaming_lines(client: openai.OpenAI) -> Any:
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as raw:
        return raw.status_code, list(raw.iter_lines())


def with_options(client: openai.OpenAI) -> Any:
    return create(client.with_options(timeout=20.0, max_retries=4))


def embeddings(client: openai.OpenAI) -> Any:
    return client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).model_dump()


async def acreate(client: openai.AsyncOpenAI) -> Any:
    return whole(await client.chat.completions.create(**ASK))


async def astream(client: openai.AsyncOpenAI) -> Any:
    chunks = await client.chat.completions.create(**ASK, stream=True)
    return [chunk.model_dump() async for chunk in chunks]


async def astream_helper(client: openai.AsyncOpenAI) -> Any:
    async with client.chat.completions.stream(**ASK) as events:
        seen = [event.model_dump() async for event in events]
        return seen, (await events.get_final_completion()).model_dump()


async def aparse(client: openai.AsyncOpenAI) -> Any:
    parsed = await client.chat.completions.parse(**ASK, response_format=Answer)
    return parsed.model_dump(warnings=False)


async def araw_response(client: openai.AsyncOpenAI) -> Any:
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    return raw.status_code, dict(raw.headers), raw.request_id, raw.text, raw.parse().model_dump()


async def astreaming_response(client: openai.AsyncOpenAI) -> Any:
    async with client.chat.completions.with_streaming_response.create(**ASK) as raw:
        return raw.status_code, raw.request_id, await raw.read()


async def awith_options(client: openai.AsyncOpenAI) -> Any:
    return await acreate(client.with_options(timeout=20.0, max_retries=4))


async def aembeddings(client: openai.AsyncOpenAI) -> Any:
    made = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    return made.model_dump()


async def agather(client: openai.AsyncOpenAI) -> Any:
    async def one(word: str) -> Any:
        messages: Any = [{"role": "user", "content": word}]
        return whole(await client.chat.completions.create(model="gpt-5-mini", messages=messages))

    return await asyncio.gather(*map(one, ["a", "b", "c"]))


SYNC = [
    create,
    two_equal,
    stream,
    stream_helper,
    parse,
    raw_response,
    streaming_response,
    streaming_lines,
    with_options,
    embeddings,
]
ASYNC = [
    acreate,
    astream,
    astream_helper,
    aparse,
    araw_response,
    astreaming_response,
    awith_options,
    aembeddings,
    agather,
]
CLIENTS = ["wrapped", "ours", "legacy"]


def answer_in_json(provider: Provider, shape: Callable[..., Any]) -> None:
    if shape in (parse, aparse):
        provider.say([Reply(text='{"word": "hello"}')])


@contextlib.contextmanager
def client_of(kind: str, provider: Provider) -> Iterator[openai.OpenAI]:
    where: Any = {"base_url": provider.base_url, "api_key": "test"}
    legacy = kind == "legacy"
    if kind == "ours":
        client = openai.OpenAI(**where, http_client=http_client())
    else:
        old: Any = httpx.Client() if legacy else None
        client = wrap(openai.OpenAI(**where, http_client=old))
    with client:
        yield client


@contextlib.asynccontextmanager
async def async_client_of(kind: str, provider: Provider) -> Any:
    where: Any = {"base_url": provider.base_url, "api_key": "test"}
    if kind == "ours":
        client = openai.AsyncOpenAI(**where, http_client=async_http_client())
    else:
        old: Any = httpx.AsyncClient() if kind == "legacy" else None
        client = wrap(openai.AsyncOpenAI(**where, http_client=old))
    async with client:
        yield client


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("shape", SYNC, ids=lambda shape: shape.__name__)
def test_a_sync_shape_is_the_same_again_without_a_request(
    shape: Callable[[openai.OpenAI], Any], kind: str, provider: Provider, recorder: MemoryRecorder
) -> None:
    answer_in_json(provider, shape)
    with client_of(kind, provider) as client, recorder.active():
        first = shape(client)
    asked = len(provider.ledger())
    with client_of(kind, provider) as client, recorder.again().active():
        second = shape(client)
    assert second == first
    assert len(provider.ledger()) == asked
    assert all(step.outcome and step.outcome.ending == "complete" for step in recorder.steps)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("shape", ASYNC, ids=lambda shape: shape.__name__)
def test_an_async_shape_is_the_same_again_without_a_request(
    shape: Callable[[openai.AsyncOpenAI], Awaitable[Any]],
    kind: str,
    provider: Provider,
    recorder: MemoryRecorder,
) -> None:
    answer_in_json(provider, shape)

    async def pass_(with_: MemoryRecorder) -> Any:
        async with async_client_of(kind, provider) as client:
            with with_.active():
                return await shape(client)

    first = asyncio.run(pass_(recorder))
    asked = len(provider.ledger())
    second = asyncio.run(pass_(recorder.again()))
    assert second == first
    assert len(provider.ledger()) == asked
    assert all(step.outcome and step.outcome.ending == "complete" for step in recorder.steps)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_recorded_body_is_the_plain_completion_however_it_came(
    streamed: bool, provider: Provider, recorder: MemoryRecorder
) -> None:
    calls = [Call("look", {"at": "a"}, id="c1"), Call("look", {"at": "b"}, id="c2")]
    provider.say([Reply(tool_calls=calls)])
    more: Any = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    with client_of("wrapped", provider) as client, recorder.active():
        reply = client.chat.completions.create(**ASK, tools=TOOLS, **more)
        if streamed:
            list(reply)
    body = recorder.outcome.body
    choice = body["choices"][0]
    assert body["object"] == "chat.completion"
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "a"}'}},
        {"id": "c2", "type": "function", "function": {"name": "look", "arguments": '{"at": "b"}'}},
    ]
    assert recorder.outcome.usage is not None
    assert recorder.outcome.usage.input_tokens == body["usage"]["prompt_tokens"]
    assert recorder.outcome.model == "gpt-5-mini"
