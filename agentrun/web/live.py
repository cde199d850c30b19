"""Runs while they go on: one look a second at each run that somebody watches, for all who watch.

A `LiveRun` is asked by its viewers for a state that is newer than the one they have. It looks at
the database while it has viewers, by one statement a second (`store.watching`), and reads events
only when there are new ones. Reading and rendering happen in a thread, once for all viewers.

A stream of server-sent events has no side effects. A message has only the blocks that changed
(`web.live_blocks`), and the seq of the journal as its id. So a browser that reconnects sends the
last seq that it has. It gets what has changed since, if the view of that seq is still kept, or
else everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from agentrun.core.errors import AgentrunError
from agentrun.core.events import Event
from agentrun.core.log import logger
from agentrun.core.messages import reply_messages
from agentrun.store.database import OpenDatabase
from agentrun.store.partials import Partial
from agentrun.store.watching import JournalFollower
from agentrun.view.html import Block
from agentrun.view.safe import Markup, element, join
from agentrun.web.live_blocks import replace_inside, update_blocks
from agentrun.web.page import fill
from agentrun.web.run_data import describe_run, render_run
from agentrun.web.threads import ReadingThreads

__all__ = ["EVERY", "LiveRun", "LiveRuns", "RunView", "messages"]

EVERY = 1.0  # seconds between two looks at a run
KEPT = 100  # views of one run, from which browsers that were cut off can go on
SILENCE = 15.0  # seconds without a message, after which a comment keeps the connection open


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment, as its viewers see it."""

    version: int  # counts the changes that this process saw
    seq: int
    status: str  # changes where the forms of the run change
    blocks: list[Block]
    around: str  # what stands beside the transcript: turns, children
    streaming: Markup  # the replies that are being written
    ended: bool
    trouble: str | None = None  # why the run is looked at no more


