"""One owner of retries: attempts of one step, and a final error that stays final."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server, completion

from agentrun.core.errors import Parking
from agentrun.core.recorder import ModelReply
from agentrun.models import http_client, wrap
from agentrun.models.retries import requested_wait
from agentrun.testing import Fault, Provider

ASK: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "go"}]}


@pytest.fixture
def client(provider: Provider, no_wait: None) -> Iterator[openai.OpenAI]:
    with wrap(openai.OpenAI(base_url=provider.base_url, api_key="test")) as client:
        yield client


def error_of(client: openai.OpenAI) -> tuple[Any, ...]:
    with pytest.raises(openai.APIError) as caught:
        client.chat.completions.create(**ASK)
    error = caught.value
    request_id = getattr(error, "request_id", None)
    return type(error), str(error), error.body, request_id


def test_two_429_and_an_answer_are_three_attempts_of_one_step(
    provider: Provider, recorder: MemoryRecorder, pauses: list[tuple[str, float]]
) -> None:
    provider.arm(Fault.error(429, retry_after=0.05, times=2))
    before = len(provider.ledger())
    with (
        wrap(openai.OpenAI(base_url=provider.base_url, api_key="test")) as client,
        recorder.active(),
    ):
        client.chat.completions.create(**ASK)
    assert recorder.step.attempts == 3
    assert [(f.reason, f.status, wait) for f, wait in recorder.step.failures] == [
        ("HTTP 429", 429, 0.05),
        ("HTTP 429", 429, 0.05),
    ]
    assert recorder.outcome.status == 200
    sent = provider.ledger()[before:]
    assert [entry.idempotency_key for entry in sent] == ["key-1"] * 3
    assert pauses == [("sync", 0.05), ("sync", 0.05)]


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_an_error_that_stays_is_told_at_once_and_again(
    status: int, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.error(status, times=0))
    with recorder.active():
        first = error_of(client)
    asked = len(provider.ledger())
    assert recorder.step.attempts == 1
    assert recorder.outcome.status == status
    assert first[3], "the request id is there"
    with recorder.again().active():
        assert error_of(client) == first
    assert len(provider.ledger()) == asked


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_an_exhausted_error_is_told_again_without_a_request(
    status: int, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.error(status, times=0))
    with recorder.active():
        first = error_of(client)
    asked = len(provider.ledger())
    assert recorder.step.attempts == 3
    assert len(recorder.step.failures) == 2
    with recorder.again().active():
        assert error_of(client) == first
    assert len(provider.ledger()) == asked


@pytest.mark.parametrize(("before", "more"), [(0, 3), (1, 2), (2, 1), (9, 1)])
def test_attempts_before_a_crash_count(
    before: int, more: int, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.error(503, times=0))
    recorder.next = {"prior_failures": before}
    with recorder.active():
        assert error_of(client)[0] is openai.InternalServerError
    assert recorder.step.attempts == more


def test_a_lost_connection_is_tried_again(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.drop("effect"))
    with recorder.active():
        client.chat.completions.create(**ASK)
    assert recorder.step.attempts == 2
    assert recorder.step.failures[0][0].reason == "RemoteProtocolError"


def test_a_body_that_breaks_off_is_tried_again_as_nothing_was_handed_on(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.truncate())
    with recorder.active():
        assert client.chat.completions.create(**ASK).choices
    assert recorder.step.attempts == 2
    assert [failure.billed for failure, _ in recorder.step.failures] == [True]


@pytest.mark.parametrize("legacy", [False, True])
def test_connections_lost_to_the_end_are_told_again_as_the_same_error(
    legacy: bool, provider: Provider, recorder: MemoryRecorder, no_wait: None
) -> None:
    provider.arm(Fault.drop(times=0))
    old: Any = httpx.Client() if legacy else None
    where: Any = {"base_url": provider.base_url, "api_key": "test", "http_client": old}
    with wrap(openai.OpenAI(**where)) as client:
        with recorder.active():
            first = error_of(client)
        asked = len(provider.ledger())
        with recorder.again().active():
            assert error_of(client) == first
    assert first[0] is openai.APIConnectionError
    assert (recorder.outcome.status, recorder.step.attempts) == (0, 3)
    assert recorder.outcome.error is not None
    assert recorder.outcome.error[0] == "RemoteProtocolError"
    assert len(provider.ledger()) == asked


def test_a_timeout_is_told_again_as_a_timeout(provider: Provider, recorder: MemoryRecorder) -> None:
    provider.arm(Fault.hold(times=0))
    where: Any = {"base_url": provider.base_url, "api_key": "test"}
    with wrap(openai.OpenAI(**where, timeout=0.2), retries=0) as client:
        with recorder.active():
            first = error_of(client)
        with recorder.again().active():
            assert error_of(client) == first
    assert first[0] is openai.APITimeoutError
    assert recorder.step.attempts == 1


@pytest.mark.parametrize("fault", [Fault.error(500, times=0), Fault.drop(times=0)])
def test_retries_switched_on_again_send_nothing_more(
    fault: Fault, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(fault)
    asked = len(provider.ledger())
    with recorder.active():
        error_of(client.with_options(max_retries=1))
    assert len(provider.ledger()) == asked + 3
    assert recorder.step.attempts == 3


def test_a_client_of_its_own_retries_through_ours_only(
    provider: Provider, recorder: MemoryRecorder, no_wait: None
) -> None:
    provider.arm(Fault.error(503, times=0))
    asked = len(provider.ledger())
    where: Any = {"base_url": provider.base_url, "api_key": "test"}
    with (
        openai.OpenAI(**where, http_client=http_client(retries=1)) as client,
        recorder.active(),
    ):
        error_of(client)
    assert recorder.step.attempts == 2
    assert len(provider.ledger()) == asked + 2


def test_the_server_decides_with_x_should_retry(
    server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    again, never = {"x-should-retry": "true"}, {"x-should-retry": "false"}
    server.say(Saying.json({"error": {"message": "hm"}}, 400, **again), Saying.json(completion()))
    server.say(Saying.json({"error": {"message": "no"}}, 500, **never))
    with (
        wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client,
        recorder.active(),
    ):
        client.chat.completions.create(**ASK)
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**ASK)
    assert [step.attempts for step in recorder.steps] == [2, 1]


def test_a_wait_beyond_measure_is_told_instead_of_kept(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.error(429, retry_after=100_000))
    with recorder.active():
        assert error_of(client)[0] is openai.RateLimitError
    assert recorder.step.attempts == 1


def test_the_users_idempotency_key_wins(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    with recorder.active():
        client.chat.completions.create(**ASK, extra_headers={"Idempotency-Key": "mine"})
    assert provider.ledger()[-1].idempotency_key == "mine"


def test_a_late_reply_is_adopted_and_nothing_is_sent(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    kind = ("content-type", "application/json")
    raw = b'{"id": "late", "object": "chat.completion", "choices": []}'
    recorder.next = {"late": ModelReply(200, (kind,), raw, None)}
    asked = len(provider.ledger())
    with recorder.active():
        assert client.chat.completions.create(**ASK).id == "late"
    assert recorder.outcome.raw == raw
    assert len(provider.ledger()) == asked


def test_an_interrupt_passes_through_the_sdk_unchanged(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    parking = Parking("enough")
    recorder.next = {"interrupt": parking}
    asked = len(provider.ledger())
    with recorder.active(), pytest.raises(Parking) as caught:
        client.with_options(max_retries=2).chat.completions.create(**ASK)
    assert caught.value is parking
    assert recorder.step.outcome is None
    assert len(provider.ledger()) == asked


def test_async_retries_wait_without_blocking_the_loop(
    provider: Provider, recorder: MemoryRecorder, pauses: list[tuple[str, float]]
) -> None:
    provider.arm(Fault.error(429, retry_after=0.05, times=1))

    async def main() -> None:
        where: Any = {"base_url": provider.base_url, "api_key": "test"}
        async with wrap(openai.AsyncOpenAI(**where)) as client:
            with recorder.active():
                await client.chat.completions.create(**ASK)

    asyncio.run(main())
    assert recorder.step.attempts == 2
    assert pauses == [("async", 0.05)]


def test_cancelling_while_sending_leaves_the_attempt_open(
    provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.hold("effect"))

    async def main() -> None:
        where: Any = {"base_url": provider.base_url, "api_key": "test"}
        async with wrap(openai.AsyncOpenAI(**where)) as client:
            with recorder.active():
                call = asyncio.create_task(client.chat.completions.create(**ASK))
            await asyncio.to_thread(provider.wait_for, "held")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    assert recorder.step.attempts == 1
    assert recorder.step.outcome is None
    assert recorder.step.failures == []


def test_a_date_in_retry_after_is_understood() -> None:
    headers = {"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}
    assert requested_wait(headers, lambda: 90.0) == 10.0
    assert requested_wait({"retry-after-ms": "1500", "retry-after": "9"}, time.time) == 1.5
    assert requested_wait({"retry-after": "soon"}, time.time) is None
    assert requested_wait({}, time.time) is None
