"""Every paid call of a provider's SDK is recorded and handed out again; ordinary HTTP passes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server

from agentrun.core.errors import NoRun
from agentrun.models import http_client, wrap
from agentrun.models.endpoints import is_recorded, locate

SOUND = b"ID3\x04\x00\xff\xfb\x90binary \x00\x80 sound"
PICTURE = b"\x89PNG\r\n\x1a\n\r\n--not a boundary\r\n"
MESSAGES: Any = [{"role": "user", "content": "hi"}]
PROMPT: Any = {"id": "pmpt_1"}

# What each of the APIs takes for an answer.
ANSWER: dict[str, Any] = {
    "id": "made_1",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "choices": [{"index": 0, "text": "a", "message": {"role": "assistant", "content": "a"}}],
    "output": [],
    "content": [],
    "candidates": [{}],
    "message": {"role": "assistant", "content": "a"},
    "response": "a",
}


def sound() -> io.BytesIO:
    return io.BytesIO(SOUND)


# What is called, the API it is recorded as, and the model.
OPENAI: list[tuple[Callable[[Any], Any], str, str | None]] = [
    (lambda c: c.responses.create(prompt=PROMPT), "responses", None),
    (lambda c: c.responses.create(previous_response_id="resp_1"), "responses", None),
    (
        lambda c: c.responses.compact(model="gpt-5", previous_response_id="r"),
        "responses.compact",
        "gpt-5",
    ),
    (lambda c: c.responses.cancel("resp_1"), "responses.cancel", None),
    (lambda c: c.completions.create(model="m", prompt="a"), "completions", "m"),
    (lambda c: c.embeddings.create(model="m", input="a"), "embeddings", "m"),
    (lambda c: c.moderations.create(input="a"), "moderations", None),
    (lambda c: c.images.generate(prompt="a cat"), "images.generations", None),
    (
        lambda c: c.images.edit(image=io.BytesIO(PICTURE), prompt="a", model="gpt-image-1"),
        "images.edits",
        "gpt-image-1",
    ),
    (
        lambda c: c.images.edit(image=[("a.png", PICTURE), ("b.png", SOUND)], prompt="two"),
        "images.edits",
        None,
    ),
    (lambda c: c.images.create_variation(image=sound()), "images.variations", None),
    (
        lambda c: c.audio.speech.create(model="tts-1", voice="ash", input="x"),
        "audio.speech",
        "tts-1",
    ),
    (
        lambda c: c.audio.transcriptions.create(model="whisper-1", file=("a.mp3", SOUND)),
        "audio.transcriptions",
        "whisper-1",
    ),
    (
        lambda c: c.audio.translations.create(model="whisper-1", file=("a.mp3", SOUND)),
        "audio.translations",
        "whisper-1",
    ),
    (lambda c: c.videos.create(prompt="a"), "videos", None),
    (lambda c: c.files.create(file=("a.jsonl", b"{}"), purpose="batch"), "files", None),
    (
        lambda c: c.batches.create(
            input_file_id="f", endpoint="/v1/responses", completion_window="24h"
        ),
        "batches",
        None,
    ),
    (
        lambda c: c.fine_tuning.jobs.create(model="m", training_file="f"),
        "fine_tuning.jobs",
        "m",
    ),
    (lambda c: c.vector_stores.create(name="a"), "vector_stores", None),
    (lambda c: c.vector_stores.files.create("vs_1", file_id="f"), "vector_stores.*.files", None),
    (lambda c: c.beta.threads.create(), "threads", None),
    (
        lambda c: c.beta.threads.messages.create("thread_1", role="user", content="a"),
        "threads.messages",
        None,
    ),
    (lambda c: c.beta.threads.runs.create("thread_1", assistant_id="a"), "threads.*.runs", None),
    (lambda c: c.conversations.create(), "conversations", None),
    (lambda c: c.realtime.client_secrets.create(), "realtime.client_secrets", None),
    (lambda c: c.post("/brand/new", cast_to=object, body={"a": 1}), "brand.new", None),
    (lambda c: c.put("/brand/new", cast_to=object, body={"a": 1}), "brand.new", None),
]
# What is looked at may be gone on a resume, and what is deleted is.
STORED: list[tuple[Callable[[Any], Any], str, str | None]] = [
    (lambda c: c.files.retrieve("file-1"), "files.get", None),
    (lambda c: c.files.content("file-1"), "files.*.content.get", None),
    (lambda c: c.files.list(after="file-1"), "files.get", None),
    (lambda c: c.files.delete("file-1"), "files.delete", None),
    (lambda c: c.batches.retrieve("batch_1"), "batches.get", None),
    (lambda c: c.videos.retrieve("video_1"), "videos.get", None),
    (lambda c: c.vector_stores.delete("vs_1"), "vector_stores.delete", None),
    (lambda c: c.responses.delete("resp_1"), "responses.delete", None),
    (lambda c: c.responses.input_items.list("resp_1"), "responses.*.input_items.get", None),
    (lambda c: c.chat.completions.list(), "chat.completions.get", None),
    (lambda c: c.beta.threads.runs.retrieve("r_1", thread_id="t"), "threads.t.runs.get", None),
]
ANTHROPIC: list[tuple[Callable[[Any], Any], str, str | None]] = [
    (lambda c: c.messages.count_tokens(model="m", messages=MESSAGES), "messages.count_tokens", "m"),
    (lambda c: c.messages.batches.create(requests=[]), "messages.batches", None),
    (
        lambda c: c.messages.create(model="m", max_tokens=5, messages=MESSAGES),
        "messages",
        "m",
    ),
    (
        lambda c: c.post("/v1/complete", cast_to=object, body={"model": "m", "prompt": "a"}),
        "complete",
        "m",
    ),
]


def told(value: Any) -> Any:
    """What the code sees of a reply."""
    if hasattr(value, "model_dump"):
        return value.model_dump(warnings=False)
    return value.content if hasattr(value, "content") else value


@pytest.mark.parametrize(("work", "api", "model"), OPENAI + STORED)
def test_what_an_openai_client_asks_is_recorded(
    work: Any, api: str, model: str | None, server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json({**ANSWER, "object": "thing"}))
    with wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client:
        with recorder.active():
            first = told(work(client))
        with recorder.again().active():
            assert told(work(client)) == first
    assert len(server.requests) == 1
    assert server.requests[0][1]["idempotency-key"] == recorder.step.key
    assert (recorder.step.request.api, recorder.step.request.model) == (api, model)


@pytest.mark.parametrize(("work", "api", "model"), ANTHROPIC)
def test_what_an_anthropic_client_asks_is_recorded(
    work: Any, api: str, model: str | None, server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json({"id": "made_1", "type": "thing", "content": []}))
    with wrap(anthropic.Anthropic(base_url=server.url, api_key="test")) as client:
        with recorder.active():
            first = told(work(client))
        with recorder.again().active():
            assert told(work(client)) == first
    assert len(server.requests) == 1
    assert (recorder.step.request.api, recorder.step.request.model) == (api, model)


@pytest.mark.parametrize("work", [row[0] for row in OPENAI])
def test_strict_refuses_it_outside_a_run(work: Any, server: Server) -> None:
    with (
        wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test"), strict=True) as client,
        pytest.raises(NoRun, match="outside a run"),
    ):
        work(client)
    assert server.requests == []


def test_async_uploads_are_recorded_too(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json({"text": "hello"}))

    async def work(now: MemoryRecorder) -> Any:
        client = wrap(openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="test"))
        async with client:
            with now.active():
                made = client.audio.transcriptions
                return (await made.create(model="whisper-1", file=sound())).text

    assert asyncio.run(work(recorder)) == "hello"
    assert asyncio.run(work(recorder.again())) == "hello"
    assert len(server.requests) == 1
    assert SOUND in server.requests[0][2]


def test_an_upload_is_a_claim_check_whatever_its_boundary(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json({}), Saying.json({}), Saying.json({}))
    with (
        wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client,
        recorder.active(),
    ):
        for name, content in (("a.mp3", SOUND), ("b.mp3", SOUND), ("a.mp3", SOUND + b"!")):
            made = client.audio.transcriptions
            made.create(model="whisper-1", file=(name, content), language="de")
    one, renamed, changed = (step.request for step in recorder.steps)
    parts = {part["name"]: part for part in one.body["parts"]}
    assert parts["language"]["value"] == "de"
    assert parts["file"]["filename"] == "a.mp3"
    assert parts["file"]["size"] == len(SOUND)
    assert one.attached == (SOUND,)
    assert one.canonical == renamed.canonical != changed.canonical
    kinds = [headers["content-type"] for _, headers, _ in server.requests]
    assert len(set(kinds)) == 3, "each has a boundary of its own"


def test_a_stream_that_can_be_read_once_is_sent_again_after_a_failure(
    server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    server.say(Saying.json({"error": "busy"}, 503), Saying.json({"text": "at last"}))

    class Once(io.RawIOBase):
        """Bytes of no known length, which cannot be read twice."""

        def __init__(self) -> None:
            self.rest = io.BytesIO(SOUND)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self.rest.read(size)

    with (
        wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client,
        recorder.active(),
    ):
        made = client.audio.transcriptions
        text = made.create(model="whisper-1", file=("a.mp3", Once())).text  # type: ignore[arg-type]
    assert text == "at last"
    assert [SOUND in body for _, _, body in server.requests] == [True, True]


@pytest.mark.parametrize("how", ["plain", "raw", "streaming", "file"])
def test_sound_comes_back_byte_for_byte(
    how: str, server: Server, recorder: MemoryRecorder, tmp_path: Any
) -> None:
    headers = (("content-type", "audio/mpeg"), ("x-request-id", "r1"))
    server.say(Saying((SOUND[:7], SOUND[7:]), headers=headers))
    ask: Any = {"model": "tts-1", "voice": "ash", "input": "hello"}

    def work(client: openai.OpenAI) -> Any:
        speech = client.audio.speech
        if how == "raw":
            raw = speech.with_raw_response.create(**ask)
            return raw.status_code, raw.request_id, raw.content
        if how == "streaming":
            with speech.with_streaming_response.create(**ask) as stream:
                return b"".join(stream.iter_bytes())
        if how == "file":
            speech.create(**ask).stream_to_file(tmp_path / "said.mp3")
            return (tmp_path / "said.mp3").read_bytes()
        return speech.create(**ask).content

    with wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client:
        with recorder.active():
            first = work(client)
        with recorder.again().active():
            assert work(client) == first
    assert SOUND in (first, first[-1])
    assert len(server.requests) == 1
    assert recorder.outcome.raw == SOUND
    assert recorder.outcome.usage is None, "not priced, and not free"


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLOUDS: list[tuple[str, Any, str]] = [
    ("bedrock", {"max_tokens": 5}, "anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("vertex", {"max_tokens": 5}, "claude-sonnet-4-5@20250929"),
]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1000, "output_tokens": 0},
}


def cloud(name: str, url: str) -> Any:
    if name == "bedrock":
        return anthropic.AnthropicBedrock(
            aws_access_key="AKIAIOSFODNN7EXAMPLE",
            aws_secret_key="hush",
            aws_session_token="hush-token",
            aws_region="us-east-1",
            base_url=url,
        )
    return anthropic.AnthropicVertex(
        region="us-east5", project_id="p", access_token="hush", base_url=f"{url}/v1"
    )


@pytest.mark.parametrize(("name", "more", "model"), CLOUDS)
def test_claude_in_the_cloud_of_another_is_recorded_without_its_signature(
    name: str, more: Any, model: str, server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json(MESSAGE), Saying.json(MESSAGE))
    for attempt in range(2):
        client = wrap(cloud(name, server.url))
        with (recorder if attempt == 0 else recorder.again()).active():
            made = client.messages.create(model=model, messages=MESSAGES, **more)
            assert made.content[0].text == "hello"
    assert len(server.requests) == 1, "another signature, another date, the same call"
    assert recorder.step.request.api == "messages"
    assert recorder.step.request.model == model
    assert "hush" not in repr(recorder.step.request) + repr(recorder.outcome)
    assert recorder.outcome.usage is not None
    assert recorder.outcome.usage.cost is not None
    assert recorder.step.request.signed is (name == "bedrock")


def test_a_presigned_query_is_not_stored(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json({}))
    query = "X-Amz-Signature=hush&X-Amz-Credential=hush&X-Amz-Date=hush&x=1&key=hush"
    with http_client() as client, recorder.active():
        client.post(f"{server.url}/model/m/converse?{query}", json={"messages": []})
    assert "hush" not in repr(recorder.step.request)
    assert "x=1" in recorder.step.request.url


FOREIGN: list[tuple[str, Any, str]] = [
    ("v1beta/models/gemini-2.5-flash:generateContent", {"contents": []}, "generateContent"),
    ("model/amazon.nova-pro-v1:0/converse", {"messages": []}, "converse"),
    ("model/amazon.nova-pro-v1:0/invoke", {"inputText": "a"}, "invoke"),
    ("api/generate", {"model": "llama3.2", "prompt": "a", "stream": False}, "ollama.generate"),
    ("api/chat", {"model": "llama3.2", "messages": [], "stream": False}, "ollama.chat"),
    ("v1/fim/completions", {"model": "codestral", "prompt": "a"}, "completions"),
    ("v1/agents/completions", {"agent_id": "a", "messages": []}, "chat.completions"),
    ("v1/ocr", {"model": "mistral-ocr", "document": {}}, "ocr"),
    ("v2/chat", {"model": "command-r", "messages": []}, "chat"),
    ("v1/chat", {"message": "hi"}, "chat"),
    ("v2/rerank", {"model": "rerank", "query": "a", "documents": []}, "rerank"),
    ("v2/embed", {"model": "embed", "texts": ["a"]}, "embed"),
    ("openai/deployments/d/images/generations", {"prompt": "a"}, "images.generations"),
    ("some/gateway", {"model": "m", "messages": []}, "chat.completions"),
]


@pytest.mark.parametrize(("path", "body", "api"), FOREIGN)
def test_other_clients_are_recorded_where_the_shape_is_known(
    path: str, body: Any, api: str, server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json(ANSWER))
    with http_client() as client, recorder.active():
        client.post(f"{server.url}/{path}", json=body)
    assert recorder.step.request.api == api


ORDINARY: list[tuple[str, str, Any]] = [
    ("POST", "orders", {"model": "Golf", "input_date": "now"}),
    ("POST", "v1/videos", {"title": "holiday"}),
    ("POST", "search", {"model": "Golf", "query": "red"}),
    ("POST", "chat", {"message": "hi"}),
    ("POST", "messages", {"to": "ada", "text": "hi"}),
    ("PUT", "v1/chat/completions", {"model": "m", "messages": []}),
    ("GET", "v1/responses/resp_1", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ORDINARY)
def test_ordinary_http_passes(method: str, path: str, body: Any, recorder: MemoryRecorder) -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={})

    with http_client(transport=httpx2.MockTransport(answer)) as client, recorder.active():
        client.request(method, f"http://127.0.0.1/{path}", json=body)
    assert len(seen) == 1
    assert recorder.steps == []


def test_an_sdk_is_known_by_what_it_says_whoever_made_its_http_client(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json({"id": "x"}))
    given: Any = http_client()
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="t", http_client=given) as client,
        recorder.active(),
    ):
        client.fine_tuning.jobs.create(model="m", training_file="f")
    assert recorder.step.request.api == "fine_tuning.jobs"


def test_administration_and_the_list_of_models_pass(recorder: MemoryRecorder) -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.path)
        return httpx2.Response(200, json={"data": [], "id": "x", "deleted": True})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with wrap(openai.OpenAI(api_key="t", http_client=http)) as client, recorder.active():
        client.models.list()
        client.models.retrieve("m")
        client.post("/organization/projects", cast_to=object, body={"name": "a"})
    assert len(seen) == 3
    assert recorder.steps == []


def test_two_paths_with_equal_bodies_are_two_calls(
    server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying.json({"id": "a"}), Saying.json({"id": "b"}))
    with (
        wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client,
        recorder.active(),
    ):
        for thread in ("thread_1", "thread_2"):
            client.beta.threads.runs.create(thread, assistant_id="a")
    one, other = (step.request.canonical for step in recorder.steps)
    assert one != other


def test_what_is_not_understood_is_recorded_byte_for_byte(
    server: Server, recorder: MemoryRecorder
) -> None:
    odd = (("content-type", "application/x-odd"), ("x-more", "told"))
    server.say(Saying((b"\x00\xffodd",), 201, odd))
    with wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client:
        ask: Any = {"content": b"raw \xff bytes", "headers": {"content-type": "text/odd"}}
        request = client._client.build_request("POST", f"{server.url}/v1/odd", **ask)
        with recorder.active():
            first = client._client.send(request)
        with recorder.again().active():
            again = client._client.send(
                client._client.build_request("POST", f"{server.url}/v1/odd", **ask)
            )
    assert (again.status_code, again.content, again.headers["x-more"]) == (
        201,
        b"\x00\xffodd",
        "told",
    )
    assert first.content == again.content
    assert recorder.step.request.attached == (b"raw \xff bytes",)
    assert recorder.step.request.body["size"] == len(b"raw \xff bytes")
    assert json.dumps(recorder.step.request.body)


def test_the_table_is_read_by_path_end() -> None:
    assert (
        locate("/v1/projects/p/locations/l/publishers/google/models/gemini:generateContent").model
        == "gemini"
    )
    assert locate("/model/us.anthropic.claude-v1%3A0/invoke").model == "us.anthropic.claude-v1:0"
    assert locate("/api/providers/x/v1/chat/completions").path == "chat/completions"
    assert locate("/v1/responses/resp_1").api == "responses.retrieve"
    assert is_recorded("GET", "/v1/responses/resp_1", True, None)
    assert is_recorded("GET", "/v1/videos/video_1", True, None)
    assert not is_recorded("GET", "/v1/videos/video_1", False, None)


@pytest.mark.parametrize("content", [b"<svg/>", b'{"error": "42"}', b'{"a": 1}\n{"b": 2}\n'])
def test_a_file_that_is_looked_at_may_hold_anything(
    content: bytes, server: Server, recorder: MemoryRecorder
) -> None:
    server.say(Saying((content,), headers=(("content-type", "application/x-jsonl"),)))
    with wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client:
        with recorder.active():
            assert client.files.content("file-1").content == content
        with recorder.again().active():
            assert client.files.content("file-1").content == content
    assert len(server.requests) == 1


def test_two_pages_of_a_list_are_two_looks(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json({"data": []}), Saying.json({"data": []}))
    with (
        wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="test")) as client,
        recorder.active(),
    ):
        client.files.list(after="file-1")
        client.files.list(after="file-2")
    one, other = (step.request.canonical for step in recorder.steps)
    assert one != other


def test_a_strict_client_looks_at_files_outside_a_run(server: Server) -> None:
    server.say(Saying.json({"data": []}), Saying.json({"id": "file-1", "deleted": True}))
    with wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="t"), strict=True) as client:
        client.files.list()
        client.files.delete("file-1")
    assert len(server.requests) == 2