class LiveRun:
    """One run, and the task that looks at it while it has viewers."""

    def __init__(self, database: OpenDatabase, key: str, threads: ReadingThreads) -> None:
        self._database, self._key, self._threads = database, key, threads
        self._events: list[Event] = []
        self._lost = False
        self._follower: JournalFollower | None = None
        self._changed = asyncio.Condition()
        self._view: RunView | None = None
        self._views: dict[int, RunView] = {}  # the latest views, by seq; of one seq, the first
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.viewers = 0

    async def newer_than(self, version: int) -> RunView | None:
        """Wait for a view that is newer than this version; 0 takes any. None: the server ends."""
        async with self._changed:
            while not self._closed and (self._view is None or self._view.version <= version):
                await self._changed.wait()
            return None if self._closed else self._view

    def view_at(self, seq: int) -> RunView | None:
        """What the run was at this seq, if that is still kept."""
        return self._views.get(seq)

    async def close(self) -> None:
        """Let all viewers go: the server ends."""
        self.stop()
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def start(self) -> None:
        """Look at the run from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _follow(self) -> None:
        while True:
            before = self._view
            try:
                view = await self._threads.call(partial(self._look, before))
            except AgentrunError as error:  # such as: the run was pruned
                logger.warning("run %s is looked at no more: %s", self._key, error)
                view = _with_trouble(before, str(error))
            except Exception:
                logger.exception("run %s is looked at no more", self._key)
                view = _with_trouble(before, "the pages cannot show this run: see their log")
            if view is not before:
                async with self._changed:
                    self._view = view
                    self._views.setdefault(view.seq, view)
                    while len(self._views) > KEPT:
                        del self._views[next(iter(self._views))]
                    self._changed.notify_all()
            if view.ended:
                return
            await asyncio.sleep(EVERY)

    def _look(self, before: RunView | None) -> RunView:
        """The present view; ``before`` itself if nothing has changed. Runs in a thread."""
        if self._follower is None:
            self._follower = JournalFollower(self._database, self._key)
        glance = self._follower.glance()
        streaming = _streamed(glance.partials)
        if before is not None and (glance.seq, glance.owner_lost) == (before.seq, self._lost):
            if streaming == before.streaming:
                return before
            return replace(before, version=before.version + 1, streaming=streaming)
        self._events += self._follower.read()
        self._lost = glance.owner_lost
        data = describe_run(self._database, self._events, self._lost)
        return RunView(
            version=1 if before is None else before.version + 1,
            seq=data.seq,
            status=f"{data.transcript.status} {[one.fingerprint for one in data.waiting]}",
            blocks=_reuse_blocks([] if before is None else before.blocks, render_run(data)),
            around=fill("around.html", data=data),
            streaming=streaming,
            ended=self._follower.ended,
        )


def _reuse_blocks(before: list[Block], now: list[Block]) -> list[Block]:
    """The present blocks. A block that has not changed is the object that earlier views have."""
    known = {block.key: block for block in before}
    return [known[block.key] if known.get(block.key) == block else block for block in now]


def _with_trouble(view: RunView | None, why: str) -> RunView:
    if view is None:
        return RunView(1, 0, "", [], "", Markup(""), True, why)
    return replace(view, version=view.version + 1, ended=True, trouble=why)


def _streamed(partials: Iterable[Partial]) -> Markup:
    """The texts of replies that are being written."""
    texts = []
    for written in partials:
        text = "\n".join(message.text for message in reply_messages(written.body) if message.text)
        if text:
            head = element("p", f"step {written.step} is being written", class_="dim")
            texts.append(join([head, element("pre", text, dir="auto")]))
    return join(texts)


class LiveRuns:
    """The runs that are being watched, each looked at by one task however many watch it."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], LiveRun] = {}
        # Not those of the pages: a look waits until the database is back, however long that takes.
        self._threads = ReadingThreads()

    @asynccontextmanager
    async def watched(self, database: OpenDatabase, key: str) -> AsyncIterator[LiveRun]:
        """Watch a run inside the block. The last one who leaves ends the looks at it."""
        place = (database.dsn, key)
        run = self._runs.setdefault(place, LiveRun(database, key, self._threads))
        run.viewers += 1
        run.start()
        try:
            yield run
        finally:
            run.viewers -= 1
            if not run.viewers:
                run.stop()
                self._runs.pop(place, None)

    async def close(self) -> None:
        """End all streams. The browsers connect again as soon as there is a server."""
        for run in list(self._runs.values()):
            await run.close()


async def messages(run: LiveRun, after: int) -> AsyncIterator[bytes]:
    """The messages to a browser that has read the journal up to ``after``. Never raises."""
    version, first = 0, True
    before: RunView | None = None  # what the browser shows; None: not known
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                view = await run.newer_than(version)
        except TimeoutError:
            yield b": nothing new\n\n"
            continue
        if view is None:
            return
        if not version and view.seq < after and not view.ended:
            version = view.version  # the browser has read further than the last look
            continue
        before = before or run.view_at(after)
        if parts := list(_changes(before, view, first=first)):
            yield _message(view.seq, join(parts))
        if before is None or view.status != before.status:
            yield b"event: status\ndata: status\n\n"
        if view.ended:
            yield b"event: ended\ndata: ended\n\n"
            return
        version, before, first = view.version, view, False


def _changes(before: RunView | None, view: RunView, *, first: bool) -> Iterator[Markup]:
    """What turns the view that a browser has into the present one."""
    if view.trouble is not None:
        yield replace_inside("trouble", element("p", view.trouble))
    if view.blocks and view is not before:  # there are none if the run could not be read
        yield from update_blocks(None if before is None else before.blocks, view.blocks)
        if before is None or view.around != before.around:
            yield replace_inside("around", Markup(view.around))
    # A browser that was cut off may still show another text that was being written at its seq.
    away = first and (view is not before or view.streaming != "")
    if away or before is None or view.streaming != before.streaming:
        yield replace_inside("streaming", view.streaming)


def _message(seq: int, content: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in content.split("\n"))
    return f"id: {seq}\n{lines}\n".encode()
