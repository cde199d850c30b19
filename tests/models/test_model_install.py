"""`install()`: clients that nobody wrapped record too."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import openai
import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server, chunk, completion

from agentrun.core.errors import ConfigError, NoRun
from agentrun.models import install, wrap
from agentrun.models.transport import RecordingBase

pytestmark = pytest.mark.usefixtures("unpatched", "no_wait")

ASK: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "go"}]}
BUSY = Saying.json({"error": {"message": "busy"}}, 500)


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_clients_made_before_and_after_record(
    module: Any, server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json(completion()), Saying.json(completion()))
    with module.Client() as before:
        install()
        with recorder.active(), module.Client() as after:
            for client in (before, after):
                assert client.post(f"{server.url}/chat/completions", json=ASK).status_code == 200
    assert [step.attempts for step in recorder.steps] == [1, 1]


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_async_clients_record(module: Any, server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json(completion()))
    install()

    async def ask() -> Any:
        with recorder.active():
            async with module.AsyncClient() as client:
                return await client.post(f"{server.url}/chat/completions", json=ASK)

    assert asyncio.run(ask()).json() == completion()
    assert recorder.step.attempts == 1


def test_outside_a_run_and_for_other_requests_nothing_changes(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(*[Saying.json({})] * 2)
    install()
    assert httpx.post(f"{server.url}/chat/completions", json=ASK).json() == {}
    with recorder.active():
        assert httpx.post(f"{server.url}/elsewhere", json={"a": 1}).json() == {}
    assert recorder.steps == []
    assert "idempotency-key" not in server.requests[0][1]


def test_strict_refuses_a_model_call_outside_a_run(server: Server) -> None:
    install(strict=True)
    with pytest.raises(NoRun, match="gpt-5-mini"):
        httpx.post(f"{server.url}/chat/completions", json=ASK)
    assert server.requests == []


def test_installing_again_changes_the_settings_and_wraps_once(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(BUSY, Saying.json(completion()))
    install(retries=0)
    install(retries=1)
    with httpx.Client() as client:
        transport: Any = client._transport_for_url(httpx.URL(server.url))
        assert not isinstance(transport.inner, RecordingBase)
        with recorder.active():
            assert client.post(f"{server.url}/chat/completions", json=ASK).status_code == 200
    assert recorder.step.attempts == 2


def test_a_wrapped_client_keeps_its_own_settings(server: Server, recorder: MemoryRecorder) -> None:
    server.say(BUSY)
    install(retries=5)
    with (
        wrap(openai.OpenAI(base_url=server.url, api_key="k"), retries=0) as client,
        recorder.active(),
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(**ASK)
    assert recorder.step.attempts == 1


def test_an_sdk_does_not_retry_after_us(server: Server, recorder: MemoryRecorder) -> None:
    server.say(BUSY, BUSY)
    install(retries=1)
    with (
        openai.OpenAI(base_url=server.url, api_key="k", max_retries=4) as client,
        recorder.active(),
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(**ASK)
    assert recorder.step.attempts == len(server.requests) == 2


def test_retries_left_to_the_client_are_steps_that_are_handed_out_again(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(BUSY, Saying.json(completion()))
    install(retries=None)
    with openai.OpenAI(base_url=server.url, api_key="k", max_retries=4) as client:
        create = client.chat.completions.with_raw_response.create
        with recorder.active():
            first = create(**ASK)
        with recorder.again().active():
            again = create(**ASK)
    assert first.retries_taken == again.retries_taken == 1
    assert first.text == again.text
    assert [step.outcome.status for step in recorder.steps if step.outcome] == [500, 200]
    assert len(server.requests) == 2


def test_left_to_the_client_a_stream_without_its_end_is_as_the_client_sees_it(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.events(chunk("hel")))
    install(retries=None)

    def ask(client: openai.OpenAI) -> list[Any]:
        stream = client.chat.completions.create(**ASK, stream=True)
        return [piece.choices[0].delta.content for piece in stream]

    with openai.OpenAI(base_url=server.url, api_key="k") as client:
        with recorder.active():
            assert ask(client) == ["hel"]
        with recorder.again().active():
            assert ask(client) == ["hel"]
    assert recorder.outcome.ending == "cut"
    assert "idempotency-key" not in server.requests[0][1]


def test_left_to_the_client_a_body_that_cannot_be_decoded_fails_where_it_is_read(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying((b"no gzip",), headers=(("content-encoding", "gzip"),)))
    install(retries=None)

    def ask() -> str:
        with (
            httpx.Client() as client,
            client.stream("POST", f"{server.url}/chat/completions", json=ASK) as response,
            pytest.raises(httpx.DecodingError) as caught,
        ):
            response.read()
        return str(caught.value)

    with recorder.active():
        first = ask()
    with recorder.again().active():
        assert ask() == first
    assert len(server.requests) == 1


def test_a_negative_number_of_retries_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        install(retries=-1)
