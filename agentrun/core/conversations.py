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

A conversation costs what is new in each request. Messages are nodes of a tree, `_Place`: two lists
that begin alike pass the same nodes. A place knows the conversations that pass it, so the one with
the longest common beginning is found by going back from the end of a request. The messages of
a beginning that a `sharing.Chain` names are read once, and found by that name again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from agentrun.core.events import Json
from agentrun.core.messages import (
    Message,
    identity_of,
    item_messages,
    omitted_messages,
    request_parts,
    without,
)
from agentrun.core.sharing import Chain

__all__ = ["Conversation", "ConversationRequest", "Conversations"]


_BRANCH = re.compile(r"(?:.*[/>])?b:[^/>]*")


@dataclass(eq=False, slots=True)
class _Place:
    """The end of a list of messages. Lists of equal messages end at the same place."""

    before: _Place | None
    length: int
    dialogue: bool  # there is more than a system prompt, which many conversations have in common
    # The conversations whose messages pass or end here. A dict, because it keeps their order.
    passing: dict[Conversation, None] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Path:
    """A list of messages, as the last one and the list before it. ``place`` is its end."""

    before: _Path | None
    message: Message | None
    place: _Place

    @property
    def length(self) -> int:
        """The number of messages."""
        return self.place.length

    def after(self, length: int) -> list[Message]:
        """The messages after the first ``length``."""
        found = []
        path: _Path | None = self
        while path is not None and path.message is not None and path.length > length:
            found.append(path.message)
            path = path.before
        found.reverse()
        return found


@dataclass(eq=False, slots=True)
class Conversation:
    """One conversation of a run."""

    number: int  # in the order in which conversations began
    scope: str  # of the latest request
    latest: ConversationRequest | None = None


@dataclass(eq=False, slots=True)
class ConversationRequest:
    """A request, its conversation, and what it says that the conversation did not say before it."""

    conversation: Conversation
    new: list[Message]  # messages that the conversation did not have, in order
    omitted: list[Message]  # messages of its last request that are left out from here on
    path: _Path  # the messages of the request, and of the reply once there is one
    length: int  # the number of messages of the request


class Conversations:
    """The conversations of a run, built from its model calls in order."""

    def __init__(self) -> None:
        self._all: list[Conversation] = []
        self._empty = _Path(None, None, _Place(None, 0, dialogue=False))
        self._places: dict[tuple[_Place, object], _Place] = {}  # by the place before and a message
        # The beginnings that a `Chain` names, by the place where its list begins.
        self._beginnings: dict[tuple[_Place, str], _Path] = {}
        self.messages_read = 0

    def add_request(self, scope: str, body: Json) -> ConversationRequest:
        """Add the next request, made in this scope, to its conversation.

        Lists in ``body`` may be a `sharing.Chain`.
        """
        path = self._request_path(body)
        found, length = self._find_continued(scope, path)
        before = None if found is None else found.latest
        if before is None:
            new, omitted = path.after(0), []
        else:
            new = without(path.after(length), before.path.after(length))
            asked = min(length, before.length)
            last = before.path.after(asked)[: before.length - asked]
            omitted = omitted_messages(path.after(asked), last)
        if found is None or (found.scope != scope and not _continues(found, length)):
            found, before = Conversation(len(self._all), scope), None
            self._all.append(found)
        request = ConversationRequest(found, new, omitted, path, path.length)
        found.scope, found.latest = scope, request
        _move(found, before.path.place if before else None, path.place)
        return request

    def add_reply(self, request: ConversationRequest, messages: Iterable[Message]) -> None:
        """Add the reply to a request. It counts if the conversation has no later request."""
        before = request.path.place
        for message in messages:
            request.path = self._extend(request.path, message)
        if request.conversation.latest is request:
            _move(request.conversation, before, request.path.place)

    def _find_continued(self, scope: str, path: _Path) -> tuple[Conversation | None, int]:
        """The conversation with the longest common beginning, or else the latest of this scope.

        And the length of their common beginning.
        """
        own = next((one for one in reversed(self._all) if one.scope == scope), None)
        place: _Place | None = path.place
        while place is not None and place.dialogue:
            able = [one for one in place.passing if _may_continue(one, scope, path, place.length)]
            if able:
                best = own if own in able else max(able, key=lambda one: one.number)
                return best, place.length
            place = place.before
        place = path.place
        while own is not None and place is not None and own not in place.passing:
            place = place.before
        return own, place.length if place else 0

    # -- reading messages ----------------------------------------------------------------------

    def _request_path(self, body: Json) -> _Path:
        first, lists = request_parts(body)
        path = self._extend_all(self._empty, first)
        for items in lists:
            if isinstance(items, Chain):
                path = self._extend_all(self._beginning(path, items), item_messages(items.new()))
            else:
                path = self._extend_all(path, item_messages(items))
        return path

    def _beginning(self, start: _Path, chain: Chain) -> _Path:
        """The messages of a beginning, after those of ``start``. Only what is not known is read."""
        name, unread = chain.before, []
        while name and (start.place, name) not in self._beginnings:
            shorter, element = chain.last_of(name)
            unread.append((name, element))
            name = shorter
        path = self._beginnings[start.place, name] if name else start
        for name, element in reversed(unread):
            path = self._extend_all(path, item_messages([element]))
            self._beginnings[start.place, name] = path
        return path

    def _extend_all(self, path: _Path, messages: Iterable[Message]) -> _Path:
        for message in messages:
            path = self._extend(path, message)
        return path

    def _extend(self, path: _Path, message: Message) -> _Path:
        self.messages_read += 1
        before = path.place
        place = self._places.get((before, message))
        if place is None:
            same = (before, identity_of(message))
            place = self._places.get(same)
            if place is None:
                dialogue = before.dialogue or message.role not in ("system", "developer")
                place = _Place(before, before.length + 1, dialogue)
            self._places[before, message] = self._places[same] = place
        return _Path(path, message, place)


def _may_continue(one: Conversation, scope: str, path: _Path, length: int) -> bool:
    """Whether a request may continue ``one``, with which it has ``length`` messages in common."""
    if _branch(one.scope) == _branch(scope):
        return True
    return _continues(one, length) and length < path.length


def _continues(conversation: Conversation, length: int) -> bool:
    """Whether a request repeats all messages of the conversation, if it repeats ``length``."""
    return conversation.latest is not None and conversation.latest.path.length == length


def _move(conversation: Conversation, old: _Place | None, new: _Place) -> None:
    """Note which places a conversation passes, now that it ends at ``new`` and not at ``old``."""
    place: _Place | None = new
    while place is not None and conversation not in place.passing:
        place.passing[conversation] = None
        place = place.before
    common = place.length if place else 0
    while old is not None and old.length > common:
        del old.passing[conversation]
        old = old.before


def _branch(scope: str) -> str:
    """The path of the innermost branch that a scope is in. "" if it is in none."""
    found = _BRANCH.match(scope)
    return found[0] if found else ""
