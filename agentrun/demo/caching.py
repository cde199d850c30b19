"""Two agents whose prompts a provider caches, for `agentrun crashtest --cache`.

``plain`` needs no marks: OpenAI caches prompts by itself. ``marked`` sets Anthropic's cache marks,
on the system prompt and the last message, so that each turn reads the cache of the turn before it.
"""

from __future__ import annotations

from typing import Any

import agentrun
from agentrun.testing import Call, Reply

__all__ = ["SCRIPT", "marked", "plain"]

QUESTION = "Which of our mugs sells best, and how many are left?"
SYSTEM = (
    "You answer questions about the stock of a small pottery. Look up each article before you say "
    "anything about it, count what is left, and answer in one sentence. Never guess a number. "
) * 8
# The replies of the model's double, by turn.
SCRIPT = [
    Reply("I look it up.", [Call("best_seller", {"kind": "mug"})]),
    Reply("And count it.", [Call("count_left", {"article": "M-17"})]),
    Reply("Once more, to be sure.", [Call("count_left", {"article": "M-17"})]),
    Reply("M-17 sells best; 41 are left."),
]
MARK = {"cache_control": {"type": "ephemeral"}}


@agentrun.tool(effect="read")
def best_seller(kind: str) -> str:
    """The article of this kind that sells best."""
    return f"the best-selling {kind} is M-17"


@agentrun.tool(effect="idempotent")
def count_left(article: str) -> dict[str, Any]:
    """How many of an article are left."""
    return {"article": article, "left": 41, "shelves": ["front", "back"]}


TOOLS: Any = [best_seller, count_left]


@agentrun.agent(name="plain")
def plain(question: str = QUESTION) -> str:
    """Answer a question, by chat completions."""
    from openai import OpenAI

    client = agentrun.wrap(OpenAI())
    messages: list[Any] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question},
    ]
    tools: Any = agentrun.schemas(*TOOLS)
    while True:
        reply = client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=tools)
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content or ""
        messages += agentrun.call_tools(message, TOOLS)


@agentrun.agent(name="marked")
def marked(question: str = QUESTION) -> str:
    """Answer a question, by Anthropic's messages, with cache marks."""
    from anthropic import Anthropic

    client = agentrun.wrap(Anthropic())
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    tools: Any = agentrun.schemas(*TOOLS, api="anthropic")
    while True:
        reply = client.messages.create(
            model="claude-sonnet-5",
            max_tokens=500,
            system=[{"type": "text", "text": SYSTEM, **MARK}],  # type: ignore[typeddict-item]
            tools=tools,
            messages=_mark_last_part(messages),
        )
        messages.append({"role": "assistant", "content": [b.model_dump() for b in reply.content]})
        results = agentrun.call_tools(reply, TOOLS)
        if not results:
            return "".join(block.text for block in reply.content if block.type == "text")
        messages += results


def _mark_last_part(messages: list[Any]) -> list[Any]:
    """Copy the conversation, with a mark on its last part."""
    *before, last = messages
    *parts, end = last["content"]
    return [*before, {**last, "content": [*parts, {**end, **MARK}]}]
