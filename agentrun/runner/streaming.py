"""Reading along while models write: in any process, from any place on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from agentrun.core.events import Event, Json
from agentrun.core.messages import reply_messages
from agentrun.store.database import Database
from agentrun.store.partials import partials_of
from agentrun.store.watching import watch

__all__ = ["Piece", "astreamed", "streamed"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that a model wrote: of which step and attempt, and where in its reply it begins.

    A piece of a later attempt at offset 0 supersedes what earlier attempts at the step wrote.
    """

    step: int
    attempt: int
    offset: int
    text: str


def streamed(database: Database, key: str, after: Piece | None = None) -> Iterator[Piece]:
    """The text of a run's model calls, as it comes, until the run has ended.

    ``after`` is the last piece that the reader had. Raises RunNotFound.
    """
    reader = _Reader(after)
    run_id = database.find(key)["run_id"]
    for events in watch(database, key):
        for event in events:
            yield from reader.outcome(event)
        for kept in partials_of(database, run_id):
            yield from reader.told(kept.step, kept.attempt, kept.body)


async def astreamed(
    database: Database, key: str, after: Piece | None = None
) -> AsyncIterator[Piece]:
    """`streamed`, awaited."""
    pieces = streamed(database, key, after)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


class _Reader:
    """Knows what was read of each step."""

    def __init__(self, after: Piece | None) -> None:
        self._after = after.step if after else 0
        self._read: dict[int, tuple[int, str | None, int]] = {}  # attempt, text, its length
        self._ended: set[int] = set()
        if after is not None:
            self._read[after.step] = after.attempt, None, after.offset + len(after.text)

    def outcome(self, event: Event) -> Iterator[Piece]:
        """What the outcome of a model call adds."""
        if event.event == "step_finished" and event.kind == "model" and event.step is not None:
            body = event.output.get("body") if isinstance(event.output, dict) else None
            yield from self.told(event.step, event.attempt or 1, body)
            self._ended.add(event.step)

    def told(self, step: int, attempt: int, body: Json) -> Iterator[Piece]:
        """What a reply, whole or so far, adds."""
        if step < self._after or step in self._ended:
            return
        text = "\n".join(message.text for message in reply_messages(body))
        before, had, length = self._read.get(step, (attempt, "", 0))
        if attempt < before:
            return
        goes_on = text.startswith(had) if had is not None else before == attempt
        begins = length if goes_on and len(text) >= length else 0
        self._read[step] = attempt, text, len(text)
        if text[begins:]:
            yield Piece(step, attempt, begins, text[begins:])
