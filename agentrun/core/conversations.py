"""Groups the model calls of a run into conversations.

Scopes alone do not tell which call continues which, because frameworks often make each call in
a task of its own. But each request repeats the messages of its conversation. So the rules are:

* A request continues the conversation with which it has the longest common beginning. A system
  prompt alone is no common beginning, because many conversations share one.
* If that conversation was in another scope, the request must repeat all of it. Else the request
  begins a new conversation, a fork of the other.
* A request without a common beginning continues the latest conversation of its own scope, whose
  first messages were then dropped or changed. If its scope has none, it begins a new one.
* A branch is a conversation of its own. It continues a conversation of another branch only if its
  request repeats all of that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentrun.core.messages import Message, common_length

__all__ = ["Conversation", "Conversations"]


_BRANCH = re.compile(r"(?:.*[/>])?b:[^/>]*")


@dataclass(eq=False, slots=True)
class Conversation:
    """One conversation of a run."""

    number: int  # in the order in which conversations began
    place: str  # the scope of the latest request
    requested: list[Message] = field(default_factory=list)  # the latest request
    messages: list[Message] = field(default_factory=list)  # the same and the reply to it


@dataclass(frozen=True, slots=True)
class ConversationRequest:
    """A request, its conversation, and the messages that the conversation had before it."""

    conversation: Conversation
    requested: list[Message]
    messages: list[Message]


class Conversations:
    """The conversations of a run, built from its model calls in order."""

    def __init__(self) -> None:
        self._all: list[Conversation] = []

    def add_request(self, place: str, messages: list[Message]) -> ConversationRequest:
        """Add the next request, made in the scope ``place``, to its conversation."""
        found = self._find_continued(place, messages)
        before = found or Conversation(0, place)
        if found is None or (found.place != place and not _continues(found, messages)):
            found = Conversation(len(self._all), place)
            self._all.append(found)
        request = ConversationRequest(found, before.requested, before.messages)
        found.place, found.requested, found.messages = place, messages, [*messages]
        return request

    def _find_continued(self, place: str, messages: list[Message]) -> Conversation | None:
        """The conversation with the longest common beginning, or else the latest of this scope."""
        best, longest = None, 0
        own = None
        for one in reversed(self._all):
            own = own or (one if one.place == place else None)
            length = common_length(messages, one.messages)
            if _branch(one.place) != _branch(place) and not len(one.messages) == length < len(
                messages
            ):
                continue
            better = length > longest or (length == longest and one is own)
            if better and _has_dialogue(messages[:length]):
                best, longest = one, length
        return best or own


def _branch(place: str) -> str:
    """The path of the innermost branch that a scope is in. "" if it is in none."""
    found = _BRANCH.match(place)
    return found[0] if found else ""


def _continues(conversation: Conversation, messages: Sequence[Message]) -> bool:
    """Whether a request repeats all messages of the conversation."""
    return common_length(messages, conversation.messages) == len(conversation.messages)


def _has_dialogue(messages: Sequence[Message]) -> bool:
    """Whether there is more than a system prompt, which many conversations have in common."""
    return any(message.role not in ("system", "developer") for message in messages)
