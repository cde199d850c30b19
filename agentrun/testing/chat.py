"""The dialect of OpenAI's chat completions: reading a conversation, and saying a reply.

Shapes follow the real API, streamed and plain, including its refusal of a conversation whose
tool calls are not all answered: a harness that resumes wrongly is caught here as it would be
there. A further API is a further module with the same three functions.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrun.testing.replies import AUTO, Call, Reply
from agentrun.testing.wire import Answer

__all__ = ["answer", "describe", "mint", "problem"]

ARGUMENT_CHUNKS = 3


def describe(body: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a conversation that rules and faults look at."""
    messages = body.get("messages") or [{}]
    last = messages[-1]
    texts = [_text(message.get("content")) for message in messages]
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
    """Why the real API would refuse this request with a 400, if it would."""
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


def answer(body: Mapping[str, Any], reply: Reply) -> Answer:
    """The reply as the API would send it; its effect is the bill."""
    facts = describe(body)
    head: dict[str, Any] = {
        "id": mint("chatcmpl-", 29),
        "created": int(time.time()),
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_double",
    }
    message = _message(reply)
    usage = _usage(body, message)
    reason = reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")
    bill = {
        "response_id": head["id"],
        "model": body["model"],
        "turn": facts["turn"],
        "stream": facts["stream"],
        "usage": usage,
    }
    streamed = facts["stream"]
    if reply.raw is not None:
        raw = reply.raw if isinstance(reply.raw, str) else json.dumps(reply.raw)
        chunks: tuple[bytes, ...] = (raw.encode(),)
    elif streamed:
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        events = _events(head, message, reason, reply.chunks, usage if with_usage else None)
        chunks = (*map(_sse, events), b"data: [DONE]\n\n")
    else:
        chunks = (json.dumps(_completion(head, message, reason, usage)).encode(),)
    kind = "text/event-stream; charset=utf-8" if streamed else "application/json"
    return Answer(
        chunks,
        {"content-type": kind},
        streamed=streamed,
        effect=bill,
        delay_s=reply.delay_s,
        pace_s=reply.pace_s,
    )


def mint(prefix: str, length: int) -> str:
    """A fresh id that looks like the provider's."""
    alphabet = string.ascii_letters + string.digits
    return prefix + "".join(secrets.choice(alphabet) for _ in range(length))


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
    # When usage was asked for, every chunk has the field and the last one has the figures.
    pending: dict[str, Any] = {} if usage is None else {"usage": None}
    for choice in choices:
        yield {**common, "choices": [choice], **pending}
    if usage is not None:
        yield {**common, "choices": [], "usage": usage}


def _deltas(message: dict[str, Any], chunks: int | None) -> Iterator[dict[str, Any]]:
    text = message["content"]
    yield {"role": "assistant", "content": None if text is None else "", "refusal": None}
    for piece in _pieces(text, chunks) if text else ():
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        yield {
            "tool_calls": [
                {"index": index, **call, "function": {"name": function["name"], "arguments": ""}}
            ]
        }
        for piece in _pieces(function["arguments"], chunks or ARGUMENT_CHUNKS):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _pieces(text: str, count: int | None) -> list[str]:
    """The text in ``count`` parts of about one length, or with None by words."""
    if count is None:
        return re.findall(r"\s*\S+|\s+$", text)
    size = max(1, math.ceil(len(text) / count))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


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
    given = call.arguments
    arguments = given if isinstance(given, str) else json.dumps(given)
    function = {"name": call.name, "arguments": arguments}
    call_id = mint("call_", 24) if call.id == AUTO else call.id
    known = {} if call_id is None else {"id": call_id}
    return {**known, "type": "function", "function": function}


def _usage(body: Mapping[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Figures that depend on the lengths of the texts alone, four characters a token."""
    prompt = sum(3 + _tokens(_spoken(one)) for one in body["messages"])
    prompt += _tokens(json.dumps(body["tools"])) if body.get("tools") else 0
    completion = _tokens(_spoken(message))
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


def _spoken(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls") or ()
    return _text(message.get("content")) + "".join(
        call["function"]["name"] + call["function"]["arguments"] for call in calls
    )


def _tokens(text: str) -> int:
    return math.ceil(len(text) / 4)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _tool_of(last: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The name of the tool whose result came last; of equal ids the latest call is meant."""
    if last.get("role") != "tool":
        return None
    for message in reversed(messages):
        for call in message.get("tool_calls") or ():
            if call.get("id") == last.get("tool_call_id"):
                return str(call["function"]["name"])
    return None
