"""The conversation of a run as messages for the chat completions API.

The result has the last request, the reply to it, and the results of the tools that the reply asked
for. If the run has several conversations (branches, agents in threads), the first one is taken.
Messages of a chat client are returned as they were sent. Messages of other APIs are translated:
text, tool calls and results are kept, other parts (images, reasoning) are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from agentrun.core.apis import MESSAGES
from agentrun.core.conversations import ConversationRequest, Conversations
from agentrun.core.events import Event, Json
from agentrun.core.history import scope_of
from agentrun.core.messages import Message, reply_messages, request_messages
from agentrun.core.transcript import NewMessage, Transcript, fold

__all__ = ["as_openai", "conversation_of"]


def as_openai(journal: Iterable[Event]) -> list[dict[str, Json]]:
    """The messages of the run's conversation, ready to be sent again. `[]` if there are none."""
    events = list(journal)
    last = _last_of_the_first(events)
    if last is None:
        return []
    answered = [
        event
        for event in events
        if event.event == "step_finished" and event.step == last.step and event.status != "error"
    ]
    messages = _request_as_chat(last.input)
    if answered:
        replies = _reply_as_chat(_body(answered[-1].output))
        messages += [*replies, *_results(replies, last.ident or "", events)]
    return messages


def conversation_of(transcript: Transcript) -> list[dict[str, Json]]:
    """The messages of the transcript's first conversation, in the form of the chat API.

    Unlike `as_openai` it needs no requests, so that its time grows only with the messages.
    """
    scopes = {step.step: scope_of(step.ident) for step in transcript.steps if step.kind == "model"}
    first = next(iter(scopes.values()), "")
    entries = (entry for entry in transcript.entries if isinstance(entry, NewMessage))
    return _translate(entry.message for entry in entries if scopes.get(entry.step) == first)


def _last_of_the_first(events: Iterable[Event]) -> Event | None:
    """The last request of the conversation that began first."""
    conversations, requests = Conversations(), dict[int | None, ConversationRequest]()
    last = None
    for event in events:
        asked = event.input if event.packed is None else event.packed.outline()
        if event.kind == "model" and (body := _body(asked)):
            request = conversations.add_request(scope_of(event.ident or ""), body)
            requests[event.step] = request
            last = event if request.conversation.number == 0 else last
        elif event.kind == "model" and event.event == "step_finished" and event.step in requests:
            reply = reply_messages(_body(event.output))
            conversations.add_reply(requests[event.step], reply)
    return last


def _request_as_chat(asked: Json) -> list[dict[str, Json]]:
    body = _body(asked)
    anthropic = str(asked.get("api")).endswith(MESSAGES)
    if isinstance(body.get("messages"), list) and not anthropic:
        return list(body["messages"])
    return _translate(request_messages(body))


def _reply_as_chat(body: dict[str, Json]) -> list[dict[str, Json]]:
    """The reply as a client appends it: without null fields, which the API would refuse."""
    match body.get("choices"):
        case [{"message": dict(message)}, *_]:
            return [{name: value for name, value in message.items() if value is not None}]
    return _translate(reply_messages(body))


def _translate(messages: Iterable[Message]) -> list[dict[str, Json]]:
    """Translate messages of another API, in which text and calls may be separate items."""
    found: list[dict[str, Json]] = []
    spoken = (message for message in messages if message.role != "reasoning")
    for role, group in groupby(spoken, key=lambda message: message.role):
        same = list(group)
        found += map(_chat, [_join_messages(same)] if role == "assistant" else same)
    return found


def _join_messages(messages: list[Message]) -> Message:
    text = "\n".join(message.text for message in messages if message.text)
    return Message("assistant", text, tuple(call for message in messages for call in message.calls))


def _results(
    replies: list[dict[str, Json]], ident: str, events: list[Event]
) -> list[dict[str, Json]]:
    """The results of the tool calls in the last reply, which no request has sent yet."""
    finished = {event.ident: event.step for event in events if event.event == "step_finished"}
    steps = {step.step: step for step in fold(events).steps}
    lists = [reply.get("tool_calls") for reply in replies]
    calls = [call for asked in lists if isinstance(asked, list) for call in asked]
    found = []
    for index, call in enumerate(calls):
        step = steps.get(finished.get(f"{ident}#{index}") or 0)
        if step is None or not isinstance(call, dict):
            continue
        result: Any = {"error": step.error.message} if step.error else step.output
        text = result if isinstance(result, str) else json.dumps(result)
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
