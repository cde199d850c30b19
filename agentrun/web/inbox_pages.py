"""The inbox: a card for each request that waits for a person, and what was decided already."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from starlette.requests import Request

from agentrun.api.handle import transcript_of
from agentrun.api.operations import who_goes_on
from agentrun.core.errors import RunNotFound
from agentrun.core.transcript import NewMessage, Transcript
from agentrun.core.waiting import Waiting
from agentrun.store.inbox import UnreadDecision, list_unread_decisions, list_waiting
from agentrun.store.opening import default
from agentrun.view.safe import clip
from agentrun.web.decisions import editable_json
from agentrun.web.page import Page
from agentrun.web.site import PageRoute, Site

__all__ = ["PAGES", "Card", "InboxData", "cards_of"]

_CARDS = 20  # for which the run's transcript is read
_SHOWN = 2_000  # characters of a user's message


@dataclass(frozen=True)
class Card:
    """A request, and what helps to decide it. ``cost`` is what its run has cost so far."""

    waiting: Waiting
    user: str | None  # the last message of the user
    cost: Decimal | None
    unpriced: int

    @property
    def arguments(self) -> str:
        """The arguments as a person edits them."""
        return editable_json(self.waiting.args)


@dataclass(frozen=True)
class InboxData:
    """What waits, the oldest first; ``decided`` are decisions that no worker has read yet."""

    cards: tuple[Card, ...]
    more: int  # requests beyond these
    decided: tuple[UnreadDecision, ...]


async def _inbox(site: Site, request: Request) -> Page:
    key = request.query_params.get("decided")
    shown = {"decided_key": key, "next_step": await site.read(who_goes_on, key) if key else None}
    return Page("inbox.html", await site.read(_read_inbox), shown)


def _read_inbox() -> InboxData:
    waiting = list_waiting(default())
    cards = cards_of(waiting[:_CARDS])
    return InboxData(cards, len(waiting) - len(cards), tuple(list_unread_decisions(default())))


def cards_of(waiting: list[Waiting] | tuple[Waiting, ...]) -> tuple[Card, ...]:
    """The cards of these requests."""
    read: dict[str, Transcript | None] = {}
    for one in waiting:
        if one.key not in read:
            try:
                read[one.key] = transcript_of(default(), one.key)
            except RunNotFound:  # it was pruned meanwhile
                read[one.key] = None
    return tuple(_card(one, read[one.key]) for one in waiting)


def _card(waiting: Waiting, transcript: Transcript | None) -> Card:
    if transcript is None:
        return Card(waiting, None, None, 0)
    said = [
        entry.message.text
        for entry in transcript.entries
        if isinstance(entry, NewMessage) and entry.message.role == "user" and entry.message.text
    ]
    sums = transcript.totals
    return Card(waiting, clip(said[-1], _SHOWN) if said else None, sums.cost, sums.unpriced)


PAGES = (PageRoute("inbox", _inbox, "What waits for a person", InboxData, name="Inbox"),)
