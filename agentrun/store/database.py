"""One Postgres database as this process uses it: journal writer, heartbeat, reads and claims.

The writer and the heartbeat, each with a thread and a connection, start when they are first needed.
So a process that only reads a transcript starts neither. `store/opening.py` opens a database and
keeps the process's default.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg

from agentrun.core.budget import Budget
from agentrun.core.codec import encode
from agentrun.core.errors import LeaseLost, StoreError
from agentrun.core.events import Event, Json
from agentrun.core.sharing import Shared
from agentrun.core.state import park_event, status_after
from agentrun.store.backpressure import WriterLoad
from agentrun.store.blobs import Blobs
from agentrun.store.exact_values import ExactValue, exact_columns
from agentrun.store.journal import JournalTail, Writer
from agentrun.store.keys import check_key, run_id_of
from agentrun.store.late_results import keep_late
from agentrun.store.limits import SharedLimits
from agentrun.store.liveness import LEASE, Heart, Life, find_dead, life_of
from agentrun.store.partials import Partials
from agentrun.store.roles import require
from agentrun.store.rows import Row, payload_columns
from agentrun.store.runs import RunAtEpoch, RunRow, look_up_run
from agentrun.store.sending import Batch, Sender
from agentrun.store.session import Session
from agentrun.store.sql import QUERIES
from agentrun.store.values import read_events


class Database(ABC):
    """An open database, as `connect` returns it; a context manager that ends with `close`.

    ``dsn`` is its DSN, also that of the embedded server.

    Example:
        >>> with agentrun.connect("postgresql://localhost/agents"):
        ...     support.with_options(key="ticket-42").run("refund order 7")
    """

    dsn: str

    @abstractmethod
    def close(self, *, timeout: float = 30.0) -> None:
        """Drain: steps in flight finish, runs are handed back, connections are closed.

        ``timeout`` is in seconds. A run that still executes afterwards is taken over by another
        worker when the lease of this one ends. While the database is away, this waits for it; if
        the process is about to end, only for a few seconds. The log then names the runs whose last
        events could not be written.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class OpenDatabase(Session, Database):
    """The database as the package itself uses it: a session, and the parts that execute runs."""

    def __init__(
        self,
        dsn: str,
        *,
        lease: float = LEASE,
        blobs: Blobs | None = None,
        tools_dsn: str | None = None,
    ) -> None:
        super().__init__(dsn, blobs)
        self.tools_dsn = tools_dsn or dsn  # the login for the bodies of `transaction` tools
        self.lease = lease
        self._claiming = threading.Lock()
        # One reservation at a time: their transactions would wait for each other in the server.
        self.reserving = threading.Lock()
        # The runs that execute in this process; `runs.execute` enters and leaves them.
        self.active: dict[UUID, Any] = {}
        self.executes = False  # the login was found to have the privileges for executing runs
        # The number of workers of this process, by agent and queue.
        self.served: Counter[tuple[str, str]] = Counter()
        self._run_left = threading.Condition(self._guard)
        self._writer: Writer | None = None
        self.load = WriterLoad()
        self.limits = SharedLimits(self)
        self.partials = Partials(self)

    # -- parts, started when first needed -----------------------------------------------------

    @property
    def writer(self) -> Writer:
        """The process's one journal writer."""
        if self._writer is None:
            with self._guard:  # with two writers, the events of a run could commit out of order
                late = partial(keep_late, self)
                self._writer = self._writer or Writer(self.dsn, late, self.blobs, self.load)
        return self._writer

    @property
    def heart(self) -> Heart:
        """The heartbeat of this process; under a new worker name if the last was declared dead."""
        with self._claiming:
            return self._start_heart()

    def heart_of(self, worker: str) -> Heart:
        """The heartbeat of this worker name. Raises LeaseLost if the process has a new name."""
        heart: Heart | None = getattr(self, "_heart", None)
        if heart is None or heart.worker != worker:
            raise LeaseLost(f"worker {worker} was declared dead; its runs have new owners")
        return heart

    def _start_heart(self) -> Heart:
        """Return the heartbeat, and start one if there is none. Call it with ``_claiming``."""
        if self._closed:
            raise StoreError("the database was closed in this process")
        heart: Heart | None = getattr(self, "_heart", None)
        if heart is None:  # the first: check what executing needs, before there is a run
            self.check_privileges()
            if self.blobs is not None:
                self.blobs.prove()
        if heart is None or heart.dead:
            heart = self._heart = self.patiently(
                lambda: Heart(self.dsn, self.lease, self._after_beat, self.load.measure)
            )
            self.limits.load()
        return heart

    def check_privileges(self) -> None:
        """Raise ConfigError, before there is a run, if this login lacks a worker's privileges."""
        if not self.executes:
            self.on_connection(lambda conn: require(conn, "worker", "execute runs"))
            self.executes = True

    def _after_beat(self, conn: psycopg.Connection[Any]) -> None:
        self._stop_runs(conn)
        self.limits.refresh(conn)

    def obey_cancellations(self) -> None:
        """Stop the runs of this process that were cancelled, without waiting for the next beat."""
        self.on_connection(self._stop_runs)

    def _stop_runs(self, conn: psycopg.Connection[Any]) -> None:
        """Stop the runs of this process that expired or were cancelled."""
        if not self.active:
            return
        for run in list(self.active.values()):
            run.expire()
        for letter in conn.execute(QUERIES["cancellations"], {"runs": list(self.active)}):
            run = self.active.get(letter["run_id"])
            if run is not None:
                why = f": {letter['reason']}" if letter["reason"] else ""
                run.cancel(f"by {letter['by']}{why}")

    @cached_property
    def _claims(self) -> Sender:
        return Sender(self.dsn, "claim")

    # -- runs -------------------------------------------------------------------------------------

    def create(
        self,
        key: str,
        agent: str,
        given: Json,
        fingerprint: str,
        *,
        queue: str = "default",
        priority: int = 0,
        delay: float | None = None,
        parent: UUID | None = None,
        budget: Budget | None = None,
    ) -> bool:
        """Create the run if no run has its key; return whether this call created it."""
        encoded = encode(given, at="arguments", mask=self.mask)
        run_id, nonce = run_id_of(key), uuid4()
        payloads = [encoded.payload] if encoded.payload else []
        if self.blobs is not None and payloads:
            if look_up_run(self, key) is not None:
                return False  # the run exists, and a blob uploaded now would belong to no row
            payloads = [self.blobs.keep(p, run_id, f"0-{nonce.hex}") for p in payloads]
        row = self.query(
            "create",
            run_id=run_id,
            key=check_key(key),
            agent=agent,
            queue=queue,
            priority=priority,
            delay=delay,
            parent=parent,
            budget=budget and json.dumps(budget.to_json()),
            worker="submit",
            batch=nonce,
            fingerprint=fingerprint,
            codec=int(encoded.as_input()),
            masked=json.dumps({"input": encoded.masked}) if encoded.masked else None,
            input=encoded.text,
            **payload_columns(payloads),
            **exact_columns([ExactValue("input", "1", encoded.exact)] if encoded.exact else []),
        )
        return bool(row)

    # -- ownership --------------------------------------------------------------------------------

    def owner_of(self, run: RunRow) -> tuple[bool, Life | None]:
        """Whether a live worker executes the run, and the last owner's row if that is dead."""
        owner = run.owner
        if run.status != "running" or owner is None:
            return False, None
        # `heart` registers this process first: after a failover, the leases of other workers count
        # from the first registration with the new server.
        if self.heart.worker == owner:
            return run.run_id in self.active, None
        dead = self.on_connection(lambda conn: find_dead(conn, owner))
        return dead is None, dead

    def claim(
        self, run: RunRow, reason: str, *, then: Sequence[Event] = ()
    ) -> tuple[JournalTail, list[Event]] | None:
        """Claim a run without a live owner: append `claimed` by compare-and-swap on the last seq.

        Returns the run's tail, and its journal including the claim; None if another worker was
        faster. The events ``then`` are committed together with the claim, and the claim ends there.
        """
        run_id: UUID = run.run_id
        events, shared = read_events(self, run_id, exact=True)
        last = events[-1]
        if (last.epoch, _status(events)) != (run.epoch, run.status):
            return None  # the run went on since the caller read its row: it may have an owner now
        with self._claiming:
            worker = self._start_heart().worker
            claimed = Event(event="claimed", reason=reason)
            key, mask = run.key, self.mask
            tail = JournalTail(run_id, last.epoch + 1, worker, last.seq, shared, mask=mask, key=key)
            batch = Batch(tail.encode([claimed, *then]))
            try:
                accepted = run_id in self._claims.send(batch)
            except KeyboardInterrupt:
                # If the database is away, the claim ends with the lease of this worker.
                with contextlib.suppress(psycopg.Error):
                    if not then and self._claims.stored_runs(batch):
                        self.hand_back(tail)
                raise
            if not accepted:
                return None
        head = Event(
            event="claimed",
            reason=reason,
            run_id=run_id,
            seq=last.seq + 1,
            epoch=tail.epoch,
            worker=worker,
        )
        return tail, [*events, head]

    def hold(
        self,
        run: RunAtEpoch,
        reason: str,
        *,
        again: Sequence[Event] = (),
        seen: tuple[int, Shared] | None = None,
    ) -> bool:
        """Claim a run and park it for a review; return False if another worker was faster.

        The journal is not decoded, so this works for a run whose journal cannot be read. The events
        ``again`` are committed before the park, in the same commit. With them, ``seen`` is the seq
        up to which the caller has read the journal, and the table of texts up to there.
        """
        run_id: UUID = run.run_id
        pruned: dict[str, Any] = {"epoch": None, "seq": 0}
        last = next(iter(self.query("tail", run_id=run_id)), pruned)
        seq, shared = seen or (last["seq"], Shared())
        if (last["epoch"], last["seq"]) != (run.epoch, seq):
            return False
        with self._claiming:
            worker = self._start_heart().worker
            key, mask = run.key, self.mask
            tail = JournalTail(run_id, run.epoch + 1, worker, seq, shared, mask=mask, key=key)
            claimed = Event(event="claimed", reason=reason)
            batch = Batch(tail.encode([claimed, *again, park_event("review", reason)]))
            return run_id in self._claims.send(batch)

    def hand_back(self, tail: JournalTail) -> None:
        """Give up a run that was claimed but not executed, since its caller was interrupted."""
        self.writer.append(tail, [Event(event="handed_back", reason="interrupted at its claim")])

    def fill(self, row: Row) -> bool:
        """Append one row at a seq that another transaction may have used; False if it was used."""
        with self._claiming:
            return row.run_id in self._claims.send(Batch([row]))

    def refusal(self, batch: Batch) -> LeaseLost:
        """Why a batch of one run was refused."""
        with self._claiming:
            return next(iter(self._claims.explain_refusals(batch, batch.runs).values()))

    def is_stored(self, batch: Batch) -> bool:
        """Whether this batch, of one run, is in the journal."""
        with self._claiming:
            return bool(self.patiently(lambda: self._claims.stored_runs(batch)))

    def settled_in(self, worker: str) -> float:
        """The seconds until ``worker`` certainly sends none of the effects that it began."""
        heart: Heart | None = getattr(self, "_heart", None)
        if heart is not None and heart.worker == worker:
            return 0.0
        life = self.on_connection(lambda conn: life_of(conn, worker))
        return 0.0 if life is None else life.settled_in

    # -- entering, leaving, closing ------------------------------------------------------------

    def enter(self, run_id: UUID, run: Any) -> bool:
        """Record that the run executes in this process; False if an earlier claim of it still
        executes here."""
        with self._guard:
            return self.active.setdefault(run_id, run) is run

    def leave(self, run_id: UUID) -> None:
        with self._run_left:
            self.active.pop(run_id, None)
            self._run_left.notify_all()

    def close(self, *, timeout: float = 30.0) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        with self._run_left:
            for run in self.active.values():
                run.drain()
            self._run_left.wait_for(lambda: not self.active, timeout)
            idle = not self.active
        super().close()
        if self.blobs is not None:
            self.blobs.closed = True
        if self._writer is not None:
            self._writer.close()
        self.limits.close()
        self.partials.close()
        if "_claims" in self.__dict__:
            self._claims.close()
        heart: Heart | None = getattr(self, "_heart", None)
        if heart is not None:
            heart.stop(idle=idle)


def _status(events: list[Event]) -> str:
    """The status of a run with this journal."""
    return next(status for event in reversed(events) if (status := status_after(event)))
