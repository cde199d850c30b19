"""Read the text of a run's model calls while the models write it, in any process.

A reader may start after any piece that it has read before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import UUID

from agentrun.core.events import Event, Json
from agentrun.core.messages import reply_messages
from agentrun.store.database import OpenDatabase
from agentrun.store.partials import partials_of
from agentrun.store.runs import find_run
from agentrun.store.watching import watch

__all__ = ["Piece", "astream_text", "read_replies", "stream_text"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text that a model wrote, as `Handle.stream` yields it.

    ``step`` and ``attempt`` number the model call. ``offset`` is the position of ``text`` in the
    reply, in characters. A piece of a later attempt with offset 0 replaces all text of earlier
    attempts at the step.

    Example:
        >>> for piece in agentrun.get("ticket-42").stream():
        ...     print(piece.text, end="")
    """

    step: int
    attempt: int
    offset: int
    text: str


def stream_text(database: OpenDatabase, key: str, after: Piece | None = None) -> Iterator[Piece]:
    """Yield the text of a run's model calls, while it is written, until the run has ended.

    ``after`` is the last piece that was read before. Raises RunNotFound.
    """
    reader = _PieceReader(after)
    run_id = find_run(database, key).run_id
    for events in watch(database, key):
        for event in events:
            yield from reader.add_outcome(event)
        for kept in partials_of(database, run_id):
            yield from reader.add_reply(kept.step, kept.attempt, kept.body)


async def astream_text(
    database: OpenDatabase, key: str, after: Piece | None = None
) -> AsyncIterator[Piece]:
    """Like `stream_text`, for ``async for``; the database is read in threads."""
    pieces = stream_text(database, key, after)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


def read_replies(database: OpenDatabase, run_id: UUID) -> dict[int, str]:
    """The text so far of each reply of a run that is under way, by the number of its step."""
    return {part.step: _text_of(part.body) for part in partials_of(database, run_id)}


def _text_of(body: Json) -> str:
    return "\n".join(message.text for message in reply_messages(body))


class _PieceReader:
    """Remembers how much of each step's text was read, and returns what is new."""

    def __init__(self, after: Piece | None) -> None:
        self._after = after.step if after else 0
        self._read: dict[int, tuple[int, str | None, int]] = {}  # attempt, text, its length
        self._ended: set[int] = set()
        if after is not None:
            self._read[after.step] = after.attempt, None, after.offset + len(after.text)

    def add_outcome(self, event: Event) -> Iterator[Piece]:
        """The new text in the outcome of a model call."""
        if event.event == "step_finished" and event.kind == "model" and event.step is not None:
            body = event.output.get("body") if isinstance(event.output, dict) else None
            yield from self.add_reply(event.step, event.attempt or 1, body)
            self._ended.add(event.step)

    def add_reply(self, step: int, attempt: int, body: Json) -> Iterator[Piece]:
        """The new text in a reply, which may be complete or partial."""
        if step < self._after or step in self._ended:
            return
        text = _text_of(body)
        before, had, length = self._read.get(step, (attempt, "", 0))
        if attempt < before:
            return
        goes_on = text.startswith(had) if had is not None else before == attempt
        begins = length if goes_on and len(text) >= length else 0
        self._read[step] = attempt, text, len(text)
        if text[begins:]:
            yield Piece(step, attempt, begins, text[begins:])
