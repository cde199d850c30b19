"""Responses in the background: what the caller sees, what is recorded, and where there is none."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from anthropic import Anthropic
from model_doubles import MemoryRecorder
from pydantic import BaseModel
from sayings import Saying, Server

from agentrun.core.errors import RunCancelled
from agentrun.models import background_support, wrap
from agentrun.testing import Call, Fault, Provider, Reply

ASK: Any = {"model": "gpt-5-mini", "input": "go"}
LOOK: Any = {"type": "function", "name": "look", "parameters": {}, "strict": False}
WHOLE = Reply("one two three", tool_calls=[Call("look", {"at": "a"})], chunks=3)
EVENTS = 17  # that WHOLE is streamed in


class Verdict(BaseModel):
    ok: bool


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has not found out yet who has no background mode."""
    monkeypatch.setattr(background_support, "_warned", set())
    monkeypatch.setattr(background_support, "_unsupported", set())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrun.models.background_response.SHORTEST_POLL_WAIT", 0.01)
    monkeypatch.setattr("agentrun.models.background.SHORTEST_POLL_WAIT", 0.01)


@pytest.fixture
def client(provider: Provider, no_wait: None) -> Iterator[openai.OpenAI]:
    provider.say([WHOLE])
    with background(provider) as client:
        yield client


def background(provider: Provider) -> openai.OpenAI:
    return wrap(openai.OpenAI(base_url=provider.base_url, api_key="k"), inflight="background")


def marks(provider: Provider) -> tuple[int, int]:
    return len(provider.ledger()), provider.billed()


def told(response: Any) -> Any:
    """What a response says, but for what is drawn anew for each."""
    keep = {"id", "created_at", "created", "call_id", "item_id", "background", "store", "snapshot"}

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(one) for one in value]
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in keep}
        return value

    return without(response.model_dump(warnings=False))


def shapes(client: openai.OpenAI) -> dict[str, Any]:
    with client.responses.stream(**ASK) as stream:
        events = [told(event) for event in stream]
        final = told(stream.get_final_response())
    return {
        "create": told(client.responses.create(**ASK)),
        "raw": json.loads(client.responses.with_raw_response.create(**ASK).text)["status"],
        "streamed": [told(event) for event in client.responses.create(**ASK, stream=True)],
        "stream": events,
        "final": final,
        "parse": told(client.responses.parse(**ASK, text_format=Verdict)),
    }


