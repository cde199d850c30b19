"""The dialect of OpenAI's chat completions: reads a conversation, and writes a reply.

Shapes follow the real API, streamed and plain. Like the real API, it refuses a conversation in
which a tool call has no result, so a harness that resumes wrongly fails in tests too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from agentrun.testing.replies import Call, Reply
from agentrun.testing.speech import (
    ARGUMENT_CHUNKS,
    call_arguments,
    call_id,
    event,
    mint,
    pieces,
    say,
    text_of,
    tokens,
)
from agentrun.testing.wire import HttpAnswer

__all__ = ["LIMITS", "answer", "describe", "problem"]

LIMITS = ("max_completion_tokens", "max_tokens")


def describe(body: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a conversation against which rules and faults are matched."""
    messages = body.get("messages") or [{}]
    last = messages[-1]
    texts = [text_of(message.get("content")) for message in messages]
    return {
        "model": body.get("model"),
        "turn": sum(message.get("role") == "assistant" for message in messages),
        "stream": bool(body.get("stream")),
        "last_role": last.get("role"),
        "tool": _tool_of(last, messages),
        "content": texts[-1],
        "conversation": "\n".join(texts),
    }


def problem(body: Mapping[str, Any]) -> str | None:
    """The message with which the real API would refuse this request (400); None if it accepts."""
    messages = body.get("messages")
    if not body.get("model"):
        return "you must provide a model parameter"
    if not messages:
        return "Missing required parameter: 'messages'."
    waiting: set[str] = set()
    asked: set[str | None] = set()
    for at, message in enumerate(messages):
        if message.get("role") == "tool":
            if message.get("tool_call_id") not in asked:
                return (
                    f"Invalid parameter: messages[{at}] with role 'tool' must be a response "
                    "to a preceding message with 'tool_calls'."
                )
            waiting.discard(message["tool_call_id"])
            continue
        if waiting:
            break
        asked = {call.get("id") for call in message.get("tool_calls") or ()}
        waiting = {call_id for call_id in asked if call_id}
    if waiting:
        return (
            "An assistant message with 'tool_calls' must be followed by tool messages "
            "responding to each 'tool_call_id'. The following tool_call_ids did not have "
            f"response messages: {', '.join(sorted(waiting))}"
        )
    return None


def answer(body: Mapping[str, Any], reply: Reply) -> HttpAnswer:
    """The reply as the API would send it; its effect is the bill."""
    head: dict[str, Any] = {
        "id": mint("chatcmpl-", 29),
        "created": int(time.time()),
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_double",
    }
    message = _message(reply)
    usage = _usage(body, message, reply.output_tokens)
    reason = reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    events = _events(head, message, reason, reply.chunks, usage if with_usage else None)
    return say(
        reply,
        describe(body),
        _completion(head, message, reason, usage),
        chain(map(event, events), [b"data: [DONE]\n\n"]),
    )


def _completion(
    head: dict[str, Any], message: dict[str, Any], reason: str, usage: dict[str, Any]
) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {"object": "chat.completion", **head, "choices": [choice], "usage": usage}


def _events(
    head: dict[str, Any],
    message: dict[str, Any],
    reason: str,
    chunks: int | None,
    usage: dict[str, Any] | None,
) -> Iterator[dict[str, Any]]:
    deltas = [*_deltas(message, chunks)]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason})
    common: dict[str, Any] = {"object": "chat.completion.chunk", **head}
    # If the request asks for usage, every chunk has the field, and the last has the figures.
    pending: dict[str, Any] = {} if usage is None else {"usage": None}
    for choice in choices:
        yield {**common, "choices": [choice], **pending}
    if usage is not None:
        yield {**common, "choices": [], "usage": usage}


def _deltas(message: dict[str, Any], chunks: int | None) -> Iterator[dict[str, Any]]:
    text = message["content"]
    yield {"role": "assistant", "content": None if text is None else "", "refusal": None}
    for piece in pieces(text, chunks) if text else ():
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        yield {
            "tool_calls": [
                {"index": index, **call, "function": {"name": function["name"], "arguments": ""}}
            ]
        }
        for piece in pieces(function["arguments"], chunks or ARGUMENT_CHUNKS):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply.text,
        "refusal": None,
        "annotations": [],
    }
    if reply.tool_calls:
        message["tool_calls"] = [_call(call) for call in reply.tool_calls]
    return message


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call_arguments(call)}
    identifier = call_id(call, "call_")
    own_id = {} if identifier is None else {"id": identifier}
    return {**own_id, "type": "function", "function": function}


def _usage(body: Mapping[str, Any], message: dict[str, Any], written: int | None) -> dict[str, Any]:
    """The usage, computed from the lengths of the texts: four characters count as one token."""
    prompt = sum(3 + tokens(_text_with_calls(one)) for one in body["messages"])
    prompt += tokens(json.dumps(body["tools"])) if body.get("tools") else 0
    completion = tokens(_text_with_calls(message)) if written is None else written
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _text_with_calls(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls") or ()
    return text_of(message.get("content")) + "".join(
        call["function"]["name"] + call["function"]["arguments"] for call in calls
    )


def _tool_of(last: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The name of the tool whose result came last. Of equal ids, the latest call counts."""
    if last.get("role") != "tool":
        return None
    for message in reversed(messages):
        for call in message.get("tool_calls") or ():
            if call.get("id") == last.get("tool_call_id"):
                return str(call["function"]["name"])
    return None
