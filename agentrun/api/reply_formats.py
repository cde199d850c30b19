"""The three kinds of model reply, how they are told apart, and how tool calls are answered.

::

    api         reply                        tool calls                its answers
    chat        chat completion or message   message.tool_calls        tool messages
    responses   response                     function_call items       function_call_output items
    anthropic   message                      tool_use blocks           one user message
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentrun.core.events import Json
from agentrun.core.json_types import is_array, is_object
from agentrun.core.messages import ToolRequest, reply_messages
from agentrun.steps.refusals import refusal

Api = Literal["chat", "responses", "anthropic"]

# The reason that each API gives for a reply that ended at its length limit.
_AT_THE_LIMIT = ("length", "max_output_tokens", "max_tokens")


@dataclass(frozen=True)
class ParsedReply:
    """A model's reply as a JSON body of its API."""

    api: Api
    body: dict[str, Json]

    @property
    def requests(self) -> list[ToolRequest]:
        """The tool calls that the reply asks for, in order."""
        return [call for message in reply_messages(self.body) for call in message.calls]

    @property
    def cut_off(self) -> bool:
        """Whether the reply ended at its length limit: its last tool call may be incomplete."""
        if self.api == "responses":
            return _dict(self.body.get("incomplete_details")).get("reason") in _AT_THE_LIMIT
        if self.api == "anthropic":
            return self.body.get("stop_reason") in _AT_THE_LIMIT
        choices = self.body.get("choices") or [None]
        return _dict(choices[0]).get("finish_reason") in _AT_THE_LIMIT


@dataclass(frozen=True)
class ToolAnswer:
    """The answer to one tool call, for the model. If not ``ok``, the content is an error."""

    call_id: str
    content: str
    ok: bool


def read_reply(reply: Any) -> ParsedReply:
    """Parse a reply: an object of an SDK, or a dict. Raises ConfigError for anything else."""
    value = jsonable(reply)
    if not is_object(value):
        raise refusal(
            "call_tools() takes a chat completion or its message, a response, or an Anthropic "
            f"message, not {type(reply).__name__}"
        )
    if "choices" in value:
        return ParsedReply("chat", value)
    if is_array(value.get("output")):
        return ParsedReply("responses", value)
    if is_array(value.get("content")) and "tool_calls" not in value:
        return ParsedReply("anthropic", value)
    return ParsedReply("chat", {"choices": [{"message": value}]})


def answers(api: Api, results: Sequence[ToolAnswer]) -> list[dict[str, Json]]:
    """The items that answer the tool calls, to append to the conversation."""
    if api == "chat":
        return [{"role": "tool", "tool_call_id": t.call_id, "content": t.content} for t in results]
    if api == "responses":
        kind = "function_call_output"
        return [{"type": kind, "call_id": t.call_id, "output": t.content} for t in results]
    # Anthropic's API takes all results only in one message, directly after the reply.
    return [{"role": "user", "content": [_tool_result(t) for t in results]}] if results else []


def _tool_result(result: ToolAnswer) -> dict[str, Json]:
    failed: dict[str, Json] = {} if result.ok else {"is_error": True}
    return {
        "type": "tool_result",
        "tool_use_id": result.call_id,
        "content": result.content,
        **failed,
    }


def sendable(value: Any) -> Any:
    """``value`` with lone surrogates as escapes: a request is UTF-8, which cannot encode them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if is_object(value):
        return {sendable(name): sendable(item) for name, item in value.items()}
    return [sendable(item) for item in value] if is_array(value) else value


def jsonable(value: Any) -> Any:
    """Objects of the SDKs as JSON, also inside lists and dicts."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(exclude_none=True, warnings=False)
    if is_object(value):
        return {name: jsonable(item) for name, item in value.items()}
    return [jsonable(item) for item in value] if is_array(value) else value


def _dict(value: Json) -> dict[str, Json]:
    return value if is_object(value) else {}
