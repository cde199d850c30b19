"""Gemini, Ollama, Bedrock, Cohere and the like: their streams are live, folded, and read."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import openai
import pytest
from model_doubles import MemoryRecorder
from sayings import Saying, Server

from agentrun.core.messages import reply_messages, request_messages
from agentrun.models import http_client, wrap
from agentrun.models.event_streams import ServerEvent, is_terminal, parser_of
from agentrun.models.stream_fold import StreamFold


def lines(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() + b"\n" for value in values]


def frame(event: str, value: Any, kind: str = "event") -> bytes:
    """One frame of Amazon's event stream."""
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(said)) + said.encode()
        for name, said in ((f":{kind}-type", event), (":message-type", kind))
    )
    payload = json.dumps(value).encode()
    length = 16 + len(headers) + len(payload)
    return struct.pack("!II", length, len(headers)) + b"\0" * 4 + headers + payload + b"\0" * 4


OLLAMA = [
    {"model": "llama3.2", "message": {"role": "assistant", "content": "hel"}, "done": False},
    {"model": "llama3.2", "message": {"role": "assistant", "content": "lo"}, "done": False},
    {
        "model": "llama3.2",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 26,
        "eval_count": 2,
    },
]
CONVERSE = [
    frame("messageStart", {"role": "assistant"}),
    frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "hel"}}),
    frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "lo"}}),
    frame("contentBlockStop", {"contentBlockIndex": 0}),
    frame(
        "contentBlockStart",
        {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t1", "name": "look"}}},
    ),
    frame("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"at":'}}}),
    frame("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": "1}"}}}),
    frame("messageStop", {"stopReason": "tool_use"}),
    frame("metadata", {"usage": {"inputTokens": 10, "outputTokens": 5}}),
]


def claude(value: Any) -> bytes:
    return frame("chunk", {"bytes": base64.b64encode(json.dumps(value).encode()).decode()})


BEDROCK = [
    claude(
        {"type": "message_start", "message": {"role": "assistant", "usage": {"input_tokens": 9}}}
    ),
    claude(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    ),
    claude(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}
    ),
    claude(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 1},
        }
    ),
    claude({"type": "message_stop"}),
]


def folded(kind: str, wire: bytes, cut: int) -> tuple[Any, bool]:
    parser, fold, over = parser_of(kind), StreamFold(), False
    pieces = [wire[at : at + cut] for at in range(0, len(wire), cut)]
    for event in [event for piece in pieces for event in parser.feed(piece)] + parser.end():
        fold.add(event)
        over = over or is_terminal(event)
    return fold.result(), over


@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_json_lines_fold_to_the_plain_reply_however_they_are_cut(cut: int) -> None:
    body, over = folded("application/x-ndjson", b"".join(lines(*OLLAMA)), cut)
    assert over
    assert body["message"] == {"role": "assistant", "content": "hello"}
    assert (body["prompt_eval_count"], body["done_reason"]) == (26, "stop")
    assert [m.text for m in reply_messages(body)] == ["hello"]


@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_amazons_frames_fold_to_the_plain_reply_however_they_are_cut(cut: int) -> None:
    kind = "application/vnd.amazon.eventstream"
    body, _ = folded(kind, b"".join(CONVERSE), cut)
    assert body["output"]["message"]["content"] == [
        {"text": "hello"},
        {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"at": 1}}},
    ]
    assert (body["stopReason"], body["usage"]["inputTokens"]) == ("tool_use", 10)
    (said,) = reply_messages(body)
    assert (said.text, said.calls[0].id, said.calls[0].name) == ("hello", "t1", "look")
    body, over = folded(kind, b"".join(BEDROCK), cut)
    assert over
    assert body["content"] == [{"type": "text", "text": "hi"}]
    assert body["usage"] == {"input_tokens": 9, "output_tokens": 1}


def test_an_exception_in_a_frame_is_an_error() -> None:
    body, over = folded(
        "application/vnd.amazon.eventstream",
        frame("throttlingException", {"message": "slow down"}, "exception"),
        9,
    )
    assert over
    assert body["error"]["message"] == "slow down"


@pytest.mark.parametrize("broken", [b"\0" * 40, b"\xff" * 40, CONVERSE[0][:-6] + b"\xff" * 9])
def test_broken_frames_raise_nothing(broken: bytes) -> None:
    parser = parser_of("application/vnd.amazon.eventstream")
    parser.feed(broken)
    parser.end()


