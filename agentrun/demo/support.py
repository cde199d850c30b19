"""The support agent: an ordinary loop round an ordinary client, made durable by three edits.

It needs ``OPENAI_API_KEY`` (and ``OPENAI_BASE_URL`` for another provider), and the environment
variables of `agentrun.bundled.tools`, which name the shop, the carrier and the mail server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openai import OpenAI

import agentrun
from agentrun.bundled import resource

if TYPE_CHECKING:  # the same files, by a path that a type checker can follow
    from tools import TOOLS
else:
    from agentrun.bundled.tools import TOOLS

__all__ = ["client", "support"]

client = agentrun.wrap(OpenAI())


@agentrun.agent
def support(message: str, model: str = "gpt-5-mini") -> str:
    """Answer a customer's message: look up the order, refund, book a pick-up, write a mail."""
    prompt = resource("prompts", "support.md").read_text("utf-8").strip()
    messages: list[Any] = [
        {"role": "system", "content": prompt},
        {"role": "user", "content": message},
    ]
    while True:
        reply = _reply(model, messages)
        messages.append(reply)
        if not reply.get("tool_calls"):
            return str(reply.get("content", ""))
        messages += agentrun.call_tools(reply, TOOLS)


def _reply(model: str, messages: list[Any]) -> dict[str, Any]:
    """The model's next message, printed while it arrives."""
    tools: Any = agentrun.schemas(*TOOLS)
    with client.chat.completions.stream(
        model=model, messages=messages, tools=tools, stream_options={"include_usage": True}
    ) as stream:
        for event in stream:
            if event.type == "content.delta":
                print(event.delta, end="", flush=True)  # noqa: T201
        message = stream.get_final_completion().choices[0].message
    print(flush=True)  # noqa: T201
    # Leave out the fields that the SDK parsed: they are not part of the API.
    parsed: Any = {"tool_calls": {"__all__": {"function": {"parsed_arguments"}}}}
    return message.model_dump(include={"role", "content", "tool_calls"}, exclude=parsed)
