"""The dialect of OpenAI's Responses API: items in, items out.

Like the real API, it refuses a conversation in which a function call has no output, or an output
has no call. It refuses every `conversation`, and a `previous_response_id` of another provider, as
unknown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
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

__all__ = ["LIMITS", "answer", "describe", "problem", "unfinished_response", "write_response"]

LIMITS = ("max_output_tokens",)

# The fields that a response repeats from its request, each with the default of an absent field.
ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
}


def describe(body: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a conversation against which rules and faults are matched.

    A reply of several items is one turn; the output of a function counts as role ``tool``.
    """
    items = _items(body)
    last = items[-1] if items else {}
    texts = [text_of(body.get("instructions")), *map(_text, items)]
    made = [_is_from_model(item) for item in items]
    begun = [here and not before for before, here in pairwise([False, *made])]
    return {
        "model": body.get("model"),
        "turn": sum(begun),
        "stream": bool(body.get("stream")),
        "last_role": "tool" if last.get("type") == "function_call_output" else last.get("role"),
        "tool": _tool_of(last, items),
        "content": texts[-1],
        "conversation": "\n".join(filter(None, texts)),
    }


def problem(body: Mapping[str, Any]) -> str | None:
    """The message with which the real API would refuse this request (400); None if it accepts."""
    if not body.get("model"):
        return "Missing required parameter: 'model'."
    for state in ("previous_response_id", "conversation"):
        if body.get(state):
            return (
                f"{state} {body[state]!r} not found: the double keeps no conversations of others."
            )
    if body.get("background") and body.get("store") is False:
        return "Background mode requires 'store' to be true."
    items = _items(body)
    if not items:
        return "Missing required parameter: 'input'."
    waiting: list[str | None] = []
    for item in items:
        if item.get("type") == "function_call":
            waiting.append(item.get("call_id"))
        elif item.get("type") == "function_call_output":
            if item.get("call_id") not in waiting:
                return f"No tool call found for function call output with call_id {_id(item)}."
            waiting.remove(item.get("call_id"))
    if waiting:
        return f"No tool output found for function call {waiting[0]}."
    return None


def answer(body: Mapping[str, Any], reply: Reply) -> HttpAnswer:
    """Answer with the reply in the shape of this API; the effect is the bill."""
    whole, events = write_response(body, reply)
    return say(reply, describe(body), whole, map(event, events))


def write_response(
    body: Mapping[str, Any], reply: Reply
) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    """Write the reply as a whole response, and as the events of a stream."""
    output = list(_output(reply))
    whole: dict[str, Any] = {
        "id": mint("resp_", 48),
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": output,
        "usage": _usage(body, output, reply.output_tokens),
        **{name: body.get(name, default) for name, default in ECHOED.items()},
    }
    if reply.finish_reason in ("length", "content_filter"):
        cause = "max_output_tokens" if reply.finish_reason == "length" else "content_filter"
        whole |= {"status": "incomplete", "incomplete_details": {"reason": cause}}
    return whole, list(_with_sequence_numbers(_events(whole, reply.chunks)))


def unfinished_response(whole: Mapping[str, Any], status: str) -> dict[str, Any]:
    """The response before its output is written."""
    nothing: dict[str, Any] = {"incomplete_details": None, "output": [], "usage": None}
    return {**whole, **nothing, "status": status}


def _output(reply: Reply) -> Iterator[dict[str, Any]]:
    if reply.text is not None:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        yield {
            "type": "message",
            "id": mint("msg_", 48),
            "status": "completed",
            "role": "assistant",
            "content": [part],
        }
    yield from map(_call, reply.tool_calls)


def _call(call: Call) -> dict[str, Any]:
    identifier = call_id(call, "call_")
    return {
        "type": "function_call",
        "id": mint("fc_", 48),
        "status": "completed",
        "name": call.name,
        "arguments": call_arguments(call),
        **({} if identifier is None else {"call_id": identifier}),
    }


def _events(whole: dict[str, Any], chunks: int | None) -> Iterator[dict[str, Any]]:
    empty = unfinished_response(whole, "in_progress")
    yield {"type": "response.created", "response": empty}
    yield {"type": "response.in_progress", "response": empty}
    for index, item in enumerate(whole["output"]):
        speaks = item["type"] == "message"
        spelt = _text_events if speaks else _call_events
        hollow: dict[str, Any] = {"content": []} if speaks else {"arguments": ""}
        started = {**item, **hollow, "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": index, "item": started}
        for one in spelt(item, chunks):
            yield {**one, "item_id": item["id"], "output_index": index}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _text_events(item: dict[str, Any], chunks: int | None) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    begin, end = "response.content_part.added", "response.content_part.done"
    yield {"type": begin, "content_index": 0, "part": {**part, "text": ""}}
    common: dict[str, Any] = {"content_index": 0, "logprobs": []}
    for piece in pieces(part["text"], chunks) if part["text"] else ():
        yield {"type": "response.output_text.delta", **common, "delta": piece}
    yield {"type": "response.output_text.done", **common, "text": part["text"]}
    yield {"type": end, "content_index": 0, "part": part}


def _call_events(item: dict[str, Any], chunks: int | None) -> Iterator[dict[str, Any]]:
    kind, arguments = "response.function_call_arguments", item["arguments"]
    for piece in pieces(arguments, chunks or ARGUMENT_CHUNKS):
        yield {"type": f"{kind}.delta", "delta": piece}
    yield {"type": f"{kind}.done", "name": item["name"], "arguments": arguments}


def _with_sequence_numbers(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, one in zip(count(), events):
        yield {**one, "sequence_number": number}


def _usage(
    body: Mapping[str, Any], output: Sequence[dict[str, Any]], written: int | None
) -> dict[str, Any]:
    """The usage, computed from the lengths of the texts: four characters count as one token."""
    asked = sum(3 + tokens(_text(item)) for item in _items(body))
    asked += tokens(text_of(body.get("instructions")))
    asked += tokens(json.dumps(body["tools"])) if body.get("tools") else 0
    if written is None:
        written = sum(tokens(_text(item)) for item in output)
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked + written,
    }


def _items(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = body.get("input") or []
    return [{"role": "user", "content": content}] if isinstance(content, str) else list(content)


def _is_from_model(item: Mapping[str, Any]) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning")


def _text(item: Mapping[str, Any]) -> str:
    """The text of an item of any type."""
    called = item.get("name", "") + item.get("arguments", "")
    return called or text_of(item.get("content") or item.get("output"))


def _tool_of(last: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str | None:
    """The name of the function whose output is last. Of equal ids, the latest call counts."""
    if last.get("type") != "function_call_output":
        return None
    calls = [item for item in items if item.get("type") == "function_call"]
    named = (str(c["name"]) for c in reversed(calls) if c.get("call_id") == last.get("call_id"))
    return next(named, None)


def _id(item: Mapping[str, Any]) -> str:
    return str(item.get("call_id"))
