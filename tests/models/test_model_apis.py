"""Responses, Anthropic and Azure: recorded and handed out again like chat completions."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
from model_doubles import MemoryRecorder
from sayings import Saying, Server, completion

from agentrun.models import wrap

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-5-mini",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hello", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 2},
    },
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-double",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3},
}


def twice(work: Any, recorder: MemoryRecorder, server: Server) -> Any:
    with recorder.active():
        first = work()
    with recorder.again().active():
        assert work() == first
    assert len(server.requests) == 1
    return first


def test_a_response_and_its_usage(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json(RESPONSE))
    with wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client:
        made = client.responses
        twice(lambda: made.create(model="gpt-5-mini", input="hi").model_dump(), recorder, server)
    assert recorder.step.request.api == "responses"
    usage = recorder.outcome.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (10, 5)
    assert (usage.cached_tokens, usage.reasoning_tokens) == (4, 2)
    assert usage.cost is not None


def test_a_streamed_response_folds_to_the_plain_one(
    server: Server, recorder: MemoryRecorder
) -> None:
    begun = {**RESPONSE, "status": "in_progress", "output": []}
    delta = {"type": "response.output_text.delta", "delta": "hello", "content_index": 0}
    server.say(
        Saying.events(
            {"type": "response.created", "sequence_number": 0, "response": begun},
            {**delta, "item_id": "msg_1", "output_index": 0, "sequence_number": 1, "logprobs": []},
            {"type": "response.completed", "sequence_number": 2, "response": RESPONSE},
            named=True,
        )
    )
    with wrap(openai.OpenAI(base_url=server.url, api_key="test")) as client:

        def work() -> Any:
            events = client.responses.create(model="gpt-5-mini", input="hi", stream=True)
            return [event.model_dump() for event in events]

        assert len(twice(work, recorder, server)) == 3
    assert recorder.outcome.ending == "complete"
    assert recorder.outcome.body == RESPONSE


def test_an_anthropic_message_and_its_usage(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json(MESSAGE, **{"request-id": "req_1"}))
    ask: Any = {"model": "claude-double", "max_tokens": 9}
    messages: Any = [{"role": "user", "content": "hi"}]
    with wrap(anthropic.Anthropic(base_url=server.url, api_key="test")) as client:

        def work() -> Any:
            message = client.messages.create(**ask, messages=messages)
            return message.model_dump(), message._request_id

        assert twice(work, recorder, server)[1] == "req_1"
    usage = recorder.outcome.usage
    assert recorder.step.request.api == "messages"
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (13, 5, 3)


def test_a_streamed_anthropic_message_folds_to_the_plain_one(
    server: Server, recorder: MemoryRecorder
) -> None:
    start = {**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 10}}
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    server.say(
        Saying.events(
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": tool},
            *(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "input_json_delta", "partial_json": part},
                }
                for part in ('{"at"', ': "a"}')
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use", "stop_sequence": None},
                "usage": {"output_tokens": 5},
            },
            {"type": "message_stop"},
            named=True,
        )
    )
    ask: Any = {"model": "claude-double", "max_tokens": 9, "stream": True}
    messages: Any = [{"role": "user", "content": "hi"}]
    with wrap(anthropic.Anthropic(base_url=server.url, api_key="test")) as client:
        twice(
            lambda: [e.model_dump() for e in client.messages.create(**ask, messages=messages)],
            recorder,
            server,
        )
    body = recorder.outcome.body
    assert recorder.outcome.ending == "complete"
    assert body["content"] == [{**tool, "input": {"at": "a"}}]
    assert body["stop_reason"] == "tool_use"
    assert body["usage"] == {"input_tokens": 10, "output_tokens": 5}


def test_azure_is_chat_at_another_address(server: Server, recorder: MemoryRecorder) -> None:
    server.say(Saying.json(completion()))
    azure = openai.AzureOpenAI(azure_endpoint=server.url, api_key="hush", api_version="2024-10-21")
    with wrap(azure) as client:
        messages: Any = [{"role": "user", "content": "hi"}]
        twice(
            lambda: client.chat.completions.create(model="mine", messages=messages).model_dump(),
            recorder,
            server,
        )
    request = recorder.step.request
    assert request.api == "chat.completions"
    assert request.url.endswith("/openai/deployments/mine/chat/completions?api-version=2024-10-21")
    assert "hush" not in repr(recorder.steps)
    assert recorder.outcome.model == "gpt-5-mini"
