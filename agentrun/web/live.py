"""Runs while they go on: one look a second at each run that somebody watches, for all who watch.

A `LiveRun` is asked by its viewers for a state that is newer than the one they have. It looks at
the database while it has viewers, by one statement a second (`store.watching`), and reads events
only when there are new ones. Reading and rendering happen in a thread, once for all viewers.

A stream of server-sent events has no side effects. Each message has the seq of the journal as its
id. So a browser that reconnects sends the last seq that it has, and gets a message only if the
run's journal has grown since.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
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
from agentrun.view.safe import Markup, element, join
from agentrun.web.page import fill
from agentrun.web.run_data import describe_run, render_run
from agentrun.web.threads import ReadingThreads

__all__ = ["EVERY", "LiveRun", "LiveRuns", "RunView", "messages"]

EVERY = 1.0  # seconds between two looks at a run
SILENCE = 15.0  # seconds without a message, after which a comment keeps the connection open


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment, as its viewers see it."""

    version: int  # counts the changes that this process saw
    seq: int
    status: str  # changes where the forms of the run change
    html: Markup
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
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.viewers = 0

    async def newer_than(self, version: int) -> RunView | None:
        """Wait for a view that is newer than this version; 0 takes any. None: the server ends."""
        async with self._changed:
            while not self._closed and (self._view is None or self._view.version <= version):
                await self._changed.wait()
            return None if self._closed else self._view

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
            html=render_run(data),
            around=fill("around.html", data=data),
            streaming=streaming,
            ended=self._follower.ended,
        )


def _with_trouble(view: RunView | None, why: str) -> RunView:
    if view is None:
        return RunView(1, 0, "", Markup(""), "", Markup(""), True, why)
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
    version = 0
    html: Markup | None = None  # what the browser shows; None: not known
    status: str | None = None
    streaming = Markup("")
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                view = await run.newer_than(version)
        except TimeoutError:
            yield b": nothing new\n\n"
            continue
        if view is None:
            return
        if not version and view.seq <= after:
            html, status = view.html, view.status
        parts = []
        if view.html is not html:
            parts += [_replace("run", view.html), _replace("around", Markup(view.around))]
        if view.streaming != streaming:
            parts.append(_replace("streaming", view.streaming))
        if view.trouble is not None:
            parts.append(_replace("trouble", element("p", view.trouble)))
        if parts:
            yield _message(view.seq, join(parts))
        if view.status != status:
            yield b"event: status\ndata: status\n\n"
        if view.ended:
            yield b"event: ended\ndata: ended\n\n"
            return
        version, html, status, streaming = view.version, view.html, view.status, view.streaming


def _replace(place: str, content: Markup) -> Markup:
    """What htmx takes as: morph the inside of the element with this id into the content."""
    target = {"hx-target": f"#{place}", "hx-swap": "innerMorph"}
    return element("hx-partial", content, **target)


def _message(seq: int, content: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in content.split("\n"))
    return f"id: {seq}\n{lines}\n".encode()
