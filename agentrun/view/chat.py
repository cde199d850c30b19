"""A run's conversation as the chat completions API takes it: a list of messages.

Of several conversations in a run (branches, agents in threads) it is the one that began first;
of that, the last request, the reply to it, and the results of tools that the reply asked for.
Messages of a chat client are as they were sent. Those of other APIs are translated: their text,
their tool calls and the results survive, other parts (images, reasoning) do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from agentrun.core.events import Event, Json
from agentrun.core.identity import scope_of
from agentrun.core.messages import Message, reply_messages, request_messages
from agentrun.core.transcript import fold

__all__ = ["as_openai"]


def as_openai(journal: Iterable[Event]) -> list[dict[str, Json]]:
    """The messages of the run's conversation, ready to be sent again; `[]` if there are none."""
    events = list(journal)
    asked = [event for event in events if event.kind == "model" and _body(event.input)]
    if not asked:
        return []
    scope = scope_of(asked[0].ident or "")
    last = [event for event in asked if scope_of(event.ident or "") == scope][-1]
    answered = [
        event
        for event in events
        if event.event == "step_finished" and event.step == last.step and event.status != "error"
    ]
    messages = _requested(last.input)
    if answered:
        replies = _replied(_body(answered[-1].output))
        messages += [*replies, *_results(replies, last.ident or "", events)]
    return messages


def _requested(asked: Json) -> list[dict[str, Json]]:
    body = _body(asked)
    anthropic = str(asked.get("api")).endswith("messages")
    if isinstance(body.get("messages"), list) and not anthropic:
        return list(body["messages"])
    return _translated(request_messages(body))


def _replied(body: dict[str, Json]) -> list[dict[str, Json]]:
    """The reply as a client appends it: without what is null, as the API wants it back."""
    match body.get("choices"):
        case [{"message": dict(message)}, *_]:
            return [{name: value for name, value in message.items() if value is not None}]
    return _translated(reply_messages(body))


def _translated(messages: Iterable[Message]) -> list[dict[str, Json]]:
    """Chat's messages for another API's, whose text and calls may be items of their own."""
    found: list[dict[str, Json]] = []
    spoken = (message for message in messages if message.role != "reasoning")
    for role, group in groupby(spoken, key=lambda message: message.role):
        same = list(group)
        found += map(_chat, [_joined(same)] if role == "assistant" else same)
    return found


def _joined(messages: list[Message]) -> Message:
    text = "\n".join(message.text for message in messages if message.text)
    return Message("assistant", text, tuple(call for said in messages for call in said.calls))


def _results(
    replies: list[dict[str, Json]], ident: str, events: list[Event]
) -> list[dict[str, Json]]:
    """What the tools gave that the last reply asked for, where the loop had not sent it yet."""
    finished = {event.ident: event.step for event in events if event.event == "step_finished"}
    steps = {step.step: step for step in fold(events).steps}
    lists = [reply.get("tool_calls") for reply in replies]
    calls = [call for asked in lists if isinstance(asked, list) for call in asked]
    found = []
    for index, call in enumerate(calls):
        step = steps.get(finished.get(f"{ident}#{index}") or 0)
        if step is None or not isinstance(call, dict):
            continue
        told: Any = {"error": step.error.message} if step.error else step.output
        text = told if isinstance(told, str) else json.dumps(told)
        found.append({"role": "tool", "tool_call_id": call.get("id"), "content": text})
    return found


def _chat(message: Message) -> dict[str, Json]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    chat: dict[str, Json] = {"role": message.role, "content": message.text}
    if message.calls:
        chat["content"] = message.text or None
        chat["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
        ]
    return chat


def _body(value: Json) -> dict[str, Json]:
    body = value.get("body") if isinstance(value, dict) else None
    return body if isinstance(body, dict) else {}