def test_every_shape_gives_what_a_plain_call_gives(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.say([Reply('{"ok": true}', chunks=3)])
    with openai.OpenAI(base_url=provider.base_url, api_key="k") as plain:
        expected = shapes(plain)
    since, billed = marks(provider)
    with recorder.active():
        assert shapes(client) == expected
    made = [entry for entry in provider.ledger()[since:] if entry.method == "POST"]
    assert [(e.body["background"], e.body["store"]) for e in made] == [(True, True)] * 5
    assert not any("background" in step.request.body for step in recorder.steps)
    assert provider.billed() - billed == 5
    since, _ = marks(provider)
    with recorder.again().active():
        assert shapes(client) == expected
    assert len(provider.ledger()) == since


def test_the_async_client_does_the_same(provider: Provider, recorder: MemoryRecorder) -> None:
    provider.say([Reply("one two three", chunks=3, pace_s=0.02)])

    async def both() -> tuple[str, str]:
        made = openai.AsyncOpenAI(base_url=provider.base_url, api_key="k")
        async with wrap(made, inflight="background") as client:
            with recorder.active():
                plain = await client.responses.create(**ASK)
                async with client.responses.stream(**ASK) as stream:
                    return plain.output_text, (await stream.get_final_response()).output_text

    _, billed = marks(provider)
    assert asyncio.run(both()) == ("one two three", "one two three")
    assert provider.billed() - billed == 2
    assert all(step.accepted for step in recorder.steps)


def test_the_id_is_recorded_before_anything_is_handed_on(
    client: openai.OpenAI, recorder: MemoryRecorder
) -> None:
    with recorder.active():
        stream = client.responses.create(**ASK, stream=True)
        assert (accepted := recorder.step.accepted)
        first: Any = next(iter(stream))
        assert first.response.id == accepted
        stream.close()
    assert recorder.outcome.ending == "abandoned"


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("after", range(1, EVENTS))
def test_a_stream_that_is_cut_goes_on_without_the_reader_knowing(
    after: int, clean: bool, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    with openai.OpenAI(base_url=provider.base_url, api_key="k") as plain:
        expected = [told(event) for event in plain.responses.create(**ASK, stream=True)]
    assert len(expected) == EVENTS
    _, billed = marks(provider)
    provider.arm(Fault.cut(after, clean=clean), Fault.cut(1, when={"method": "GET"}))
    with recorder.active():
        assert [told(event) for event in client.responses.create(**ASK, stream=True)] == expected
    assert provider.billed() - billed == 1
    assert (recorder.step.attempts, recorder.outcome.ending) == (1, "complete")


@pytest.mark.parametrize("more", [1, 20, -2])
def test_a_stream_that_breaks_in_an_event_goes_on_with_it(
    more: int, server: Server, recorder: MemoryRecorder
) -> None:
    """After so many bytes of it: what was handed on is whole, and the next one begins behind."""
    first = {"id": "resp_1", "status": "in_progress", "background": True, "output": []}
    begun = {"type": "response.created", "sequence_number": 0, "response": first}
    delta = {"type": "response.output_text.delta", "sequence_number": 1, "delta": "one"}
    last = {"type": "response.completed", "sequence_number": 2, "response": {**first, **DONE}}
    whole = Saying.events(begun, delta, last, named=True)
    part = (whole.pieces[0] + whole.pieces[1][:more],)
    server.say(Saying(part, headers=whole.headers, broken=True))
    asked = []

    def go_on(handler: Any) -> None:
        asked.append(handler.path)
        handler._answer(Saying(whole.pieces[1:], headers=whole.headers))

    answering: Any = server.http.RequestHandlerClass
    answering.do_GET = go_on
    made = openai.OpenAI(base_url=server.url, api_key="k")
    with wrap(made, inflight="background") as client, recorder.active():
        events = list(client.responses.create(**ASK, stream=True))
    assert [event.sequence_number for event in events] == [0, 1, 2]
    assert asked == ["/responses/resp_1?stream=true&starting_after=0"]


def test_a_stream_without_numbers_is_not_told_twice(
    server: Server, recorder: MemoryRecorder
) -> None:
    first = {"id": "resp_1", "status": "in_progress", "background": True, "output": []}
    begun = Saying.events({"type": "response.created", "response": first}, named=True, broken=True)
    answering: Any = server.http.RequestHandlerClass
    answering.do_GET = lambda handler: handler._answer(Saying.json({**first, **DONE}))
    server.say(begun)
    made = openai.OpenAI(base_url=server.url, api_key="k")
    with wrap(made, inflight="background") as client, recorder.active():
        events = [event.type for event in client.responses.create(**ASK, stream=True)]
    assert events == ["response.created", "response.in_progress", "response.completed"]


@pytest.mark.parametrize("after", range(1, EVENTS))
def test_a_stream_that_is_told_no_more_ends_with_the_same_texts(
    after: int, no_wait: None, recorder: MemoryRecorder
) -> None:
    with Provider(script=[WHOLE], restream_s=0.0) as provider, background(provider) as client:
        with client.responses.stream(**ASK) as stream:
            expected = told(stream.get_final_response())
        provider.arm(Fault.cut(after))
        with recorder.active(), client.responses.stream(**ASK) as stream:
            events: list[Any] = list(stream)
            assert told(stream.get_final_response()) == expected
        assert [e.sequence_number for e in events] == sorted({e.sequence_number for e in events})
        for kind, whole in (
            ("response.output_text.delta", "one two three"),
            ("response.function_call_arguments.delta", '{"at": "a"}'),
        ):
            assert "".join(e.delta for e in events if e.type == kind) == whole
        assert provider.billed() == 2


def begin(provider: Provider, **more: Any) -> str:
    """A response that some other process has created."""
    with openai.OpenAI(base_url=provider.base_url, api_key="k") as other:
        made: Any = other.responses.create(**ASK, background=True, **more)
        identifier: str = (next(iter(made)).response if more.get("stream") else made).id
    return identifier


@pytest.mark.parametrize("inflight", ["background", None])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_under_way_is_picked_up(
    stream: bool, inflight: Any, provider: Provider, recorder: MemoryRecorder
) -> None:
    """Also by a client that makes its own calls as plain ones."""
    provider.say([Reply("one two three", chunks=3, pace_s=0.02)])
    recorder.next["accepted"] = begin(provider, stream=stream)
    _, billed = marks(provider)
    made = openai.OpenAI(base_url=provider.base_url, api_key="k")
    with wrap(made, inflight=inflight) as client, recorder.active():
        if stream:
            events: list[Any] = list(client.responses.create(**ASK, stream=True))
            assert events[0].type == "response.created"
            text = events[-1].response.output_text
        else:
            text = client.responses.create(**ASK).output_text
    assert text == "one two three"
    assert provider.billed() == billed
    assert recorder.step.attempts == 0
    assert recorder.outcome.usage is not None


def test_one_that_is_streamed_no_more_is_picked_up_by_looking(
    no_wait: None, recorder: MemoryRecorder
) -> None:
    with Provider(script=[WHOLE], restream_s=0.0) as provider, background(provider) as client:
        recorder.next["accepted"] = begin(provider, stream=True)
        with recorder.active(), client.responses.stream(**ASK) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        assert (final.output_text, provider.billed()) == ("one two three", 1)
        assert kinds[:2] == ["response.created", "response.in_progress"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fate", ["unknown", "cancelled"])
def test_what_is_not_to_be_had_is_asked_for_again(
    fate: str, stream: bool, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    recorder.next["accepted"] = "resp_nobody"
    if fate == "cancelled":
        provider.say([Reply("never", delay_s=60)])
        recorder.next["accepted"] = begin(provider)
        with openai.OpenAI(base_url=provider.base_url, api_key="k") as other:
            other.responses.cancel(recorder.next["accepted"])
        provider.say([WHOLE])
    _, billed = marks(provider)
    with recorder.active():
        made: Any = client.responses.create(**ASK, stream=stream)
        last = list(made)[-1].response if stream else made
    assert last.output_text == "one two three"
    ((failure, wait),) = recorder.step.failures
    assert (failure.reason, failure.billed, wait) == ("ResponseLost", True, 0.0)
    assert provider.billed() - billed == 1


@pytest.mark.parametrize(
    ("code", "status", "attempts"), [("server_error", 500, 2), ("invalid_prompt", 400, 1)]
)
def test_one_that_fails_is_the_error_of_a_plain_call(
    code: str, status: int, attempts: int, no_wait: None, monkeypatch: pytest.MonkeyPatch,
    recorder: MemoryRecorder,
) -> None:  # fmt: skip
    begun = {"id": "resp_1", "status": "queued", "background": True, "output": []}
    failed = {**begun, "status": "failed", "error": {"code": code, "message": "no luck"}}
    with Server() as server:
        handler: Any = server.http.RequestHandlerClass
        handler.do_GET = lambda self: self._answer(Saying.json(failed))
        server.say(*[Saying.json(begun)] * attempts)
        made = openai.OpenAI(base_url=server.url, api_key="k", max_retries=1)
        client = wrap(made, inflight="background")
        with recorder.active(), pytest.raises(openai.APIStatusError, match="no luck") as raised:
            client.responses.create(**ASK)
        client.close()
    assert raised.value.status_code == status
    assert recorder.step.attempts == attempts
    assert recorder.outcome.status == status


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_out_of_reach_is_no_reason_to_pay_again(
    stream: bool, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("agentrun.models.background_response.UNREACHABLE_PATIENCE", 0.05)
    recorder.next["accepted"] = begin(provider, stream=stream)
    _, billed = marks(provider)
    provider.arm(Fault.error(503, times=0, when={"method": "GET"}))
    with recorder.active(), pytest.raises(openai.APIConnectionError):
        list(client.responses.create(**ASK, stream=stream))
    assert provider.billed() == billed
    assert recorder.outcome.error is not None
    assert "cannot be read: the provider answered 503" in recorder.outcome.error[1]


# -- where there is none ---------------------------------------------------------------------------

UNKNOWN = {
    "error": {
        "message": "Unknown parameter: 'background'.",
        "type": "invalid_request_error",
        "param": "background",
        "code": "unknown_parameter",
    }
}
FORBIDDEN = {"detail": [{"loc": ["body", "background"], "msg": "Extra inputs are not permitted"}]}
DONE = {"id": "resp_1", "object": "response", "status": "completed", "output": []}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    "refusal",
    [
        UNKNOWN,
        {"detail": [{"loc": ["body", "background"], "msg": "Extra inputs are not permitted"}]},
    ],
)
def test_a_provider_that_refuses_it_is_asked_plainly(
    refusal: Any, server: Server, recorder: MemoryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    server.say(Saying.json(refusal, 400), *[Saying.json(DONE)] * 2)
    made = openai.OpenAI(base_url=server.url, api_key="k")
    with wrap(made, inflight="background") as client, recorder.active():
        for _ in range(2):
            assert client.responses.create(**ASK).status == "completed"
    bodies = [json.loads(body) for _, _, body in server.requests]
    assert [body.get("background") for body in bodies] == [True, None, None]
    assert bodies[1] == ASK
    assert [step.attempts for step in recorder.steps] == [1, 1]
    (warning,) = warnings(caplog)
    assert "are sent without background mode" in warning


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_ignores_it_has_answered(
    stream: bool, server: Server, recorder: MemoryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    last = {"type": "response.completed", "response": DONE}
    first = {"type": "response.created", "response": {**DONE, "status": "in_progress"}}
    answer = Saying.events(first, last, named=True) if stream else Saying.json(DONE)
    server.say(answer, answer)
    made = openai.OpenAI(base_url=server.url, api_key="k")
    with wrap(made, inflight="background") as client, recorder.active():
        for _ in range(2):
            said: Any = client.responses.create(**ASK, stream=stream)
            assert (list(said)[-1].response if stream else said).status == "completed"
    assert [step.accepted for step in recorder.steps] == [None, None]
    assert "background" not in json.loads(server.requests[1][2])
    (warning,) = warnings(caplog)
    assert "does not say that it works in the background" in warning


def test_a_tool_that_has_a_background_is_another_matter(
    server: Server, recorder: MemoryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"message": "Invalid value: 'blue'.", "param": "tools[0].background"}
    server.say(Saying.json({"error": wrong}, 400))
    made = openai.OpenAI(base_url=server.url, api_key="k")
    with (
        wrap(made, inflight="background") as client,
        recorder.active(),
        pytest.raises(openai.BadRequestError),
    ):
        client.responses.create(**ASK)
    assert len(server.requests) == 1
    assert warnings(caplog) == []


def test_an_error_of_the_request_itself_is_the_callers(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with recorder.active(), pytest.raises(openai.BadRequestError, match="'input'"):
        client.responses.create(model="gpt-5-mini", input=[])
    assert recorder.step.attempts == 1
    assert warnings(caplog) == []


def test_other_apis_go_as_plain_calls_and_say_so_once(
    provider: Provider, recorder: MemoryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    provider.say(["fine"])
    chat: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "go"}]}
    claude = wrap(Anthropic(base_url=provider.url, api_key="k"), inflight="background")
    with background(provider) as client, claude, recorder.active():
        for _ in range(2):
            assert client.chat.completions.create(**chat).choices[0].message.content == "fine"
            claude.messages.create(**chat, max_tokens=9)
        client.responses.create(**ASK, store=False)
        client.responses.create(**ASK, background=False)
    assert [warning.rpartition(": ")[2] for warning in warnings(caplog)] == [
        "chat.completions has no background mode",
        "messages has no background mode",
        "the code says store=False, and what is not stored cannot be picked up",
    ]
    assert all("background" not in e.body or not e.body["background"]
               for e in provider.ledger()[-6:])  # fmt: skip


def test_outside_a_run_a_call_is_what_it_was(client: openai.OpenAI, provider: Provider) -> None:
    client.responses.create(**ASK)
    assert "background" not in provider.ledger()[-1].body


def test_a_wrapped_client_stays_as_it_was_told(provider: Provider) -> None:
    with background(provider) as client:
        settings: Any = wrap(client, retries=1)._client._transport.settings  # type: ignore[attr-defined]
        assert (settings.background, settings.policy.retries) == (True, 1)
    with pytest.raises(Exception, match="inflight='later'"):
        wrap(client, inflight="later")  # type: ignore[arg-type]


# -- cancelled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_run_cancels_the_response(
    stream: bool, client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.say([Reply("one two three", chunks=3, pace_s=0.3)])
    recorder.next["cancelled_at"] = "accepted"
    with recorder.active(), pytest.raises(RunCancelled):
        list(client.responses.create(**ASK, stream=stream))
    last = provider.ledger()[-1]
    assert (last.method, last.path) == ("POST", f"/v1/responses/{recorder.step.accepted}/cancel")
    assert recorder.step.outcome is None


def test_a_reader_that_breaks_off_has_the_rest_cancelled(
    client: openai.OpenAI, provider: Provider, recorder: MemoryRecorder
) -> None:
    provider.say([Reply("one two three", chunks=3, pace_s=0.3)])
    with recorder.active(), client.responses.create(**ASK, stream=True) as stream:
        next(iter(stream))
    assert provider.ledger()[-1].path.endswith("/cancel")
    assert recorder.outcome.ending == "abandoned"
