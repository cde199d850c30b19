"""A worker: claims queued and due runs and executes them, up to ``concurrency`` at a time.

One thread asks the database for work. Async agents share one event loop; sync agents share a pool
of threads. NOTIFY wakes the worker early; polling alone finds all work, only later. A run that
waits is parked and frees its slot.

A *poison run* crashes its worker each time it is executed. The sign is that claim after claim adds
no step to its journal. After `POISON` such claims the run is parked for a person. But when a worker
crashes, all its runs lose a claim, also the innocent ones. To tell them apart, a run with `SUSPECT`
such claims is a suspect, and a worker takes over only one suspect at a time: the next one after the
first has recorded a step or left. So an innocent suspect gets a claim without another beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import psycopg

from agentrun.core.errors import AgentrunError, ConfigError, Interrupt
from agentrun.core.events import Event
from agentrun.core.flow import run_async, run_sync
from agentrun.core.log import logger
from agentrun.core.state import park_event
from agentrun.lifecycle import execute
from agentrun.lifecycle.code_version import code_version
from agentrun.lifecycle.registry import RunnableAgent, known_agents, registered
from agentrun.store.claims import (
    ClaimedRun,
    claim_ready,
    count_fruitless_claims,
    find_abandoned,
    find_diverged,
)
from agentrun.store.connection import connect
from agentrun.store.database import Database
from agentrun.store.journal import JournalTail
from agentrun.store.liveness import Heart
from agentrun.store.mail import wake_overlooked
from agentrun.store.opening import internals
from agentrun.store.patience import PROCESS
from agentrun.store.runs import RunAtEpoch, RunRow
from agentrun.store.serving import announce_worker
from agentrun.store.values import read_events

POLL = 0.25  # seconds between two looks for work when nothing wakes the worker
SWEEP = 2.0  # seconds between two looks for runs of dead workers and for overlooked mail
OVERDUE = timedelta(minutes=1)  # within it a letter is committed, and the run it is for has parked
POISON = 5  # claims in a row without a new step, after which the run is parked for a person
SUSPECT = 2  # claims in a row without a new step, after which the run is a suspect
_LOOK = 0.05  # seconds between two looks for runs that have to be drained
_cards = threading.Lock()


class Worker:
    """Executes submitted runs of ``agents``; a context manager, sync or async.

    Entering the context starts the worker's threads. Leaving it drains: steps in flight finish, and
    the runs are handed back to the queue. `start` and `stop` do the same without a context.

    Args:
        agents: the agents whose runs the worker takes.
        concurrency: how many runs execute at a time. Default: 10.
        queues: the queues that the worker serves. Default: only ``"default"``.
        database: the database of the runs. Default: the process's default database.

    Raises:
        ConfigError: ``agents`` is empty, or ``concurrency`` is below 1.

    Example:
        >>> with agentrun.Worker([support], concurrency=50):
        ...     handle = support.submit("refund order 7")
        ...     print(handle.result())
    """

    def __init__(
        self,
        agents: Iterable[RunnableAgent],
        *,
        concurrency: int = 10,
        queues: Sequence[str] = ("default",),
        database: Database | None = None,
    ) -> None:
        self._agents = {name: agent for agent in agents for name in agent.names}
        if not self._agents or concurrency < 1:
            raise ConfigError("a Worker needs at least one agent, and a concurrency of 1 or more")
        self._concurrency = concurrency
        self._queues = list(queues)
        self._database = database
        self._stop = threading.Event()
        self._work = threading.Event()  # a hint: something may be ready
        self._executing: dict[Future[Any], UUID] = {}
        self._suspect: UUID | None = None  # the suspect that was taken over last
        self._looked = datetime.min.replace(tzinfo=UTC)  # mail before this time is not overlooked
        self._announced: tuple[Heart, int, list[str], list[str]] | None = None  # as last written
        self._guard = threading.Lock()

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start to take runs, in threads of the worker's own. Returns the worker.

        Raises:
            ConfigError: the database login lacks a privilege that a worker needs.

        Example:
            >>> worker = agentrun.Worker([support]).start()
            >>> worker.stop()
        """
        self._db = internals(self._database)
        self._db.check_privileges()
        self._started = self._db.heart.now()
        self._count_served(1)
        self._pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="agentrun-run")
        self._loop = asyncio.new_event_loop()
        self._threads = [
            threading.Thread(target=target, name=f"agentrun-{name}", daemon=True)
            for name, target in (
                ("loop", self._turn_loop),
                ("dispatch", self._dispatch),
                ("listen", self._listen),
            )
        ]
        for thread in self._threads:
            thread.start()
        return self

    def _turn_loop(self) -> None:
        """Run the event loop of async agents. A SystemExit in an agent's task must not end it."""
        while True:
            try:
                return self._loop.run_forever()
            except BaseException:
                logger.exception("a task of an agent raised an exit; the worker goes on")

    def stop(self) -> None:
        """Take no more runs, let steps in flight finish, and hand the runs back.

        If the database is away, this waits a few seconds for it, not longer.

        Example:
            >>> worker = agentrun.Worker([support]).start()
            >>> worker.stop()
        """
        with PROCESS.hurrying():
            self._end()

    def _end(self) -> None:
        self._stop.set()
        self._work.set()
        self._threads[1].join()
        while running := self._running():
            self._drain()
            wait(running, timeout=_LOOK)  # a run just claimed can be drained soon
        self._count_served(-1)
        with contextlib.suppress(psycopg.Error, AgentrunError, Interrupt):  # away, or closed
            self._announce()
        self._pool.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads[0].join()
        self._loop.close()
        self._threads[2].join()

    def _drain(self) -> None:
        with self._guard:
            here = set(self._executing.values())
        for run_id, run in list(self._db.active.items()):
            if run_id in here:
                run.drain()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    # -- finding work ----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        since_sweep = SWEEP
        while not self._stop.is_set():
            self._work.clear()
            try:
                taken = self._take(self._concurrency - len(self._running()))
                if since_sweep >= SWEEP:
                    since_sweep = 0.0
                    self._sweep()
            except (psycopg.Error, AgentrunError, Interrupt) as error:
                logger.warning("the worker found no work: %s", str(error).strip())
                taken = 0
            except Exception:  # if this thread ended, the worker would look alive and take no runs
                logger.exception("the worker found no work")
                taken = 0
            if not taken and not self._stop.is_set():
                self._work.wait(POLL)
                since_sweep += POLL

    def _take(self, free: int) -> int:
        """Claim up to ``free`` runs that are queued or due, and start to execute them."""
        if free <= 0:
            return 0
        worker = self._announce()
        claims = claim_ready(
            self._db, worker, agents=list(self._agents), queues=self._queues, limit=free
        )
        for claim in claims:
            with self._hold_on_error(claim):
                self._begin(claim)
        return len(claims)

    @contextlib.contextmanager
    def _hold_on_error(self, run: RunAtEpoch) -> Iterator[None]:
        """If the block cannot take the run up, park the run for a person, and go on with others."""
        try:
            yield
        except (AgentrunError, Interrupt) as error:
            logger.warning("run %r cannot be taken up: %s", run.key, error)
            advice = f"When that is mended: agentrun.resume({run.key!r})"
            self._db.hold(run, f"it cannot be taken up: {error}. {advice}")

    def _announce(self) -> str:
        """Write which agents and queues this process serves, if that changed; return its name.

        A process has one name, also if it has several workers.
        """
        heart = self._db.heart
        with _cards:
            served = +self._db.served
        agents = sorted({agent for agent, _ in served})
        queues = sorted({queue for _, queue in served})
        card = heart, heart.registrations, agents, queues
        if self._announced != card:
            announce_worker(self._db, heart.worker, agents=agents, queues=queues)
            self._announced = card
        return heart.worker

    def _count_served(self, number: int) -> None:
        """Count this worker's agents and queues among those that the process serves, or no more."""
        with _cards:
            for served in product(self._agents, self._queues):
                self._db.served[served] += number

    def _sweep(self) -> None:
        """Take over runs that no process executes any more, and wake runs with overlooked mail."""
        looked = self._db.heart.now()
        wake_overlooked(self._db, since=self._looked)
        self._looked = looked - OVERDUE
        worker = self._announce()
        seen: list[UUID] = []  # skipped runs, so that the next query returns the runs behind them
        while (free := self._concurrency - len(self._running())) > 0 and not self._stop.is_set():
            with self._guard:
                here = [*self._executing.values(), *self._db.active]
            abandoned = find_abandoned(
                self._db,
                worker,
                agents=list(self._agents),
                queues=self._queues,
                here=[*here, *seen],
                limit=free,
            )
            for run in abandoned:
                seen.append(run.run_id)
                with self._hold_on_error(run):
                    self._take_over(run, own=run.owner == worker)
            if len(abandoned) < free:
                break
        self._try_diverged()

    def _try_diverged(self) -> None:
        """Try runs again whose code diverged: once for each code version and each worker start."""
        free = self._concurrency - len(self._running())
        if free <= 0 or self._stop.is_set():
            return
        with self._guard:
            here = [*self._executing.values(), *self._db.active]
        for run in find_diverged(
            self._db,
            agents=list(self._agents),
            known=known_agents(),
            queues=self._queues,
            here=here,
            started=self._started,
            version=code_version(),
            limit=free,
        ):
            with self._hold_on_error(run):
                claimed = self._db.claim(run, "diverged before; tried with this code")
                if claimed is not None:
                    self._execute(run.key, run.agent, claimed)

    def _take_over(self, run: RunRow, *, own: bool) -> None:
        owned, life = self._db.owner_of(run)
        if owned or (life is None and not own):
            return
        if run.epoch >= SUSPECT and count_fruitless_claims(self._db, run.run_id) >= SUSPECT:
            if self._is_on_trial():
                return
            self._suspect = run.run_id
        why = "left behind by this worker" if life is None else execute.takeover_reason(life)
        claimed = self._db.claim(run, why)
        if claimed is not None:
            self._execute(run.key, run.agent, claimed)

    def _is_on_trial(self) -> bool:
        """Whether a suspect is executing here that has not recorded a step since its takeover."""
        with self._guard:
            here = self._suspect if self._suspect in self._executing.values() else None
        return here is not None and count_fruitless_claims(self._db, here) > 0

    def _listen(self) -> None:
        """Wake the worker on NOTIFY, if the connection can listen; otherwise it only polls."""
        while not self._stop.is_set():
            try:
                with connect(self._db.dsn) as conn:
                    # Through a pooler no notification arrives, and the pooler's session would
                    # keep listening for its next client.
                    if conn.pooled:
                        return
                    conn.execute("LISTEN agentrun")
                    while not self._stop.is_set():
                        for _ in conn.notifies(timeout=0.5, stop_after=1):
                            self._work.set()
            except psycopg.Error:
                self._stop.wait(1.0)

    # -- executing ---------------------------------------------------------------------------------

    def _begin(self, claim: ClaimedRun) -> None:
        events, shared = read_events(self._db, claim.run_id, exact=True)
        worker = self._db.heart.worker
        if events[-1].worker != worker or events[-1].seq != claim.seq:
            return  # another worker has claimed the run since
        key, seq, mask = claim.key, claim.seq, self._db.mask
        tail = JournalTail(claim.run_id, claim.epoch, worker, seq, shared, mask=mask, key=key)
        self._execute(key, claim.agent, (tail, events))

    def _execute(self, key: str, name: str, claimed: tuple[JournalTail, list[Event]]) -> None:
        # A child run's agent may be one of this process that the worker does not serve.
        agent = self._agents.get(name) or registered(name)
        tail = claimed[0]
        if (
            tail.epoch > POISON and count_fruitless_claims(self._db, tail.run_id) > POISON
        ):  # this claim included
            self._park_for_person(tail)
            return
        options = replace(agent.options, in_place=False, on_held="raise")
        flow = execute.execute(agent, self._db, key, options, claimed)
        future: Future[Any]
        if agent.is_async:
            future = asyncio.run_coroutine_threadsafe(
                _arun_quietly(run_async(flow), key), self._loop
            )
        else:
            future = self._pool.submit(_run_quietly, flow, key)
        with self._guard:
            self._executing[future] = tail.run_id
        future.add_done_callback(self._forget)

    def _forget(self, future: Future[Any]) -> None:
        with self._guard:
            del self._executing[future]
        self._work.set()

    def _running(self) -> list[Future[Any]]:
        with self._guard:
            return list(self._executing)

    def _park_for_person(self, tail: JournalTail) -> None:
        reason = (
            f"{POISON} claims in a row recorded no step: the run may crash its workers. "
            "See its transcript, then agentrun.resume(key)"
        )
        self._db.writer.wait(self._db.writer.append(tail, [park_event("review", reason)]))


def _run_quietly(flow: Any, key: str) -> None:
    """Execute a run and raise nothing: its end is in its journal."""
    try:
        run_sync(flow)
    except (AgentrunError, Interrupt, SystemExit) as error:
        logger.debug("run %r: %s", key, error)
    except BaseException:
        logger.exception("run %r ended in an error of agentrun's own", key)


async def _arun_quietly(coroutine: Any, key: str) -> None:
    """Like `_run_quietly`, for a coroutine."""
    try:
        await coroutine
    except (AgentrunError, Interrupt, SystemExit, asyncio.CancelledError) as error:
        logger.debug("run %r: %s", key, error)
    except BaseException:
        logger.exception("run %r ended in an error of agentrun's own", key)
