"""One run, by key: its status, its result, its transcript."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from shlex import quote
from typing import Any, Generic, TypeVar

from agentrun.core.errors import RunError, RunFailed, RunHeld
from agentrun.core.events import Event, Json, RunStatus
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.transcript import Transcript, fold
from agentrun.runner import failures
from agentrun.runner.context import blocking
from agentrun.runner.streaming import Piece, astreamed, streamed
from agentrun.runner.waiting import pause
from agentrun.store.database import Database

R = TypeVar("R")

_POLL = (0.005, 0.25)  # seconds between looks at a run that is not done: first, at most


class Handle(Generic[R]):
    """One run, by key."""

    def __init__(
        self, key: str, database: Database, decode: Callable[[Json], Any] = lambda value: value
    ) -> None:
        self.key = key
        self._database = database
        self._decode = decode

    def __repr__(self) -> str:
        return f"<agentrun run {self.key!r}>"

    def status(self) -> RunStatus:
        """queued, running, waiting, held, done, failed or cancelled."""
        status: RunStatus = self._database.find(self.key)["status"]
        return status

    async def astatus(self) -> RunStatus:
        """`status`, awaited."""
        return await asyncio.to_thread(self.status)

    def result(self, timeout: float | None = None) -> R:
        """Wait for the run to end, and return what the agent returned.

        Raises:
            TimeoutError: it has not ended in ``timeout`` seconds; the message says whether any
                live worker knows its agent.
            RunFailed: the agent raised.
            RunHeld: the run waits for a person.
            RunError: the run was cancelled.
        """
        result: R = run_sync(self._result(timeout))
        return result

    async def aresult(self, timeout: float | None = None) -> R:
        """`result`, awaited."""
        result: R = await run_async(self._result(timeout))
        return result

    def stream(self, after: Piece | None = None) -> Iterator[Piece]:
        """The text that the run's models write, as it comes, until the run has ended.

        From any process, whoever executes the run; ``after`` is the last piece that was read.
        """
        return streamed(self._database, self.key, after)

    def astream(self, after: Piece | None = None) -> AsyncIterator[Piece]:
        """`stream`, awaited."""
        return astreamed(self._database, self.key, after)

    def transcript(self) -> Transcript:
        """What happened, from the journal alone: no network call, nothing executed."""
        return fold(self._events())

    async def atranscript(self) -> Transcript:
        """`transcript`, awaited."""
        return await asyncio.to_thread(self.transcript)

    # -- flows -------------------------------------------------------------------------------------

    def _events(self) -> list[Event]:
        return self._database.events(self._database.find(self.key)["run_id"])[0]

    def _result(self, timeout: float | None) -> Flow[Any]:
        end = None if timeout is None else time.monotonic() + timeout
        look = _POLL[0]
        while True:
            run = yield blocking(partial(self._database.find, self.key))
            if run["status"] in ("done", "failed", "cancelled"):
                journal = partial(self._database.events, run["run_id"])
                events, _ = yield blocking(journal)
                return self._decode(ended(self.key, events[-1]))
            if run["status"] == "held" and not run["due"]:
                raise run_held(self.key, run["reason"], run["open_doubt"])
            if end is not None and time.monotonic() >= end:
                raise TimeoutError((yield blocking(partial(self._why_not, run))))
            yield pause(look if end is None else max(0.0, min(look, end - time.monotonic())))
            look = min(_POLL[1], look * 1.5)

    def _why_not(self, run: dict[str, Any]) -> str:
        text = f"run {self.key!r} is {run['status']}"
        alive = self._database.query("servers", agent=run["agent"])[0]["alive"]
        if (run["status"] == "queued" or run["due"]) and alive == 0:
            text += (
                f", and no live worker executes agent {run['agent']!r}: "
                "start one with `agentrun worker FILE`"
            )
        return text


def ended(key: str, last: Event) -> Any:
    """The end of a run as its caller sees it: the stored result, or what it failed with."""
    if last.event == "run_finished":
        return last.output
    if last.event == "run_failed":
        raise RunFailed(failed_text(key, last.reason or ""), key=key) from failures.rebuild(
            last.output
        )
    raise RunError(f"run {key!r} was cancelled: {last.reason}", key=key)


def run_held(key: str, reason: str | None, step: int | None) -> RunHeld:
    """That a run waits for a person, as its caller sees it."""
    return RunHeld(f"run {key!r} waits for a person: {reason}", key=key, step=step)


def failed_text(key: str, cause: str) -> str:
    """What a failed run says, and what to do about it."""
    return (
        f"run {key!r} failed: {cause.rstrip('.')}. `agentrun show {quote(key)}` shows where; "
        f"agentrun.resume({key!r}) goes on from the last recorded step"
    )
