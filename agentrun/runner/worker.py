"""A worker: takes queued and due runs and executes them, so many at a time.

One thread asks the database for work, async agents share one event loop, sync agents a pool of
threads. NOTIFY wakes it; polling alone would do. A run that waits is parked and frees its slot. A
run whose claims bring no progress, time after time, is parked for a person: it kills its workers.
Those that it took with it look the same, and are told apart by taking such runs over one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg

from agentrun.core.errors import AgentrunError, ConfigError, Interrupt
from agentrun.core.events import Event
from agentrun.core.flow import run_async, run_sync
from agentrun.core.log import logger
from agentrun.core.state import SAFEGUARD
from agentrun.runner import execute
from agentrun.runner.agent import DurableAgent
from agentrun.store.arrays import UUIDS
from agentrun.store.connection import connect
from agentrun.store.database import Database
from agentrun.store.journal import Tail
from agentrun.store.liveness import Heart
from agentrun.store.opening import default

POLL = 0.25  # seconds between looks for work when nothing wakes the worker
SWEEP = 2.0  # seconds between looks for runs of dead workers and for overlooked mail
OVERDUE = timedelta(minutes=1)  # a letter's sender has committed it by then, and its run has parked
POISON = 5  # claims in a row that brought no step: the run is parked
SUSPECT = 2  # and so many: while such a run has brought none yet, no other such is taken over
_LOOK = 0.05  # seconds between looks for runs that have to be drained
_cards = threading.Lock()


class Worker:
    """Executes submitted runs of ``agents``; a context manager, sync or async.

    Args:
        agents: what `@agent` made; runs of others are left to other workers.
        concurrency: how many runs execute at a time.
        queues: which queues it serves.
        database: default: the process's.

    Leaving the context drains: steps in flight finish, runs are handed back.

    Raises:
        ConfigError: no agents, or a concurrency below 1.
    """

    def __init__(
        self,
        agents: Iterable[DurableAgent[..., Any]],
        *,
        concurrency: int = 10,
        queues: Sequence[str] = ("default",),
        database: Database | None = None,
    ) -> None:
        self._agents = {agent.name: agent for agent in agents}
        if not self._agents or concurrency < 1:
            raise ConfigError("a Worker needs at least one agent, and a concurrency of 1 or more")
        self._concurrency = concurrency
        self._queues = list(queues)
        self._database = database
        self._stop = threading.Event()
        self._work = threading.Event()  # a hint: something may be ready
        self._under_way: dict[Future[Any], UUID] = {}
        self._suspect: UUID | None = None  # the last one that was taken over
        self._looked = datetime.min.replace(tzinfo=UTC)  # for overlooked mail: all before is seen
        self._announced: tuple[Heart, int, list[str]] | None = None  # what the card says
        self._guard = threading.Lock()

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to take runs, in threads of its own."""
        self._db = self._database or default()
        self._serve(1)
        self._pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="agentrun-run")
        self._loop = asyncio.new_event_loop()
        self._threads = [
            threading.Thread(target=target, name=f"agentrun-{name}", daemon=True)
            for name, target in (
                ("loop", self._turn),
                ("dispatch", self._dispatch),
                ("listen", self._listen),
            )
        ]
        for thread in self._threads:
            thread.start()
        return self

    def _turn(self) -> None:
        """Turn the event loop of async agents. A SystemExit in a task of one of them leaves it."""
        while True:
            try:
                return self._loop.run_forever()
            except BaseException:
                logger.exception("a task of an agent was to end the worker; it goes on")

    def stop(self) -> None:
        """Take no more runs; let steps in flight finish and hand the runs back."""
        self._stop.set()
        self._work.set()
        self._threads[1].join()
        while running := self._running():
            self._drain()
            wait(running, timeout=_LOOK)  # one that was just taken is active in a moment
        self._serve(-1)
        with contextlib.suppress(psycopg.Error, AgentrunError):  # the database may be closed
            self._serving()
        self._pool.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads[0].join()
        self._loop.close()
        self._threads[2].join()

    def _drain(self) -> None:
        with self._guard:
            here = set(self._under_way.values())
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
            except (psycopg.Error, AgentrunError) as error:
                logger.warning("the worker found no work: %s", str(error).strip())
                taken = 0
            except Exception:  # a worker that beats and takes no runs would help nobody
                logger.exception("the worker found no work")
                taken = 0
            if not taken and not self._stop.is_set():
                self._work.wait(POLL)
                since_sweep += POLL

    def _take(self, free: int) -> int:
        """Claim what is ready, up to ``free`` runs, and begin it."""
        if free <= 0:
            return 0
        worker = self._serving()
        claims = self._db.query(
            "claim_ready",
            agents=list(self._agents),
            queues=self._queues,
            limit=free,
            worker=worker,
            batch=uuid4(),
        )
        for claim in claims:
            with self._apart(claim):
                self._begin(claim)
        return len(claims)

    @contextlib.contextmanager
    def _apart(self, run: dict[str, Any]) -> Iterator[None]:
        """A run that cannot be taken up is parked for a person, and keeps no other from it."""
        try:
            yield
        except (AgentrunError, Interrupt) as error:
            logger.warning("run %r cannot be taken up: %s", run["key"], error)
            way = f"When that is mended: agentrun.resume({run['key']!r})"
            self._db.hold(run, f"it cannot be taken up: {error}. {way}")

    def _serving(self) -> str:
        """The name of this process as a worker, with the agents of all its workers on its card."""
        heart = self._db.heart
        with _cards:
            agents = sorted(+self._db.served)
        card = heart, heart.registered, agents
        if self._announced != card:
            self._db.query("serving", worker=heart.worker, agents=agents)
            self._announced = card
        return heart.worker

    def _serve(self, number: int) -> None:
        """Let the process serve the agents by so many workers more."""
        with _cards:
            for name in self._agents:
                self._db.served[name] += number

    def _sweep(self) -> None:
        """Take over what nobody executes, of dead workers and our own; wake overlooked runs."""
        looked = self._db.heart.now()
        self._db.query("overlooked", since=self._looked)
        self._looked = looked - OVERDUE
        worker = self._serving()
        seen: list[UUID] = []  # runs that were left alone are not to hide those behind them
        while (free := self._concurrency - len(self._running())) > 0 and not self._stop.is_set():
            with self._guard:
                here = [*self._under_way.values(), *self._db.active]
            abandoned = self._db.query(
                "abandoned",
                agents=list(self._agents),
                queues=self._queues,
                worker=worker,
                here=UUIDS([*here, *seen]),
                limit=free,
            )
            for run in abandoned:
                seen.append(run["run_id"])
                with self._apart(run):
                    self._take_over(run, own=run["owner"] == worker)
            if len(abandoned) < free:
                return

    def _take_over(self, run: dict[str, Any], *, own: bool) -> None:
        owned, life = self._db.owner_of(run)
        if owned or (life is None and not own):
            return
        if run["epoch"] >= SUSPECT and self._fruitless(run["run_id"]) >= SUSPECT:
            if self._is_on_trial():
                return
            self._suspect = run["run_id"]
        why = "left behind by this worker" if life is None else execute.took_over(life)
        claimed = self._db.claim(run, why)
        if claimed is not None:
            self._execute(run["key"], run["agent"], claimed)

    def _is_on_trial(self) -> bool:
        """Whether a suspect is under way here that has not come a step forward yet."""
        with self._guard:
            here = self._suspect if self._suspect in self._under_way.values() else None
        return here is not None and self._fruitless(here) > 0

    def _fruitless(self, run_id: UUID) -> int:
        """How many claims at the end of its journal brought a run nothing."""
        (row,) = self._db.query("fruitless", run_id=run_id)
        return int(row["claims"])

    def _listen(self) -> None:
        """Wake on NOTIFY, where the connection can listen; polling is enough without."""
        while not self._stop.is_set():
            try:
                with connect(self._db.dsn) as conn:
                    if conn.pooled:  # nothing would come; a session of the pool would listen on
                        return
                    conn.execute("LISTEN agentrun")
                    while not self._stop.is_set():
                        for _ in conn.notifies(timeout=0.5, stop_after=1):
                            self._work.set()
            except psycopg.Error:
                self._stop.wait(1.0)

    # -- executing ---------------------------------------------------------------------------------

    def _begin(self, claim: dict[str, Any]) -> None:
        events, shared = self._db.events(claim["run_id"])
        worker = self._db.heart.worker
        if events[-1].worker != worker or events[-1].seq != claim["seq"]:
            return  # lost again already
        tail = Tail(claim["run_id"], claim["epoch"], worker, claim["seq"], shared)
        self._execute(claim["key"], claim["agent"], (tail, events))

    def _execute(self, key: str, name: str, claimed: tuple[Tail, list[Event]]) -> None:
        agent = self._agents[name]
        tail = claimed[0]
        if tail.epoch > POISON and self._fruitless(tail.run_id) > POISON:  # this claim included
            self._park(tail)
            return
        options = replace(agent.options, in_place=False, on_held="raise")
        flow = execute.execute(agent, self._db, key, options, claimed)
        future: Future[Any]
        if agent.is_async:
            future = asyncio.run_coroutine_threadsafe(_quietly(run_async(flow), key), self._loop)
        else:
            future = self._pool.submit(_quiet, flow, key)
        with self._guard:
            self._under_way[future] = tail.run_id
        future.add_done_callback(self._ended)

    def _ended(self, future: Future[Any]) -> None:
        with self._guard:
            del self._under_way[future]
        self._work.set()

    def _running(self) -> list[Future[Any]]:
        with self._guard:
            return list(self._under_way)

    def _park(self, tail: Tail) -> None:
        reason = (
            f"{POISON} claims in a row brought no step forward: it may crash its workers. "
            "See its transcript, then agentrun.resume(key)"
        )
        parked = Event(event="parked", status="held", by=SAFEGUARD, reason=reason)
        self._db.writer.wait(self._db.writer.append(tail, [parked]))


def _quiet(flow: Any, key: str) -> None:
    """See a run through; how it ended is in its journal."""
    try:
        run_sync(flow)
    except (AgentrunError, Interrupt, SystemExit) as error:
        logger.debug("run %r: %s", key, error)
    except BaseException:
        logger.exception("run %r ended in an error of agentrun's own", key)


async def _quietly(coroutine: Any, key: str) -> None:
    """`_quiet`, awaited."""
    try:
        await coroutine
    except (AgentrunError, Interrupt, SystemExit, asyncio.CancelledError) as error:
        logger.debug("run %r: %s", key, error)
    except BaseException:
        logger.exception("run %r ended in an error of agentrun's own", key)
