"""What is wrapped, what passes through untouched, and what is never stored."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from crashing import in_child
from model_doubles import MemoryRecorder
from sayings import Saying, Server, completion

from agentrun.core.errors import ConfigError, NoRun
from agentrun.core.recorder import current
from agentrun.models import async_http_client, http_client, install, wrap
from agentrun.models.transport import RecordingBase
from agentrun.testing import Provider

ASK: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "go"}]}


def client_of(provider: Provider, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=provider.base_url, api_key="test", **more)


def test_wrap_returns_the_same_instance_and_switches_the_retries_of_the_sdk_off(
    provider: Provider,
) -> None:
    with client_of(provider, max_retries=7) as client:
        assert wrap(client) is client
        assert client.max_retries == 0
        assert client._client._transport.settings.policy.retries == 7  # type: ignore[attr-defined]


def test_wrapping_twice_is_harmless(provider: Provider, recorder: MemoryRecorder) -> None:
    with client_of(provider, max_retries=7) as client:
        wrap(wrap(client))
        transport: Any = client._client._transport
        assert not isinstance(transport.inner, RecordingBase)
        assert transport.settings.policy.retries == 7
        with recorder.active():
            client.chat.completions.create(**ASK)
    assert recorder.step.attempts == 1


def test_outside_a_run_a_wrapped_client_is_the_plain_client(provider: Provider) -> None:
    with wrap(client_of(provider)) as client:
        assert client.chat.completions.create(**ASK).choices
    assert provider.ledger()[-1].idempotency_key is None


@pytest.mark.parametrize("asyn", [False, True])
def test_outside_a_run_a_wrapped_client_retries_as_the_sdk_does(server: Server, asyn: bool) -> None:
    server.say(
        Saying.json({"error": {"message": "slow down"}}, 429, **{"retry-after-ms": "1"}),
        Saying.json({"error": {"message": "broken"}}, 500, **{"retry-after-ms": "1"}),
        Saying.json(completion()),
        Saying.json({"error": {"message": "no"}}, 400),
    )

    async def ask_async() -> None:
        async with wrap(openai.AsyncOpenAI(base_url=server.url, api_key="k")) as client:
            assert (await client.chat.completions.create(**ASK)).choices
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(**ASK)

    def ask() -> None:
        with wrap(openai.OpenAI(base_url=server.url, api_key="k")) as client:
            assert client.chat.completions.create(**ASK).choices
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(**ASK)

    asyncio.run(ask_async()) if asyn else ask()
    assert len(server.requests) == 4


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_an_async_client_serves_one_event_loop_after_another(
    provider: Provider, recorder: MemoryRecorder, installed: bool, recorded: bool
) -> None:
    """Its idle connections belong to the loop before, in which no response can be read."""

    def ask_in_three_loops() -> None:
        client = openai.AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0)
        if installed:
            install()
        else:
            wrap(client)

        async def ask() -> None:
            assert (await client.chat.completions.create(**ASK)).choices

        for _ in range(3):
            with recorder.active() if recorded else nullcontext():
                asyncio.run(ask())

    asked = len(provider.ledger())
    assert in_child(ask_in_three_loops) == 0  # which ends with the sockets of the ended loops
    assert len(provider.ledger()) == asked + 3, "none was sent twice"


def test_a_strict_client_refuses_a_model_call_outside_a_run(provider: Provider) -> None:
    asked = len(provider.ledger())
    with wrap(client_of(provider), strict=True) as client:
        with pytest.raises(NoRun, match="gpt-5-mini"):
            client.chat.completions.create(**ASK)
        assert len(provider.ledger()) == asked
        assert client.models.list().data, "what is no model call is not refused"


def test_transports_mounted_for_proxies_record_too(
    provider: Provider, recorder: MemoryRecorder
) -> None:
    mounts: Any = {"http://127.0.0.1": httpx2.HTTPTransport(), "all://never": None}
    with (
        wrap(client_of(provider, http_client=httpx2.Client(mounts=mounts))) as client,
        recorder.active(),
    ):
        client.chat.completions.create(**ASK)
    assert recorder.outcome.status == 200


@pytest.mark.parametrize("thing", [object(), "client", None, httpx2.Client])
def test_something_that_is_no_client_is_a_clear_error(thing: object) -> None:
    with pytest.raises(ConfigError, match="http_client"):
        wrap(thing)


def test_negative_retries_are_a_clear_error(provider: Provider) -> None:
    with client_of(provider) as client, pytest.raises(ConfigError, match="retries"):
        wrap(client, retries=-1)


def test_both_http_libraries_record_in_one_process(
    provider: Provider, recorder: MemoryRecorder
) -> None:
    with (
        http_client(module="httpx") as old,
        http_client(module="httpx2") as new,
        recorder.active(),
    ):
        assert isinstance(old, httpx.Client)
        assert isinstance(new, httpx2.Client)
        for client in (old, new):
            reply = client.post(f"{provider.base_url}/chat/completions", json=ASK)
            assert reply.json()["choices"]
    assert len(recorder.steps) == 2


async def _close(client: Any) -> None:
    await client.aclose()


def test_the_default_family_is_the_one_that_openai_uses() -> None:
    import asyncio

    with http_client(timeout=3.0) as client:
        assert isinstance(client, httpx2.Client)
        assert client.timeout.read == 3.0
    later = async_http_client()
    assert isinstance(later, httpx2.AsyncClient)
    asyncio.run(_close(later))


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("messages", b'{"jsonrpc": "2.0", "method": "tools/list"}', "application/json"),
        ("chat/completions", b"not json", "application/json"),
        ("chat/completions", b'{"model": "m", "messages": []}', "text/plain"),
        ("files", b'{"model": "m"}', "application/json"),
    ],
)
def test_what_is_no_model_call_passes_untouched(
    path: str, content: bytes, kind: str, server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json({}))
    with http_client() as client, recorder.active():
        client.post(f"{server.url}/{path}", content=content, headers={"content-type": kind})
    (_, headers, body) = server.requests[0]
    assert body == content
    assert "idempotency-key" not in headers
    assert recorder.steps == []


def test_a_streamed_upload_is_not_read(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json({}))
    kind = {"content-type": "application/json", "transfer-encoding": "chunked"}
    parts = iter([b'{"model": "m", ', b'"messages": []}'])
    with http_client() as client, recorder.active():
        client.post(f"{server.url}/chat/completions", content=parts, headers=kind)
        assert recorder.steps == []


def test_nothing_sent_along_the_way_is_recorded_by_itself(recorder: MemoryRecorder) -> None:
    seen: list[Any] = []

    class Inner(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            seen.append(current.get())
            return httpx2.Response(200, json=completion())

    with http_client(transport=Inner()) as client, recorder.active():
        client.post("http://provider/v1/chat/completions", json=ASK)
        assert current.get() is recorder
    assert seen == [None]


def test_a_gzipped_body_is_recorded_as_it_reads(server: Server, recorder: MemoryRecorder) -> None:
    plain = json.dumps(completion("zipped")).encode()
    headers = (("content-type", "application/json"), ("content-encoding", "gzip"))
    server.say(Saying((gzip.compress(plain),), headers=headers))
    with wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client:
        with recorder.active():
            first = client.chat.completions.create(**ASK).model_dump()
        with recorder.again().active():
            assert client.chat.completions.create(**ASK).model_dump() == first
    assert recorder.outcome.raw == plain
    assert "content-encoding" not in dict(recorder.outcome.headers)
    assert len(server.requests) == 1


def test_a_raw_response_is_the_same_live_and_resumed(
    server: Server, recorder: MemoryRecorder
) -> None:
    """The server's phrases are others than the client's; what was encoded is encoded no more."""
    headers = (("content-type", "application/json"), ("content-encoding", "gzip"))
    body = gzip.compress(json.dumps(completion("zipped")).encode())
    for status in 200, 422:
        server.say(Saying((body,), status=status, headers=headers))
        seen = []
        with wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client:
            for again in False, True:
                with (recorder.again() if again else recorder).active():
                    try:
                        raw = client.chat.completions.with_raw_response.create(**ASK).http_response
                    except openai.APIStatusError as error:
                        raw = error.response
                told = sorted(item for item in raw.headers.items() if item[0] != "date")
                seen.append((raw.reason_phrase, raw.http_version, told, raw.content))
        assert seen[0] == seen[1]
        recorder = MemoryRecorder()


def test_a_body_that_is_no_json_is_kept_raw(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying((b'{"id": NaN',), headers=(("content-type", "application/json"),)))
    with http_client(retries=0) as client, recorder.active():
        reply = client.post(f"{server.url}/chat/completions", json=ASK)
    assert reply.content == recorder.outcome.raw == b'{"id": NaN'
    assert recorder.outcome.body is None


def test_credentials_are_stored_nowhere(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json(completion(), **{"set-cookie": "session=hush", "x-request-id": "r1"}))
    tools: Any = [
        {"type": "mcp", "server_label": "s", "authorization": "hush", "headers": {"key": "hush"}}
    ]
    url = server.url.replace("http://", "http://somebody:hush@")
    with http_client() as client, recorder.active():
        reply = client.post(
            f"{url}/chat/completions?api-key=hush&api-version=1",
            json={**ASK, "tools": tools},
            headers={"authorization": "Bearer hush", "api-key": "hush", "cookie": "a=hush"},
        )
    assert reply.headers["set-cookie"] == "session=hush", "the caller gets it"
    assert "hush" not in repr((recorder.step.request, recorder.outcome))
    assert dict(recorder.outcome.headers)["x-request-id"] == "r1"
    assert b"hush" in server.requests[0][2], "the provider gets it"


def test_importing_the_room_loads_no_client_and_no_sdk() -> None:
    heavy = ["openai", "anthropic", "httpx", "httpx2", "tiktoken", "genai_prices", "rich"]
    code = f"import sys, agentrun.models; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


ELSEWHERE = "https://models.invalid/gateway"
CLIENTS = {
    "explicit": lambda: openai.OpenAI(base_url=f"{ELSEWHERE}/v9", api_key="real"),
    "async": lambda: openai.AsyncOpenAI(base_url=f"{ELSEWHERE}/v9", api_key="real"),
    "azure": lambda: openai.AzureOpenAI(
        azure_endpoint=ELSEWHERE, api_version="2025-01-01", api_key="real"
    ),
    "proxied": lambda: openai.OpenAI(
        api_key="real", http_client=openai.DefaultHttpxClient(proxy="http://proxy.invalid:1")
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_double_stands_in_for_whatever_provider_a_client_names(
    name: str, provider: Provider, recorder: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentrun.core.recorder.stand_in", provider.base_url)
    client: Any = wrap(CLIENTS[name]())

    async def ask() -> Any:
        with recorder.active():
            answer = client.chat.completions.create(**ASK)
            if name != "async":
                client.close()
                return answer
            completion = await answer
        await client.close()
        return completion

    assert asyncio.run(ask()).choices[0].message.content == "echo: go"
    asked = provider.ledger()[-1]
    assert (asked.path, asked.idempotency_key) == ("/v1/chat/completions", recorder.step.key)
    assert recorder.step.request.url.startswith("https://")  # the journal has what was meant
    assert "invalid" not in str(asked.headers)


def test_a_double_stands_in_for_anthropic_too(
    provider: Provider, recorder: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentrun.core.recorder.stand_in", provider.base_url)
    client = wrap(anthropic.Anthropic(base_url=ELSEWHERE, api_key="real"))
    with client, recorder.active():
        client.messages.create(model="claude", max_tokens=9, messages=ASK["messages"])
    assert provider.ledger()[-1].path == "/v1/messages"
