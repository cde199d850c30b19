"""A good status and no answer in it: a failed attempt, and never recorded as an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server, chunk, completion
from test_model_apis import MESSAGE, RESPONSE

from agentrun.core.recorder import ModelRequest
from agentrun.models import http_client, wrap
from agentrun.models.endpoints import locate
from agentrun.models.event_streams import ServerEvent, SseParser, is_terminal
from agentrun.models.reply_flaws import body_flaw, event_flaw, is_preamble
from agentrun.models.wrap import make_settings

MESSAGES: Any = [{"role": "user", "content": "hi"}]
BUSY = {"error": {"message": "Provider returned error", "code": 502}}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
EMBEDDINGS = {
    "object": "list", "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1},
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
}  # fmt: skip
STOPPED = {
    "type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5},
}  # fmt: skip
TEXT = {
    "type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"},
}  # fmt: skip
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
BEGUN = {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}}
CREATED = {"type": "response.created", "response": {**RESPONSE, "status": "in_progress"}}
FAILED = {
    "type": "response.failed",
    "response": {**RESPONSE, "status": "failed", "output": [], "usage": None,
                 "error": {"code": "server_error", "message": "sorry"}},
}  # fmt: skip
DELTA = {
    "type": "response.output_text.delta", "delta": "hello", "item_id": "msg_1",
    "content_index": 0, "output_index": 0, "logprobs": [], "sequence_number": 1,
}  # fmt: skip
COMPLETED = {"type": "response.completed", "response": RESPONSE, "sequence_number": 2}


def raw(text: str, kind: str = "application/json") -> Saying:
    return Saying((text.encode(),) if text else (), headers=(("content-type", kind),))


def stream(*lines: str) -> Saying:
    return raw("".join(f"data: {line}\n\n" for line in lines), "text/event-stream")


HTML = raw("<!doctype html><title>502</title>", "text/html")
ANYWHERE: dict[str, Saying] = {
    "an error": Saying.json(BUSY),
    "an error as text": Saying.json({"error": "model is loading"}),
    "an empty body": raw(""),
    "cut JSON": raw('{"id": "c", "choi'),
    "a page": HTML,
    "a page said to be JSON": raw("<html>bad gateway</html>"),
    "null": raw("null"),
    "another object": Saying.json({"detail": "warming up"}),
    "no JSON at all": raw("upstream timed out", "text/plain"),
}
CASES: dict[str, tuple[str, Saying]] = {
    **{f"{api}: {name}": (api, saying) for name, saying in ANYWHERE.items()
       for api in ("chat", "responses", "messages", "embeddings")},
    "chat: choices null": ("chat", Saying.json({"id": "c", "choices": None})),
    "chat: no choices": ("chat", Saying.json(completion(choices=[]))),
    "chat: no message": ("chat", Saying.json(completion(choices=[{"index": 0}]))),
    "chat: the provider broke off": (
        "chat",
        Saying.json(completion(choices=[
            {"message": {"role": "assistant", "content": ""}, "finish_reason": "error"}])),
    ),
    "responses: failed": ("responses", Saying.json(FAILED["response"])),
    "responses: no output": ("responses", Saying.json({**RESPONSE, "output": None})),
    "messages: an error": ("messages", Saying.json(OVERLOADED)),
    "messages: no content": ("messages", Saying.json({**MESSAGE, "content": None})),
    "embeddings: no data": ("embeddings", Saying.json({**EMBEDDINGS, "data": []})),
    "chat stream: an error": ("chat stream", Saying.events(BUSY)),
    "chat stream: an error, done": ("chat stream", Saying.events(BUSY, "[DONE]")),
    "chat stream: an error after the role": (
        "chat stream", Saying.events(chunk("", role="assistant"), BUSY, "[DONE]")),
    "chat stream: an error beside an empty choice": (
        "chat stream", Saying.events({**chunk(""), "error": {"message": "server error"}})),
    "chat stream: a garbled event": ("chat stream", stream('{"id": "c", "choi', "[DONE]")),
    "chat stream: no UTF-8": ("chat stream", Saying((b'data: {"id": "\xff"}\n\n',),
                              headers=(("content-type", "text/event-stream"),))),
    "chat stream: an error in one piece with text": (
        "chat stream", stream(json.dumps(chunk("hel")), json.dumps(BUSY), "[DONE]")),
    "chat stream: a JSON error": ("chat stream", Saying.json(BUSY)),
    "chat stream: a page": ("chat stream", HTML),
    "responses stream: failed": (
        "responses stream", Saying.events(CREATED, FAILED, named=True)),
    "responses stream: an error event": (
        "responses stream",
        Saying.events(CREATED, {"type": "error", "code": "busy", "message": "m"}, named=True)),
    "messages stream: an error": ("messages stream", Saying.events(OVERLOADED, named=True)),
    "messages stream: an error after the start": (
        "messages stream", Saying.events(BEGUN, OVERLOADED, named=True)),
    "messages stream: a garbled event": (
        "messages stream", raw("event: message_start\ndata: {oh\n\n", "text/event-stream")),
}  # fmt: skip
GOOD: dict[str, Saying] = {
    "chat": Saying.json(completion()),
    "chat stream": Saying.events(chunk("hello"), chunk(finish="stop"), "[DONE]"),
    "responses": Saying.json(RESPONSE),
    "responses stream": Saying.events(CREATED, DELTA, COMPLETED, named=True),
    "messages": Saying.json(MESSAGE),
    "messages stream": Saying.events(
        BEGUN, BLOCK, TEXT, STOPPED, {"type": "message_stop"}, named=True),
    "embeddings": Saying.json(EMBEDDINGS),
}  # fmt: skip


def ask(api: str, server: Server, retries: int) -> Callable[[], Any]:
    """What the code sees of a call by the real SDK: its value, or its error."""
    client = wrap(openai.OpenAI(base_url=server.url, api_key="k"), retries=retries)
    claude = wrap(anthropic.Anthropic(base_url=server.url, api_key="k"), retries=retries)
    calls: dict[str, Callable[[], Any]] = {
        "chat": lambda: client.chat.completions.create(model="m", messages=MESSAGES),
        "chat stream": lambda: list(
            client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        ),
        "responses": lambda: client.responses.create(model="m", input="hi"),
        "responses stream": lambda: list(
            client.responses.create(model="m", input="hi", stream=True)
        ),
        "messages": lambda: claude.messages.create(model="m", max_tokens=9, messages=MESSAGES),
        "messages stream": lambda: list(
            claude.messages.create(model="m", max_tokens=9, messages=MESSAGES, stream=True)
        ),
        "embeddings": lambda: client.embeddings.create(
            model="m", input="hi", encoding_format="float"
        ),
    }

    def seen() -> Any:
        try:
            return repr(calls[api]())
        except Exception as error:
            return type(error), str(error)

    return seen


@pytest.mark.parametrize("name", CASES)
def test_no_answer_is_a_failed_attempt(
    name: str, server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    api, bad = CASES[name]
    server.say(GOOD[api])
    with recorder.active():
        good = ask(api, server, 1)()
    server.say(bad, GOOD[api])
    with (other := MemoryRecorder()).active():
        assert ask(api, server, 1)() == good
    assert other.step.attempts == 2
    assert [failure.reason for failure, _ in other.step.failures] == ["NoAnswer"]
    assert other.outcome.answers


@pytest.mark.parametrize("name", CASES)
def test_the_last_failure_is_told_to_the_code_and_is_no_answer(
    name: str, server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    api, bad = CASES[name]
    server.say(bad, bad)
    seen = ask(api, server, 1)
    with recorder.active():
        first = seen()
    assert recorder.step.attempts == 2
    assert not recorder.outcome.answers
    with recorder.again().active():
        assert seen() == first
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        ({"code": 400, "message": "no"}, 1),
        ({"type": "invalid_request_error", "message": "no"}, 1),
        ({"code": "context_length_exceeded", "message": "no"}, 1),
        ({"code": 429, "message": "later"}, 2),
        ({"code": "server_error", "message": "sorry"}, 2),
    ],
)
def test_an_error_that_would_come_again_is_not_asked_for_again(
    error: Any, attempts: int, server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    server.say(Saying.json({"error": error}), Saying.json({"error": error}))
    with recorder.active():
        ask("chat", server, 1)()
    assert (recorder.step.attempts, recorder.outcome.answers) == (attempts, False)


@pytest.mark.parametrize(
    ("body", "billed"),
    [
        (json.dumps(BUSY), False),
        (json.dumps({**BUSY, "usage": {"prompt_tokens": 9}}), True),
        ('{"id": "c', True),
    ],
)
def test_an_error_that_counts_nothing_was_not_billed(
    body: str, billed: bool, server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    server.say(raw(body), GOOD["chat"])
    with recorder.active():
        ask("chat", server, 1)()
    assert [failure.billed for failure, _ in recorder.step.failures] == [billed]


def test_an_error_behind_a_preamble_costs_the_reader_nothing(
    server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    bad = [CASES[name][1] for name in CASES if name.startswith("chat stream: an error after")]
    server.say(*bad, GOOD["chat stream"])
    with recorder.active():
        assert "hello" in ask("chat stream", server, 1)()
    assert recorder.step.attempts == 2


@pytest.mark.parametrize("garbled", [False, True])
def test_what_fails_after_something_was_handed_on_is_the_outcome(
    garbled: bool, server: Server, recorder: MemoryRecorder
) -> None:
    events = [chunk("one"), "{oh" if garbled else BUSY, chunk(" two", finish="stop"), "[DONE]"]
    server.say(Saying.events(*events))
    seen = ask("chat stream", server, 2)
    with recorder.active():
        first = seen()
    assert recorder.step.attempts == 1
    assert not recorder.outcome.answers
    assert first[0] is (json.JSONDecodeError if garbled else openai.APIError)
    with recorder.again().active():
        assert seen() == first


# -- streams without their last event --------------------------------------------------------------


def ended(*events: Any) -> Saying:
    return Saying.events(*events, named=isinstance(events[0], dict) and "type" in events[0])


TWO = {"index": 1, "delta": {"content": "b"}, "finish_reason": None}
WHOLE = {
    "a chat that stopped": ("chat stream", ended(chunk("a"), chunk(finish="stop"))),
    "a chat that stopped, and its usage": (
        "chat stream",
        ended(chunk("a", finish="stop"),
              {**chunk(), "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    ),
    "a chat that calls a tool": ("chat stream", ended(chunk("a", finish="tool_calls"))),
    "a message that stopped": ("messages stream", ended(BEGUN, BLOCK, TEXT, STOPPED)),
}  # fmt: skip
CUT = {
    "a chat that did not say why": ("chat stream", ended(chunk("a"), chunk("b"))),
    "a chat with a second choice under way": (
        "chat stream", ended({**chunk(), "choices": [TWO]}, chunk("a", finish="stop"))),
    "a message that did not say why": ("messages stream", ended(BEGUN, BLOCK, TEXT)),
    "a response": ("responses stream", ended(CREATED, DELTA)),
    "nothing": ("chat stream", raw(": ping\n\n", "text/event-stream")),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_that_said_why_it_stopped_is_whole(
    name: str, server: Server, recorder: MemoryRecorder
) -> None:
    api, saying = WHOLE[name]
    server.say(saying)
    seen = ask(api, server, 0)
    with recorder.active():
        first = seen()
    assert isinstance(first, str), first
    assert recorder.outcome.answers
    with recorder.again().active():
        assert seen() == first


@pytest.mark.parametrize("name", [*WHOLE, *CUT])
def test_a_stream_that_may_have_been_cut_is_an_error(
    name: str, server: Server, recorder: MemoryRecorder
) -> None:
    """Whatever its bytes say, a connection that broke was no clean end."""
    api, saying = {**WHOLE, **CUT}[name]
    broken = Saying(saying.pieces, headers=saying.headers, broken=name in WHOLE)
    server.say(broken)
    with recorder.active():
        error, _ = ask(api, server, 0)()
    assert error.__name__ in ("APIConnectionError", "RemoteProtocolError"), "as the SDK tells it"
    assert not recorder.outcome.answers


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_stream_under_another_content_type_is_read_as_one(
    kind: str, server: Server, recorder: MemoryRecorder
) -> None:
    said = GOOD["chat stream"]
    server.say(Saying(said.pieces, headers=(("content-type", kind),)))
    with recorder.active():
        assert "hello" in ask("chat stream", server, 0)()
    assert recorder.outcome.answers
    assert recorder.outcome.body["choices"][0]["message"]["content"] == "hello"


# -- APIs that no SDK here speaks ------------------------------------------------------------------


def request_to(path: str) -> ModelRequest:
    place = locate(path)
    return ModelRequest(place.api, "POST", f"https://host{path}?alt=sse", {}, {}, False, "m")


GEMINI, OLLAMA, LEGACY = "/v1beta/models/g:generateContent", "/api/chat", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "body", "whole"),
    [
        (GEMINI, {"candidates": [{"finishReason": "SAFETY"}]}, True),
        (GEMINI, {"promptFeedback": {"blockReason": "SAFETY"}}, True),
        (GEMINI, [{"candidates": [{}]}, {"usageMetadata": {}}], True),
        (GEMINI, {"candidates": None}, False),
        (GEMINI, {"usageMetadata": {"totalTokenCount": 3}}, False),
        (GEMINI, {"error": {"code": 503, "status": "UNAVAILABLE"}}, False),
        (GEMINI, [{"error": {"code": 503, "status": "UNAVAILABLE"}}], False),
        (OLLAMA, {"message": {"content": "a"}, "done": True}, True),
        (OLLAMA, {"error": "model not loaded"}, False),
        (OLLAMA, {"done": True}, False),
        ("/api/generate", {"response": "", "done": True}, True),
        ("/api/embed", {"embeddings": []}, True),
        ("/api/embed", {"model": "m"}, False),
        (LEGACY, {"choices": [{"text": ""}]}, True),
        (LEGACY, {"choices": [{"index": 0}]}, False),
        ("/v1/fim/completions", {"choices": [{"message": {"content": "a"}}]}, True),
        (LEGACY, b"", False),
        ("/v1/images/generations", {"data": []}, True),  # nothing is demanded of these
        ("/v1/images/generations", BUSY, False),
        ("/v1/images/generations", b"", True),
        ("/v1/images/generations", b"<html>", False),
        ("/v1/videos", {"id": "v", "error": {"message": "bad frame"}}, True),  # told of an object
        ("/v1/jobs", {"error": {"code": None, "message": None}}, True),
        ("/v1/messages/count_tokens", {"input_tokens": 3}, True),
        ("/v1/responses/r1", {"object": "response", "status": "failed"}, True),  # a look at it
        ("/our/gateway", {"text": "hello"}, True),
        ("/our/gateway", {"error": "no"}, False),
    ],
)
def test_what_other_apis_answer(path: str, body: Any, whole: bool) -> None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "text/html" if text.startswith(b"<") else "application/octet-stream"
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    assert (body_flaw(request_to(path), kind, text, value) is None) is whole


def lines(*values: Any) -> Saying:
    text = "".join(
        f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values
    )
    return raw(text, "application/x-ndjson")


SAID = {"message": {"role": "assistant", "content": "hello"}, "done": False}
STREAMS: dict[str, tuple[str, Saying, bool]] = {
    "ollama": ("/api/chat", lines(SAID, {**SAID, "done": True}), True),
    "ollama, an error": ("/api/chat", lines({"error": "unexpected EOF"}), False),
    "ollama, a garbled line": ("/api/chat", lines('{"message'), False),
    "gemini": (
        "/v1beta/models/g:streamGenerateContent",
        Saying.events(
            {"candidates": [{"content": {}}]}, {"candidates": [{"finishReason": "STOP"}]}
        ),
        True,
    ),
    "gemini, blocked": (
        "/v1beta/models/g:streamGenerateContent",
        Saying.events({"promptFeedback": {"blockReason": "SAFETY"}}),
        True,
    ),
    "gemini, an error": (
        "/v1beta/models/g:streamGenerateContent",
        Saying.events({"error": {"code": 503, "message": "overloaded"}}),
        False,
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_other_apis_stream(
    name: str, server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    path, saying, whole = STREAMS[name]
    server.say(saying, saying)
    body = {"model": "m", "messages": MESSAGES, "contents": [], "stream": True}
    with http_client(retries=1) as client, recorder.active():
        client.post(f"{server.url}{path}", json=body)
    assert (recorder.step.attempts, recorder.outcome.answers) == (1 if whole else 2, whole)


def test_a_gemini_stream_that_did_not_say_why_it_stopped_may_have_been_cut(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.events({"candidates": [{"content": {"parts": [{"text": "hel"}]}}]}))
    url = f"{server.url}/v1beta/models/g:streamGenerateContent?alt=sse"
    with (
        http_client(retries=0) as client,
        recorder.active(),
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        client.post(url, json={"contents": []})
    assert not recorder.outcome.answers


def events_of(*lines: str) -> list[Any]:
    parser = SseParser()
    return [event for line in lines for event in parser.feed(f"{line}\n\n".encode())]


@pytest.mark.parametrize(
    ("line", "preamble"),
    [
        ('data: {"choices": []}', True),
        ('data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}', True),
        ('data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}', False),
        ('data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}', False),
        ('data: {"type": "response.created", "response": {"background": true}}', False),
        ('data: {"type": "response.in_progress", "response": {}}', True),
        ('data: {"type": "response.output_item.added", "item": {}}', False),
        ("event: ping\ndata: {\"type\": \"ping\"}", True),
        ("data: [DONE]", False),
    ],
)  # fmt: skip
def test_what_says_nothing_of_an_answer_is_held_back(line: str, preamble: bool) -> None:
    (event,) = events_of(line)
    assert is_preamble(event) is preamble
    assert event_flaw(event) is None


def test_a_client_that_retries_by_itself_finds_the_failure(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json(BUSY))
    with http_client() as client, recorder.active():
        client._transport.settings = make_settings(False, None)
        body = {"model": "m", "messages": MESSAGES}
        assert client.post(f"{server.url}/chat/completions", json=body).json() == BUSY
    assert (recorder.step.attempts, recorder.outcome.answers) == (1, False)


@pytest.mark.parametrize("kind", [{"a": 1}, ["ping"], None, 1])
def test_the_type_of_an_event_may_be_any_json(kind: Any) -> None:
    event = ServerEvent("", "", {"type": kind, "choices": []})
    assert is_preamble(event)
    assert not is_terminal(event)
    assert event_flaw(event) is None
