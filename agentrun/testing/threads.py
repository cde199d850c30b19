"""Anthropic's message threads: the provider holds a conversation, and a request sends what is new.

A request with ``thread: {"type": "create"}`` has the whole conversation, which is then kept under
the id of the reply. One with ``{"type": "continue", "previous_message_id": …}`` has the messages
that follow it. As at the real API, a message can be continued once, and a request that continues
does not repeat the system prompt and the tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentrun.testing import messages
from agentrun.testing.replies import Reply
from agentrun.testing.speech import event, say
from agentrun.testing.wire import HttpAnswer

__all__ = ["MessageThreads"]

_FIELDS = ("model", "system", "tools", "messages")


class MessageThreads:
    """The conversations that the double holds, by the message that ended them."""

    def __init__(self) -> None:
        self._conversations: dict[str, dict[str, Any]] = {}
        self._earlier: set[str] = set()  # messages after which a thread went on

    def refusal(self, body: Mapping[str, Any]) -> HttpAnswer | None:
        """The error with which the real API refuses to go on with a conversation, if it does."""
        before = _previous(body)
        if before is None:
            return None
        if before not in self._conversations:
            details = {"error_code": "thread_not_found"}
            return messages.refusal(404, f"No thread has the message {before!r}.", details=details)
        if before in self._earlier:
            details = {"error_code": "thread_already_continued"}
            text = f"The message {before!r} was continued already."
            return messages.refusal(400, text, details=details)
        return None

    def expand(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request with the whole conversation."""
        kept = self._conversations.get(_previous(body) or "", {})
        new = body.get("messages") or []
        return {**kept, **body, "messages": [*kept.get("messages", ()), *new]}

    def answer(self, body: dict[str, Any], reply: Reply) -> HttpAnswer:
        """Answer an expanded request, and keep the conversation if it is to be held."""
        whole, events = messages.write_message(body, reply)
        if body.get("thread"):
            kept = {name: body[name] for name in _FIELDS if name in body}
            said = {"role": "assistant", "content": whole["content"]}
            self._conversations[whole["id"]] = {**kept, "messages": [*body["messages"], said]}
            self._earlier.add(_previous(body) or "")
        return say(reply, messages.describe(body), whole, map(event, events))


def _previous(body: Mapping[str, Any]) -> str | None:
    """The message after which a request goes on; None if it does not go on with a thread."""
    thread = body.get("thread")
    goes_on = isinstance(thread, dict) and thread.get("type") == "continue"
    return str(thread.get("previous_message_id")) if goes_on and thread else None
