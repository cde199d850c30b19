"""When the outcome of a stream is known, and what becomes of one that does not end well."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server, chunk

from agentrun.models import wrap
from agentrun.testing import Fault, Provider, Reply

ASK: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "go"}], "stream": True}


@pytest.fixture
def client(provider: Provider, no_wait: None) -> Iterator[openai.OpenAI]:
    provider.say([Reply(text="one two three four five", chunks=5)])
    with wrap(openai.OpenAI(base_url=provider.base_url, api_key="test")) as client:
        yield client


def read(client: openai.OpenAI) -> tuple[list[Any], type[BaseException] | None]:
    """Everything a consumer sees of a stream: its chunks, and the error that ended it."""
    seen: list[Any] = []
    try:
        seen.extend(part.model_dump() for part in client.chat.completions.create(**ASK))
    except openai.APIError as error:
        return seen, type(error)
    return seen, None


def test_the_outcome_is_recorded_before_the_terminal_marker_is_handed_on(
    client: openai.OpenAI, recorder: MemoryRecorder
) -> None:
    with (
        recorder.active(),
        client.chat.completions.with_streaming_response.create(**ASK) as raw,
    ):
        known = [
            (b"[DONE]" in piece, recorder.step.outcome is not None) for piece in raw.iter_bytes()
        ]
    assert (True, True) in known
    assert (True, False) not in known


def test_a_consumer_that_stops_at_the_marker_leaves_a_complete_outcome(
    client: openai.OpenAI, recorder: MemoryRecorder
) -> None:
    with recorder.active():
        list(client.chat.completions.create(**ASK))
        assert recorder.outcome.ending == "complete"
    assert recorder.outcome.body["choices"][0]["message"]["content"] == "one two three four five"


@pytest.mark.parametrize("fault", [Fault.cut(3), Fault.cut(3, clean=True)])
def test_a_stream_that_loses_its_end_is_an_error_now_and_again(
    fault: Fault, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(fault)
    with recorder.active():
        first = read(client)
    asked = len(provider.ledger())
    assert first[0]
    assert first[1] is openai.APIConnectionError
    assert recorder.outcome.ending == "cut"
    assert recorder.step.attempts == 1
    with recorder.again().active():
        assert read(client) == first
    assert len(provider.ledger()) == asked


@pytest.mark.parametrize("fault", [Fault.cut(0), Fault.cut(0, clean=True)])
def test_a_stream_that_fails_before_its_first_byte_is_tried_again(
    fault: Fault, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(fault)
    with recorder.active():
        chunks, error = read(client)
    assert error is None
    assert len(chunks) >= 5
    assert recorder.step.attempts == 2
    assert [failure.billed for failure, _ in recorder.step.failures] == [True]
    assert recorder.outcome.ending == "complete"


def test_a_consumer_that_breaks_off_finds_the_same_part_again(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.say([Reply(text="one two three four five", chunks=5)])
    provider.arm(Fault.hold(at=3))
    with recorder.active(), client.chat.completions.create(**ASK) as stream:
        first = [next(stream).model_dump(), next(stream).model_dump()]
    asked = len(provider.ledger())
    assert recorder.outcome.ending == "abandoned"
    with recorder.again().active():
        again = [part.model_dump() for part in client.chat.completions.create(**ASK)]
    assert again[:2] == first
    assert len(again) <= 3, "what was never read is not there; the stream just ends"
    assert len(provider.ledger()) == asked


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_an_interrupted_consumer_leaves_no_outcome(
    error: type[BaseException], client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.hold(at=3))
    with recorder.active():
        stream = client.chat.completions.create(**ASK)
        next(stream)
        with pytest.raises(error), stream:
            raise error
    assert recorder.step.outcome is None


def test_an_error_answer_to_a_stream_request_is_plain(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.arm(Fault.error(400))
    with recorder.active(), pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASK)
    assert not recorder.outcome.stream
    assert recorder.outcome.body["error"]["message"]


def test_an_error_event_is_the_last_word_of_a_stream(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.events(chunk("one"), {"error": {"message": "overloaded"}}))
    with wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client:
        with recorder.active():
            first = read(client)
        with recorder.again().active():
            assert read(client) == first
    assert first[1] is openai.APIError
    assert recorder.outcome.ending == "complete"
    assert len(server.requests) == 1


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_handed_on_that_follows_the_end(
    server: Server, recorder: MemoryRecorder, broken: bool
) -> None:
    """It would be missing from a resume: the outcome was recorded at the end."""
    end = {"type": "response.completed", "response": {"id": "r", "output": []}}
    late = {"type": "response.output_text.delta", "delta": "late"}
    server.say(Saying.events(end, late, late, named=True, broken=broken))

    def types(client: openai.OpenAI) -> list[str]:
        return [e.type for e in client.responses.create(model="m", input="go", stream=True)]

    with wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client:
        with recorder.active():
            assert types(client) == ["response.completed"]
        with recorder.again().active():
            assert types(client) == ["response.completed"]
    assert recorder.outcome.ending == "complete"


@pytest.mark.parametrize("more", [False, True])
def test_an_error_that_is_not_raised_may_have_something_after_it(
    server: Server, recorder: MemoryRecorder, more: bool
) -> None:
    error = {"type": "error", "code": "busy", "message": "overloaded", "param": None}
    failed = {"type": "response.failed", "response": {"id": "r", "output": []}}
    server.say(Saying.events(error, *[failed] * more, named=True))

    def types(client: openai.OpenAI) -> list[str]:
        return [e.type for e in client.responses.create(model="m", input="go", stream=True)]

    with wrap(openai.OpenAI(base_url=server.url, api_key="test"), retries=0) as client:
        with recorder.active():
            assert types(client) == ["error", "response.failed"][: 1 + more]
        with recorder.again().active():
            assert types(client) == ["error", "response.failed"][: 1 + more]
    assert recorder.outcome.ending == "complete"
    assert not recorder.outcome.answers


def test_a_gzipped_stream_is_recorded_as_it_reads(server: Server, recorder: MemoryRecorder) -> None:
    plain = Saying.events(chunk("one"), chunk(" two", finish="stop"), "[DONE]")
    squeeze = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    pieces = [squeeze.compress(p) + squeeze.flush(zlib.Z_SYNC_FLUSH) for p in plain.pieces]
    server.say(
        Saying((*pieces, squeeze.flush()), headers=(*plain.headers, ("content-encoding", "gzip")))
    )
    with wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client:
        with recorder.active():
            first = read(client)
        with recorder.again().active():
            assert read(client) == first
    assert len(first[0]) == 2
    assert recorder.outcome.raw == b"".join(plain.pieces)
    assert "content-encoding" not in dict(recorder.outcome.headers)
    assert recorder.outcome.body["choices"][0]["message"]["content"] == "one two"


def test_a_stream_in_another_encoding_is_recorded_too(
    server: Server, recorder: MemoryRecorder
) -> None:
    plain = b"".join(Saying.events(chunk("one", finish="stop"), "[DONE]").pieces)
    headers = (("content-type", "text/event-stream"), ("content-encoding", "deflate"))
    server.say(Saying((zlib.compress(plain),), headers=headers))
    with (
        wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client,
        recorder.active(),
    ):
        chunks, error = read(client)
    assert (len(chunks), error) == (1, None)
    assert recorder.outcome.raw == plain
    assert recorder.outcome.ending == "complete"


def test_async_streams_that_break_or_are_broken_off_are_served_again(
    provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.say([Reply(text="one two three four five", chunks=5)])

    async def pass_(with_: MemoryRecorder) -> Any:
        where: Any = {"base_url": provider.base_url, "api_key": "test"}
        async with wrap(openai.AsyncOpenAI(**where)) as client:
            with with_.active():
                cut: list[Any] = []
                try:
                    async for part in await client.chat.completions.create(**ASK):
                        cut.append(part.model_dump())
                except openai.APIConnectionError as error:
                    cut.append(type(error))
                async with await client.chat.completions.create(**ASK, seed=1) as stream:
                    first = (await anext(aiter(stream))).model_dump()
                return cut, first

    provider.arm(Fault.cut(3), Fault.hold(at=2, nth=2))
    first = asyncio.run(pass_(recorder))
    asked = len(provider.ledger())
    assert first[0][-1] is openai.APIConnectionError
    assert asyncio.run(pass_(recorder.again())) == first
    assert len(provider.ledger()) == asked
    endings = [step.outcome.ending for step in recorder.steps if step.outcome]
    assert endings == ["cut", "abandoned"]


def test_a_cancelled_async_reader_leaves_no_outcome(
    provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.say([Reply(text="one two three four five", chunks=5)])
    provider.arm(Fault.hold(at=2))

    async def main() -> None:
        where: Any = {"base_url": provider.base_url, "api_key": "test"}
        async with wrap(openai.AsyncOpenAI(**where)) as client:
            begun = asyncio.Event()

            async def reader() -> None:
                async for _ in await client.chat.completions.create(**ASK):
                    begun.set()

            with recorder.active():
                task = asyncio.create_task(reader())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert recorder.step.attempts == 1
    assert recorder.step.outcome is None
