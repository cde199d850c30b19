"""The three kinds of model reply: telling them apart, and the form their answers take.

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

from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.messages import ToolRequest, reply_messages

Api = Literal["chat", "responses", "anthropic"]

# What each API says of a reply that ended at its length limit.
_AT_THE_LIMIT = ("length", "max_output_tokens", "max_tokens")


@dataclass(frozen=True)
class Reply:
    """A model's reply as a JSON body of its API."""

    api: Api
    body: dict[str, Json]

    @property
    def requests(self) -> list[ToolRequest]:
        """The tool calls it asks for, in order."""
        return [call for message in reply_messages(self.body) for call in message.calls]

    @property
    def cut_off(self) -> bool:
        """Whether it ended at its length limit, so that its last call may be half a call."""
        if self.api == "responses":
            return _dict(self.body.get("incomplete_details")).get("reason") in _AT_THE_LIMIT
        if self.api == "anthropic":
            return self.body.get("stop_reason") in _AT_THE_LIMIT
        choices = self.body.get("choices") or [None]
        return _dict(choices[0]).get("finish_reason") in _AT_THE_LIMIT


@dataclass(frozen=True)
class Told:
    """What the model is told of one call."""

    call_id: str
    content: str
    ok: bool


def read_reply(reply: Any) -> Reply:
    """The reply behind an SDK's object, or a dict of one. Raises ConfigError for anything else."""
    value = jsonable(reply)
    if not isinstance(value, dict):
        raise ConfigError(
            "call_tools() takes a chat completion or its message, a response, or an Anthropic "
            f"message, not {type(reply).__name__}"
        )
    if "choices" in value:
        return Reply("chat", value)
    if isinstance(value.get("output"), list):
        return Reply("responses", value)
    if isinstance(value.get("content"), list) and "tool_calls" not in value:
        return Reply("anthropic", value)
    return Reply("chat", {"choices": [{"message": value}]})


def answers(api: Api, told: Sequence[Told]) -> list[dict[str, Json]]:
    """The items that tell the model, to append to the conversation; none for no call."""
    if api == "chat":
        return [{"role": "tool", "tool_call_id": t.call_id, "content": t.content} for t in told]
    if api == "responses":
        kind = "function_call_output"
        return [{"type": kind, "call_id": t.call_id, "output": t.content} for t in told]
    # All of them in the next message, or the API refuses the conversation.
    return [{"role": "user", "content": [_tool_result(t) for t in told]}] if told else []


def _tool_result(told: Told) -> dict[str, Json]:
    failed: dict[str, Json] = {} if told.ok else {"is_error": True}
    return {
        "type": "tool_result",
        "tool_use_id": told.call_id,
        "content": told.content,
        **failed,
    }


def sendable(value: Any) -> Any:
    """``value`` for a request, which is UTF-8: lone surrogates travel as their escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {sendable(name): sendable(item) for name, item in value.items()}
    return [sendable(item) for item in value] if isinstance(value, list) else value


def jsonable(value: Any) -> Any:
    """SDK objects as JSON, those inside a list or dict too."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(exclude_none=True, warnings=False)
    if isinstance(value, dict):
        return {name: jsonable(item) for name, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, list) else value


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