GEMINI = [
    {"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "hel"}]}}]},
    {"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "lo"}]}}]},
    {
        "candidates": [
            {
                "index": 0,
                "content": {
                    "role": "model",
                    "parts": [{"functionCall": {"name": "look", "args": {"at": 1}}}],
                },
                "finishReason": "STOP",
            }
        ],
        "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 100},
        "modelVersion": "gemini-2.5-flash",
    },
]


def test_gemini_by_any_client(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.events(*GEMINI))
    url = f"{server.url}/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse&key=hush"
    contents = [{"role": "user", "parts": [{"text": "hi"}]}]

    def work() -> bytes:
        with http_client() as client, client.stream("POST", url, json={"contents": contents}) as r:
            return b"".join(r.iter_bytes())

    with recorder.active():
        first = work()
    with recorder.again().active():
        assert work() == first
    assert len(server.requests) == 1
    asked, reply = recorder.step.request, recorder.outcome
    assert (asked.api, asked.model, asked.stream) == ("generateContent", "gemini-2.5-flash", True)
    assert "hush" not in asked.url
    (said,) = reply_messages(reply.body)
    assert (said.role, said.text, said.calls[0].name) == ("assistant", "hello", "look")
    assert json.loads(said.calls[0].arguments) == {"at": 1}
    assert reply.usage is not None
    assert reply.usage.cost == Decimal("0.00055")
    assert request_messages(asked.body)[0].text == "hi"


def test_the_answer_to_a_call_of_gemini_or_converse_is_a_tool_message() -> None:
    part = {"functionResponse": {"id": "c1", "name": "look", "response": {"seen": 2}}}
    (told,) = request_messages({"contents": [{"role": "user", "parts": [part]}]})
    assert (told.role, told.call_id, json.loads(told.text)) == ("tool", "c1", {"seen": 2})
    block = {"toolResult": {"toolUseId": "t1", "content": [{"text": "seen"}]}}
    (told,) = request_messages({"messages": [{"role": "user", "content": [block]}]})
    assert (told.role, told.call_id, told.text) == ("tool", "t1", "seen")


@pytest.mark.parametrize("path", ["chat", "generate"])
def test_ollamas_stream_is_live_line_by_line(path: str, recorder: MemoryRecorder) -> None:
    told = lines(*OLLAMA)
    if path == "generate":
        told = lines(
            {"response": "hel", "done": False},
            {"response": "lo", "done": False},
            {"response": "", "done": True, "prompt_eval_count": 26, "eval_count": 2},
        )
    read: list[bytes] = []

    class Lines(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for number, line in enumerate(told):
                # `prime` reads one ahead, so that a first failure costs the reader nothing.
                assert len(read) >= number - 1, "a line is handed on before the next is asked for"
                yield line

    def answer(request: httpx2.Request) -> httpx2.Response:
        kind = {"content-type": "application/x-ndjson"}
        return httpx2.Response(200, headers=kind, stream=Lines())

    ask = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    with (
        recorder.active(),
        http_client(transport=httpx2.MockTransport(answer)) as client,
        client.stream("POST", f"http://127.0.0.1:11434/api/{path}", json=ask) as reply,
    ):
        for line in reply.iter_raw():
            read.append(line)
    assert read == told
    usage = recorder.outcome.usage
    assert recorder.outcome.ending == "complete"
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cost) == (26, 2, None)
    assert [m.text for m in reply_messages(recorder.outcome.body)] == ["hello"]


def test_a_line_that_says_done_is_missing_so_the_call_is_made_again(
    server: Server, recorder: MemoryRecorder, no_wait: None
) -> None:
    kind = (("content-type", "application/x-ndjson"),)
    cut = Saying(tuple(lines(*OLLAMA[:1])), headers=kind, broken=True)
    server.say(cut, Saying(tuple(lines(*OLLAMA)), headers=kind))
    ask = {"model": "llama3.2", "messages": []}
    with http_client() as client, recorder.active(), pytest.raises(httpx2.RemoteProtocolError):
        client.post(f"{server.url}/api/chat", json=ask)
    assert recorder.outcome.ending == "cut"


def test_pictures_as_events_end_with_the_bytes(server: Server, recorder: MemoryRecorder) -> None:
    partial = {
        "type": "image_generation.partial_image",
        "b64_json": "aGk=",
        "partial_image_index": 0,
    }
    done = {
        "type": "image_generation.completed",
        "b64_json": "aGVsbG8=",
        "usage": {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210},
    }
    server.say(Saying.events(partial, done, named=True))
    with wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="t")) as client:

        def work() -> Any:
            made = client.images.generate(
                prompt="a cat", model="gpt-image-1", stream=True, partial_images=1
            )
            return [event.model_dump(warnings=False) for event in made]

        with recorder.active():
            first = work()
        with recorder.again().active():
            assert work() == first
    assert recorder.outcome.ending == "complete"
    assert recorder.outcome.usage is not None
    assert recorder.outcome.usage.output_tokens == 4160
    assert recorder.outcome.usage.cost is not None


def test_legacy_completions_stream(server: Server, recorder: MemoryRecorder) -> None:
    pieces = [
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": "gpt-3.5-turbo-instruct",
            "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}],
        }
        for text, reason in (("hel", None), ("lo", "stop"))
    ]
    server.say(Saying.events(*pieces, "[DONE]"))
    with wrap(openai.OpenAI(base_url=f"{server.url}/v1", api_key="t")) as client, recorder.active():
        made = client.completions.create(model="m", prompt="hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in made) == "hello"
    assert recorder.outcome.ending == "complete"
    assert [m.text for m in reply_messages(recorder.outcome.body)] == ["hello"]


def test_coheres_stream_folds_to_text_and_usage() -> None:
    events = [
        {"type": "message-start", "id": "m1", "delta": {"message": {"role": "assistant"}}},
        {
            "type": "content-start",
            "index": 0,
            "delta": {"message": {"content": {"type": "text", "text": ""}}},
        },
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "hel"}}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "lo"}}}},
        {
            "type": "message-end",
            "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 3}}},
        },
    ]
    fold = StreamFold()
    for event in events:
        fold.add(ServerEvent("", "", event))
    body: Any = fold.result()
    assert [m.text for m in reply_messages(body)] == ["hello"]
    assert body["finish_reason"] == "COMPLETE"
