"""`Handle`: one run, by its key. It gives the run's status, its result and its transcript."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

from agentrun.core.events import Event, RunStatus
from agentrun.core.flow import Flow, pause, run_async, run_sync
from agentrun.core.pauses import PollSchedule
from agentrun.core.transcript import Transcript, fold
from agentrun.core.viewable import show_all
from agentrun.lifecycle.live_workers import missing_worker, warn_missing_worker
from agentrun.lifecycle.reply_stream import Piece, astream_text, stream_text
from agentrun.lifecycle.run_ends import held_error, read_end
from agentrun.steps.blocking import blocking
from agentrun.store.database import OpenDatabase
from agentrun.store.run_list import find_summary
from agentrun.store.runs import FoundRun, find_run, is_decided, is_owner_lost
from agentrun.store.values import read_events
from agentrun.values.typed_values import Result

R = TypeVar("R")

_STARTING = 1.0  # seconds that a worker has to start before a NoWorkerWarning is given


class Handle(Generic[R]):
    """One run, by its key. `submit` and `get` return it; any process may hold one.

    Example:
        >>> handle = agentrun.get("ticket-42")
        >>> handle.status()
        'done'
        >>> handle.result(timeout=60)
        'Order 7 is refunded.'
    """

    def __init__(self, key: str, database: OpenDatabase, returns: Result | None = None) -> None:
        self.key = key
        self._database = database
        self._returns = returns  # None: this process does not know the agent

    def __repr__(self) -> str:
        """The key alone: a log line or a debugger must not read the database."""
        return f"<agentrun run {self.key!r}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """For a notebook: status, cost and what comes next, by one read of the database."""
        try:
            run = find_summary(self._database, self.key)
        except Exception:  # a cell must show something, also while the database is away
            run = None
        return {"text/plain": repr(self)} if run is None else show_all(run)

    def status(self) -> RunStatus:
        """The status of the run now.

        ``queued`` (no process executes it yet), ``running``, ``waiting`` (for a time or a
        signal), ``held`` (waits for a person), ``done``, ``failed`` or ``cancelled``.

        Raises:
            RunNotFound: no run has this key.

        Example:
            >>> handle.status()
            'done'
        """
        status: RunStatus = find_run(self._database, self.key).status
        return status

    async def astatus(self) -> RunStatus:
        """Like `status`, without blocking the event loop: it reads the database in a thread.

        Example:
            >>> await handle.astatus()
            'done'
        """
        return await asyncio.to_thread(self.status)

    def result(self, timeout: float | None = None) -> R:
        """Wait until the run has ended, and return the agent's result.

        If the run is due and no live worker knows its agent, a NoWorkerWarning is given once. In
        a process that has not imported the agent, the result is plain JSON.

        Args:
            timeout: seconds to wait at most; None waits without a limit.

        Raises:
            TimeoutError: the run has not ended in ``timeout`` seconds. The message says if no live
                worker knows its agent.
            RunFailed: the agent raised; ``__cause__`` is that exception.
            RunHeld: the run waits for a person.
            RunError: the run was cancelled.
            Diverged: the recorded result does not fit the agent's return type as it is now.

        Example:
            >>> answer = handle.result(timeout=60)
        """
        result: R = run_sync(self._result(timeout))
        return result

    async def aresult(self, timeout: float | None = None) -> R:
        """Like `result`, without blocking the event loop: it reads the database in threads.

        If the awaiting task is cancelled, only the wait ends; the run goes on.

        Example:
            >>> await handle.aresult(timeout=60)
            'Order 7 is refunded.'
        """
        result: R = await run_async(self._result(timeout))
        return result

    def stream(self, after: Piece | None = None) -> Iterator[Piece]:
        """Yield the text that the run's models write, while they write it, until the run ends.

        Works in any process, also if another process executes the run.

        Args:
            after: the last piece that was read before; the pieces after it follow.

        Raises:
            RunNotFound: no run has this key.

        Example:
            >>> for piece in handle.stream():
            ...     print(piece.text, end="")
        """
        return stream_text(self._database, self.key, after)

    def astream(self, after: Piece | None = None) -> AsyncIterator[Piece]:
        """Like `stream`, for ``async for``; the database is read in threads.

        Example:
            >>> async for piece in handle.astream():
            ...     print(piece.text, end="")
        """
        return astream_text(self._database, self.key, after)

    def transcript(self) -> Transcript:
        """What happened in the run, read from the journal: nothing is executed and no model called.

        Raises:
            RunNotFound: no run has this key.

        Example:
            >>> print(handle.transcript())
        """
        return transcript_of(self._database, self.key)

    async def atranscript(self) -> Transcript:
        """Like `transcript`, without blocking the event loop: it reads the journal in a thread.

        Example:
            >>> print(await handle.atranscript())
        """
        return await asyncio.to_thread(self.transcript)

    # -- flows -------------------------------------------------------------------------------------

    def _result(self, timeout: float | None) -> Flow[Any]:
        end = None if timeout is None else time.monotonic() + timeout
        schedule, warn_at = PollSchedule(), time.monotonic() + _STARTING
        while True:
            run = yield blocking(partial(find_run, self._database, self.key))
            if run.status in ("done", "failed", "cancelled"):
                journal = partial(read_events, self._database, run.run_id, exact=True)
                events, _ = yield blocking(journal)
                return read_end(self.key, events[-1], self._returns)
            if run.status == "held" and not (yield blocking(partial(self._is_decided, run))):
                raise held_error(self.key, run.reason, run.parked_step)
            if end is not None and time.monotonic() >= end:
                raise TimeoutError((yield blocking(partial(self._why_not, run))))
            if _is_ready(run) and time.monotonic() >= warn_at:
                given = yield blocking(partial(warn_missing_worker, self._database, self.key))
                warn_at = math.inf if given else time.monotonic() + _STARTING
            rest = math.inf if end is None else max(0.0, end - time.monotonic())
            yield pause(min(schedule.next_pause(), rest))

    def _is_decided(self, run: FoundRun) -> bool:
        """Whether a held run will go on, because a decision has come.

        A decision may come while the run is being parked. Its worker then makes the run due a
        moment later; until then the run still looks held.
        """
        return run.due or is_decided(self._database, run.run_id)

    def _why_not(self, run: FoundRun) -> str:
        text = f"run {self.key!r} is {run.status}"
        why = missing_worker(self._database, self.key) if _is_ready(run) else None
        return f"{text}, and {why}" if why else text


def transcript_of(database: OpenDatabase, key: str) -> Transcript:
    """The transcript of a run, which also says if its owner is dead. Raises RunNotFound."""
    events, lost = journal_of(database, key)
    return fold(events, owner_lost=lost)


def journal_of(database: OpenDatabase, key: str) -> tuple[list[Event], bool]:
    """The journal of a run, and whether the process that owns the run is dead."""
    run = find_run(database, key)
    events = read_events(database, run.run_id)[0]
    return events, is_owner_lost(database, run.run_id)


def _is_ready(run: FoundRun) -> bool:
    """Whether a worker could claim the run now."""
    return bool(run.status == "queued" or run.due)
