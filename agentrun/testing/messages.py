"""The dialect of Anthropic's messages: blocks in, blocks out, named events.

Like the real API, it requires `max_tokens`, and the result of every tool use in the next message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
from agentrun.testing.wire import HttpAnswer, json_answer

__all__ = ["LIMITS", "answer", "describe", "problem", "refusal", "write_message"]

LIMITS = ("max_tokens",)

# From the terms of chat completions, which `Reply.finish_reason` uses, to Anthropic's.
STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def describe(body: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a conversation against which rules and faults are matched.

    A user message that holds tool results counts as role ``tool``.
    """
    messages = body.get("messages") or [{}]
    last = messages[-1]
    results = _blocks(last, "tool_result")
    texts = [text_of(body.get("system")), *map(_text, messages)]
    return {
        "model": body.get("model"),
        "turn": sum(message.get("role") == "assistant" for message in messages),
        "stream": bool(body.get("stream")),
        "last_role": "tool" if results else last.get("role"),
        "tool": _tool_of(results, messages),
        "content": texts[-1],
        "conversation": "\n".join(filter(None, texts)),
    }


def problem(body: Mapping[str, Any]) -> str | None:
    """The message with which the real API would refuse this request (400); None if it accepts."""
    for name in ("model", "max_tokens", "messages"):
        if not body.get(name):
            return f"{name}: Field required"
    messages = body["messages"]
    waiting: set[str] = set()
    for at, message in enumerate(messages):
        if message.get("role") not in ("user", "assistant"):
            return f"messages: Unexpected role {message.get('role')!r}"
        answered = {block.get("tool_use_id") for block in _blocks(message, "tool_result")}
        if missing := waiting - answered:
            return _unanswered(at - 1, missing)
        if unknown := answered - waiting:
            return (
                f"messages.{at}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{', '.join(map(str, unknown))}. Each `tool_result` block must have a "
                "corresponding `tool_use` block in the previous message."
            )
        waiting = {block.get("id", "") for block in _blocks(message, "tool_use")}
    return _unanswered(len(messages) - 1, waiting) if waiting else None


def answer(body: Mapping[str, Any], reply: Reply) -> HttpAnswer:
    """Answer with the reply in the shape of this API; the effect is the bill."""
    whole, events = write_message(body, reply)
    return say(reply, describe(body), whole, map(event, events))


def write_message(
    body: Mapping[str, Any], reply: Reply
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Write the reply as a whole message, and as the events of a stream."""
    content = list(_content(reply))
    reason = reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")
    whole = {
        "id": mint("msg_", 24),
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [block for block, _ in content],
        "stop_reason": STOP_REASONS.get(reason, reason),
        "stop_sequence": None,
        "usage": _usage(body, content, reply.output_tokens),
    }
    return whole, _events(whole, content, reply.chunks)


def refusal(
    code: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> HttpAnswer:
    """An error in the shape of this API."""
    error: dict[str, Any] = {"type": ERRORS.get(code, "api_error"), "message": message}
    if details:
        error["details"] = details
    return json_answer({"type": "error", "error": error}, code, headers)


def _content(reply: Reply) -> Iterator[tuple[dict[str, Any], str]]:
    """The blocks of a reply, each with the text by which a stream sends it."""
    if reply.text is not None:
        yield {"type": "text", "text": reply.text}, reply.text
    for call in reply.tool_calls:
        yield _tool_use(call), call_arguments(call)


def _tool_use(call: Call) -> dict[str, Any]:
    """A tool use. Its input is an object; malformed arguments stay a string."""
    identifier = call_id(call, "toolu_")
    try:
        arguments = json.loads(call_arguments(call))
    except ValueError:
        arguments = call_arguments(call)
    own_id = {} if identifier is None else {"id": identifier}
    return {"type": "tool_use", **own_id, "name": call.name, "input": arguments}


def _events(
    whole: dict[str, Any], content: Sequence[tuple[dict[str, Any], str]], chunks: int | None
) -> Iterator[dict[str, Any]]:
    begun = {**whole, "content": [], "stop_reason": None}
    begun["usage"] = {**whole["usage"], "output_tokens": 1}
    yield {"type": "message_start", "message": begun}
    yield {"type": "ping"}
    for index, (block, text) in enumerate(content):
        yield from _block_events(index, block, text, chunks)
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    used = {"output_tokens": whole["usage"]["output_tokens"]}
    yield {"type": "message_delta", "delta": stop, "usage": used}
    yield {"type": "message_stop"}


def _block_events(
    index: int, block: dict[str, Any], text: str, chunks: int | None
) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        hollow: dict[str, Any] = {"text": ""}
        kind, field, parts = "text_delta", "text", pieces(text, chunks)
    else:
        hollow = {"input": {}}
        kind, field = "input_json_delta", "partial_json"
        parts = ["", *pieces(text, chunks or ARGUMENT_CHUNKS)]
    start = {**block, **hollow}
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for part in parts:
        delta = {"type": kind, field: part}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _usage(
    body: Mapping[str, Any], content: Sequence[tuple[dict[str, Any], str]], written: int | None
) -> dict[str, Any]:
    """The usage, computed from the lengths of the texts: four characters count as one token."""
    asked = sum(3 + tokens(_text(message)) for message in body["messages"])
    asked += tokens(text_of(body.get("system")))
    asked += tokens(json.dumps(body["tools"])) if body.get("tools") else 0
    if written is None:
        written = sum(tokens(block.get("name", "") + text) for block, text in content)
    return {
        "input_tokens": asked,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": written,
        "service_tier": "standard",
    }


def _blocks(message: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return [block for block in blocks if block.get("type") == kind]


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, with its tool uses and their results."""
    used = [
        block["name"] + json.dumps(block.get("input")) for block in _blocks(message, "tool_use")
    ]
    results = [text_of(block.get("content")) for block in _blocks(message, "tool_result")]
    return "".join([text_of(message.get("content")), *used, *results])


def _tool_of(
    results: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]
) -> str | None:
    """The name of the tool whose result is last. Of equal ids, the latest use counts."""
    if not results:
        return None
    uses = [block for message in messages for block in _blocks(message, "tool_use")]
    wanted = results[-1].get("tool_use_id")
    return next((str(use["name"]) for use in reversed(uses) if use.get("id") == wanted), None)


def _unanswered(at: int, missing: set[str]) -> str:
    return (
        f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately "
        f"after: {', '.join(sorted(missing))}. Each `tool_use` block must have a corresponding "
        "`tool_result` block in the next message."
    )
