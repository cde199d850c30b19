"""Every shape of the real SDKs, through the real runner: recorded, then resumed the same, unpaid.

Each line of the table is a function of the provider that makes its client, calls it, and returns
what it saw. An agent runs it and dies; the second `run()` resumes it. What it sees then is equal,
and the provider has not heard of it.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel

import agentrun
from agentrun.store.database import OpenDatabase
from agentrun.testing import Call, Fault, Provider, Reply, Rule

MODEL = "gpt-5-mini"
CLAUDE: Any = {"model": "claude-double", "max_tokens": 100}
HELLO: Any = [{"role": "user", "content": "hello there"}]
JSON: Any = [{"role": "user", "content": "as JSON please"}]
SUM: Any = [{"role": "user", "content": "use the tool"}]
RULES = [
    Rule({"mentions": "as JSON"}, '{"word": "hello"}'),
    Rule({"mentions": "use the tool"}, [Reply("so be it", [Call("add", {"a": 2})]), "it is 3"]),
]
acted: list[int] = []
opened: list[Any] = []


class Answer(BaseModel):
    word: str


@agentrun.tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    acted.append(a)
    return a + b


# -- clients ---------------------------------------------------------------------------------------


def kept(client: Any) -> Any:
    """A sync client, closed at the end of the test."""
    opened.append(client)
    return client


def client(p: Provider, **more: Any) -> Any:
    return kept(agentrun.wrap(OpenAI(base_url=p.base_url, api_key="k", **more)))


def aclient(p: Provider, **more: Any) -> AsyncOpenAI:
    return agentrun.wrap(AsyncOpenAI(base_url=p.base_url, api_key="k", **more))


def azure(p: Provider, kind: type[Any] = AzureOpenAI) -> Any:
    made = kind(azure_endpoint=p.url, api_key="k", api_version="2025-03-01-preview")
    return agentrun.wrap(made if kind is AsyncAzureOpenAI else kept(made))


def claude(p: Provider) -> Any:
    return kept(agentrun.wrap(Anthropic(base_url=p.url, api_key="k")))


def aclaude(p: Provider) -> AsyncAnthropic:
    return agentrun.wrap(AsyncAnthropic(base_url=p.url, api_key="k"))


def whole(reply: Any) -> Any:
    return reply.model_dump(warnings=False), getattr(reply, "_request_id", None)


def dumped(events: Any) -> list[Any]:
    return [event.model_dump(warnings=False) for event in events]


async def adumped(events: Any) -> list[Any]:
    return [event.model_dump(warnings=False) async for event in events]


# -- chat completions ------------------------------------------------------------------------------


def chat(p: Provider) -> Any:
    return whole(client(p).chat.completions.create(model=MODEL, messages=HELLO))


def chat_twice_the_same(p: Provider) -> Any:
    return chat(p), chat(p)


def chat_stream(p: Provider) -> Any:
    usage: Any = {"include_usage": True}
    create = client(p).chat.completions.create
    return dumped(create(model=MODEL, messages=HELLO, stream=True, stream_options=usage))


def chat_stream_helper(p: Provider) -> Any:
    with client(p).chat.completions.stream(model=MODEL, messages=HELLO) as stream:
        return dumped(stream), stream.get_final_completion().model_dump()


def chat_stream_broken_off(p: Provider) -> Any:
    with client(p).chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        return dumped(itertools.islice(stream, 2))


def chat_parse(p: Provider) -> Any:
    made = client(p).chat.completions
    return whole(made.parse(model=MODEL, messages=JSON, response_format=Answer))


def chat_tools(p: Provider) -> Any:
    create, messages = client(p).chat.completions.create, [*SUM]
    while True:
        reply = create(model=MODEL, messages=messages, tools=agentrun.schemas(add))
        messages.append(reply.choices[0].message.model_dump(exclude_none=True))
        told = agentrun.call_tools(reply, [add])
        if not told:
            return messages
        messages += told


def chat_tools_streamed(p: Provider) -> Any:
    make, messages = client(p).chat.completions, [*SUM]
    while True:
        ask: Any = {"model": MODEL, "messages": messages, "tools": agentrun.schemas(add)}
        with make.stream(**ask) as stream:
            reply = stream.get_final_completion()
        message = reply.choices[0].message.model_dump(exclude_none=True, warnings=False)
        for call in message.get("tool_calls", []):
            call["function"].pop("parsed_arguments", None)
        messages.append(message)
        told = agentrun.call_tools(reply, [add])
        if not told:
            return messages
        messages += told


def chat_raw_response(p: Provider) -> Any:
    raw = client(p).chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    return raw.status_code, dict(raw.headers), raw.text, raw.parse().model_dump()


def chat_streaming_response(p: Provider) -> Any:
    made = client(p).chat.completions.with_streaming_response
    with made.create(model=MODEL, messages=HELLO) as raw:
        return raw.status_code, raw.request_id, raw.read()


def chat_with_options(p: Provider) -> Any:
    copy = client(p).with_options(timeout=20.0, max_retries=4)
    return whole(copy.chat.completions.create(model=MODEL, messages=HELLO))


def chat_retried(p: Provider) -> Any:
    p.arm(Fault.error(429, retry_after=0), Fault.error(500, nth=2, retry_after=0))
    return chat(p)


def chat_refused(p: Provider) -> Any:
    p.arm(Fault.error(400))
    with pytest.raises(openai.BadRequestError) as caught:
        chat(p)
    return caught.value.status_code, caught.value.request_id, caught.value.body


async def achat(p: Provider) -> Any:
    async with aclient(p) as made:
        return whole(await made.chat.completions.create(model=MODEL, messages=HELLO))


async def achat_stream(p: Provider) -> Any:
    async with aclient(p) as made:
        create = made.chat.completions.create
        return await adumped(await create(model=MODEL, messages=HELLO, stream=True))


async def achat_stream_helper(p: Provider) -> Any:
    async with (
        aclient(p) as made,
        made.chat.completions.stream(model=MODEL, messages=HELLO) as stream,
    ):
        return await adumped(stream), (await stream.get_final_completion()).model_dump()


async def achat_parse(p: Provider) -> Any:
    async with aclient(p) as made:
        parse = made.chat.completions.parse
        return whole(await parse(model=MODEL, messages=JSON, response_format=Answer))


async def achat_gathered(p: Provider) -> Any:
    async with aclient(p) as made:
        create = made.chat.completions.create
        asked = [create(model=MODEL, messages=HELLO) for _ in range(3)]
        return sorted([whole(reply)[1] for reply in await asyncio.gather(*asked)])


# -- responses -------------------------------------------------------------------------------------


def responses(p: Provider) -> Any:
    create = client(p).responses.create
    return whole(create(model=MODEL, input="hello there", instructions="Be brief."))


def responses_stream(p: Provider) -> Any:
    return dumped(client(p).responses.create(model=MODEL, input="hello there", stream=True))


def responses_stream_helper(p: Provider) -> Any:
    with client(p).responses.stream(model=MODEL, input=JSON, text_format=Answer) as stream:
        return dumped(stream), whole(stream.get_final_response())


def responses_parse(p: Provider) -> Any:
    reply = client(p).responses.parse(model=MODEL, input=JSON, text_format=Answer)
    assert reply.output_parsed == Answer(word="hello")
    return whole(reply)


def responses_tools(p: Provider) -> Any:
    create, items = client(p).responses.create, [*SUM]
    tools: Any = agentrun.schemas(add, api="responses")
    while True:
        reply = create(model=MODEL, input=items, tools=tools)
        items += [item.model_dump(exclude_none=True) for item in reply.output]
        told = agentrun.call_tools(reply, [add])
        if not told:
            return items, reply.output_text
        items += told


def responses_raw(p: Provider) -> Any:
    raw = client(p).responses.with_raw_response.create(model=MODEL, input="hello there")
    return raw.status_code, dict(raw.headers), raw.text


async def aresponses(p: Provider) -> Any:
    async with aclient(p) as made:
        return whole(await made.responses.create(model=MODEL, input="hello there"))


async def aresponses_stream_helper(p: Provider) -> Any:
    async with (
        aclient(p) as made,
        made.responses.stream(model=MODEL, input="hello there") as stream,
    ):
        return await adumped(stream), whole(await stream.get_final_response())


async def aresponses_tools(p: Provider) -> Any:
    items, tools = [*SUM], agentrun.schemas(add, api="responses")
    async with aclient(p) as made:
        while True:
            reply = await made.responses.create(model=MODEL, input=items, tools=tools)  # type: ignore[arg-type]
            items += [item.model_dump(exclude_none=True) for item in reply.output]
            told = await agentrun.acall_tools(reply, [add])
            if not told:
                return items, reply.output_text
            items += told


# -- embeddings and Azure --------------------------------------------------------------------------


def embeddings(p: Provider) -> Any:
    return client(p).embeddings.create(model="text-embedding-3-small", input="a").model_dump()


async def aembeddings(p: Provider) -> Any:
    async with aclient(p) as made:
        reply = await made.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        return reply.model_dump()


def azure_chat(p: Provider) -> Any:
    return whole(azure(p).chat.completions.create(model="mine", messages=HELLO))


def azure_responses(p: Provider) -> Any:
    return whole(azure(p).responses.create(model="mine", input="hello there"))


async def aazure_chat_stream(p: Provider) -> Any:
    async with azure(p, AsyncAzureOpenAI) as made:
        create = made.chat.completions.create
        return await adumped(await create(model="mine", messages=HELLO, stream=True))


# -- Anthropic -------------------------------------------------------------------------------------


def messages(p: Provider) -> Any:
    return whole(claude(p).messages.create(**CLAUDE, messages=HELLO, system="Be brief."))


def messages_stream(p: Provider) -> Any:
    return dumped(claude(p).messages.create(**CLAUDE, messages=HELLO, stream=True))


def messages_stream_helper(p: Provider) -> Any:
    with claude(p).messages.stream(**CLAUDE, messages=HELLO) as stream:
        return list(stream.text_stream), whole(stream.get_final_message())


def messages_tools(p: Provider) -> Any:
    create, said = claude(p).messages.create, [*SUM]
    tools: Any = agentrun.schemas(add, api="anthropic")
    while True:
        reply = create(**CLAUDE, messages=said, tools=tools)
        said.append({"role": "assistant", "content": reply.content})
        told = agentrun.call_tools(reply, [add])
        if not told:
            return [reply.content[0].model_dump(), len(said), told]
        said += told


def messages_tools_streamed(p: Provider) -> Any:
    make, said = claude(p).messages, [*SUM]
    tools: Any = agentrun.schemas(add, api="anthropic")
    while True:
        with make.stream(**CLAUDE, messages=said, tools=tools) as stream:
            reply = stream.get_final_message()
        said.append({"role": "assistant", "content": reply.content})
        told = agentrun.call_tools(said[-1], [add])  # the dict that is sent back serves as well
        if not told:
            return [reply.content[0].model_dump(), len(said)]
        said += told


def messages_refused(p: Provider) -> Any:
    p.arm(Fault.error(400))
    with pytest.raises(anthropic.BadRequestError) as caught:
        messages(p)
    return caught.value.status_code, caught.value.request_id, caught.value.body


async def amessages(p: Provider) -> Any:
    async with aclaude(p) as made:
        return whole(await made.messages.create(**CLAUDE, messages=HELLO))


async def amessages_stream_helper(p: Provider) -> Any:
    async with aclaude(p) as made, made.messages.stream(**CLAUDE, messages=HELLO) as stream:
        return await adumped(stream), whole(await stream.get_final_message())


async def amessages_tools(p: Provider) -> Any:
    said, tools = [*SUM], agentrun.schemas(add, api="anthropic")
    async with aclaude(p) as made:
        while True:
            reply = await made.messages.create(**CLAUDE, messages=said, tools=tools)  # type: ignore[arg-type]
            said.append({"role": "assistant", "content": reply.content})
            told = await agentrun.acall_tools(reply, [add])
            if not told:
                return [reply.content[0].model_dump(), len(said)]
            said += told


# -- clients that nobody wrapped -------------------------------------------------------------------


def our_http_client(p: Provider) -> Any:
    with OpenAI(base_url=p.base_url, api_key="k", http_client=agentrun.http_client()) as made:
        return whole(made.responses.create(model=MODEL, input="hello there"))


async def our_async_http_client(p: Provider) -> Any:
    given = agentrun.async_http_client()
    async with AsyncAnthropic(base_url=p.url, api_key="k", http_client=given) as made:
        return whole(await made.messages.create(**CLAUDE, messages=HELLO))


def legacy_http_client(p: Provider) -> Any:
    made = client(p, http_client=httpx.Client())
    return whole(made.responses.create(model=MODEL, input="hello there"))


def module_level(p: Provider) -> Any:
    openai.http_client = kept(agentrun.http_client())
    openai._reset_client()
    chatted = openai.chat.completions.create(model=MODEL, messages=HELLO)
    return whole(chatted), whole(openai.responses.create(model=MODEL, input="hello there"))


def module_level_installed(p: Provider) -> Any:
    agentrun.install()
    kept(openai._load_client())
    made = openai.embeddings.create(model="text-embedding-3-small", input="a")
    chunks = openai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    return made.model_dump(), dumped(chunks)


def installed_openai(p: Provider) -> Any:
    with OpenAI(base_url=p.base_url, api_key="k") as made:
        agentrun.install()  # the client is there already
        return whole(made.chat.completions.create(model=MODEL, messages=HELLO))


def installed_openai_retried(p: Provider) -> Any:
    agentrun.install(retries=1)
    p.arm(Fault.error(500, retry_after=0, times=2))
    with OpenAI(base_url=p.base_url, api_key="k", max_retries=5) as made:
        with pytest.raises(openai.InternalServerError) as caught:
            made.chat.completions.create(model=MODEL, messages=HELLO)
        return caught.value.request_id


async def installed_anthropic(p: Provider) -> Any:
    agentrun.install()
    async with (
        AsyncAnthropic(base_url=p.url, api_key="k") as made,
        made.messages.stream(**CLAUDE, messages=HELLO) as stream,
    ):
        return await adumped(stream)


def installed_httpx(p: Provider) -> Any:
    """As LiteLLM asks Anthropic: no SDK at all."""
    agentrun.install()
    reply = httpx.post(f"{p.base_url}/messages", json={**CLAUDE, "messages": HELLO})
    return reply.status_code, sorted(reply.headers.multi_items()), reply.json()


SHAPES: list[Callable[[Provider], Any]] = [
    chat,
    chat_twice_the_same,
    chat_stream,
    chat_stream_helper,
    chat_stream_broken_off,
    chat_parse,
    chat_tools,
    chat_tools_streamed,
    chat_raw_response,
    chat_streaming_response,
    chat_with_options,
    chat_retried,
    chat_refused,
    achat,
    achat_stream,
    achat_stream_helper,
    achat_parse,
    achat_gathered,
    responses,
    responses_stream,
    responses_stream_helper,
    responses_parse,
    responses_tools,
    responses_raw,
    aresponses,
    aresponses_stream_helper,
    aresponses_tools,
    embeddings,
    aembeddings,
    azure_chat,
    azure_responses,
    aazure_chat_stream,
    messages,
    messages_stream,
    messages_stream_helper,
    messages_tools,
    messages_tools_streamed,
    messages_refused,
    amessages,
    amessages_stream_helper,
    amessages_tools,
    our_http_client,
    our_async_http_client,
    legacy_http_client,
    module_level,
    module_level_installed,
    installed_openai,
    installed_openai_retried,
    installed_anthropic,
    installed_httpx,
]


@pytest.fixture
def world(
    db: OpenDatabase, provider: Provider, unpatched: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Provider]:
    """A provider that knows the rules, for runs in a database; nothing is left behind."""
    provider.say(rules=RULES)
    acted.clear()
    for name, value in (
        ("api_key", "k"),
        ("base_url", f"{provider.base_url}/"),
        ("http_client", None),
    ):
        monkeypatch.setattr(openai, name, value)
    openai._reset_client()
    yield provider
    while opened:
        opened.pop().close()
    openai._reset_client()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_shape_is_the_same_again_without_a_request(
    shape: Callable[[Provider], Any], world: Provider
) -> None:
    seen: list[Any] = []

    def noted(result: Any) -> None:
        seen.append((result, list(acted)))
        if len(seen) == 1:
            raise SystemExit

    @agentrun.agent(name="shape")
    def sync_agent() -> None:
        noted(shape(world))

    @agentrun.agent(name="async shape")
    async def async_agent() -> None:
        noted(await shape(world))

    agent: Any = async_agent if inspect.iscoroutinefunction(shape) else sync_agent
    keyed = agent.with_options(key="k")
    with pytest.raises(SystemExit):
        keyed.run()
    world.disarm()
    asked = len(world.ledger())
    keyed.run()
    assert seen[0] == seen[1]
    assert asked == len(world.ledger()) > 0
    assert acted == ([2] if "tools" in shape.__name__ else [])
    transcript = agentrun.transcript("k")
    assert transcript.status == "done"
    assert any(step.kind == "model" for step in transcript.steps)


def test_there_are_more_than_two_dozen_shapes() -> None:
    assert len({shape.__name__ for shape in SHAPES}) == len(SHAPES) >= 24
