"""The one writer a process: group commit, fencing, and commits whose answer was lost.

What every run in the process has pending goes out as one statement and one commit. Whoever
holds the flush lock is the writer: a sync caller flushes the batch himself, and a thread flushes
for async callers and for events that nobody waits for. So nothing is written twice for sync and
async, and a blocked event loop stops nothing.

A batch, once sent, is frozen: if its answer is lost the identical rows go out again, under the
same nonce, which waits for the original to settle; the rows that then carry the nonce are ours.
An absence seen by a read would prove nothing.

Ctrl-C may strike the main thread between any two bytecodes. What it shares with the writer is
therefore guarded by locks alone, which `with` takes and leaves in one piece; a Condition (and so a
Future, an Event) enters and leaves in Python code, and would stay locked for good.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from uuid import UUID, uuid4

from agentrun.core.errors import JournalLost, LeaseLost, StoreError
from agentrun.core.events import Event
from agentrun.core.log import logger
from agentrun.core.sharing import Shared
from agentrun.store.blobs import Blobs, is_large
from agentrun.store.durable import Durable
from agentrun.store.load import Load
from agentrun.store.rows import Asked, Row, to_row
from agentrun.store.sending import Batch, Sender

LINGER = 0.002  # seconds an event that nobody waits for may wait for company
BATCH_ROWS = 2_000  # rows in one statement at the most
BATCH_BYTES = 8 << 20  # and about so many bytes of values
_CARRIERS = 8  # blobs put at a time


@dataclass(eq=False)
class Tail:
    """The end of an owned run's journal: where this process appends next.

    Only the owner has one. ``lost`` and ``ended`` are set for good: when an append was refused,
    and behind the last event of this claim.
    """

    run_id: UUID
    epoch: int
    worker: str
    seq: int  # the last seq taken
    shared: Shared = field(default_factory=Shared)
    asked: Asked = field(default_factory=dict)
    lost: BaseException | None = None
    ended: BaseException | None = None  # the last event of this claim is queued: no more follow
    reserved: int | None = None  # the seq that a `transaction` tool is about to fill
    nonce: str = field(default_factory=lambda: uuid4().hex[:8])  # of this claim, for its blobs

    def take(self, events: Iterable[Event]) -> list[Row]:
        """The events as the next rows of the journal, in order; their seqs are taken."""
        rows = [
            to_row(event, self.run_id, seq, self.epoch, self.worker, self.shared, self.asked)
            for seq, event in enumerate(events, self.seq + 1)
        ]
        self.seq += len(rows)
        return rows


@dataclass(eq=False)
class _Entry:
    tail: Tail
    last: int  # seq; without rows, that of the event it waits for
    rows: list[Row]
    done: Durable = field(default_factory=Durable)
    queued_at: float = field(default_factory=time.monotonic)
    large: bool = False  # a value is to be put outside before the rows are sent
    carried: bool = False  # a thread does that

    def ready(self) -> bool:
        if self.large:
            return False
        return self.tail.reserved is None or self.last < self.tail.reserved

    def fail(self, error: BaseException) -> None:
        """The run's first error stands: what follows it fails for the same reason."""
        self.tail.lost = self.tail.lost or error
        self.done.settle(self.tail.lost)


class Writer:
    """Collects events of all runs of the process and commits them in groups.

    ``late`` receives, from the flushing thread, the events of a run that was lost, so that paid
    answers among them can be kept aside. With ``blobs``, large values are put there first, by
    threads of their own: only what follows in the same run waits for that.
    """

    def __init__(
        self,
        dsn: str,
        late: Callable[[Row], None] = lambda _row: None,
        blobs: Blobs | None = None,
        load: Load | None = None,
    ) -> None:
        self._sender = Sender(dsn)
        self._late = late
        self._load = load or Load()
        self._blobs = blobs
        self._carriers = threading.Semaphore(_CARRIERS)
        self._queue: list[_Entry] = []
        self._frozen: list[tuple[Batch, list[_Entry]]] = []  # outcome not known yet, in order
        self._flushing = threading.Lock()
        self._guard = threading.Lock()  # of the queue and of tails
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes the thread
        self._awake = False  # the thread: it will look at the queue before it sleeps again
        self._urgent = False
        self._closed = False
        self._company = 0  # runs in the last batch
        self._thread = threading.Thread(target=self._run, name="agentrun-writer", daemon=True)
        Context().run(self._thread.start)  # it belongs to no run

    # -- adding ---------------------------------------------------------------------------

    def append(self, tail: Tail, events: Iterable[Event]) -> Durable:
        """Queue events of one run, in order; the future is done when they are durable.

        The caller holds the run's lock, so that the order of events is the order of calls. The
        future raises LeaseLost when the run is another worker's now.
        """
        with self._guard:
            entry = _Entry(tail, tail.seq, [])
            if self._closed:
                entry.done.settle(StoreError("the database was closed in this process"))
                return entry.done
            entry.rows = tail.take(events)
            entry.last = tail.seq
            over = tail.lost or tail.ended
            if over is not None:
                self._refuse(entry, over)
                return entry.done
            if self._blobs is not None:
                entry.large = any(is_large(p) for row in entry.rows for p in row.payloads)
            self._queue.append(entry)
            self._load.queued(entry.rows)
            asleep, self._awake = not self._awake, True
        if asleep:
            self._bell.put(None)
        return entry.done

    def wait(self, done: Durable) -> None:
        """Block until ``done``, flushing in this thread when nobody else does."""
        alone = self._company <= 1
        while not done.settled:
            if self._flushing.locked():  # whoever flushes wakes those he served, and one to follow
                done.sleep(self._flushing.locked)
                continue
            if not alone:  # those served with us last time have perhaps more: let them queue it
                alone = True
                time.sleep(0)
                continue
            with self._flushing:
                sent = done.settled or self._flush()
            self._pass_on()
            if not sent:  # held back: the thread sends it once it may go
                done.sleep(lambda: True)
        if done.error is not None:
            raise done.error

    def hurry(self) -> None:
        """Have the thread flush now: an async caller waits."""
        if not self._urgent:
            self._urgent = True
            self._bell.put(None)

    # -- a transaction tool appends its own checkpoint ---------------------------------------

    def reserve(self, tail: Tail) -> tuple[int, list[Durable]]:
        """Take the next seq and hold back what is queued after it.

        Returns that seq and what must be durable before it. The caller holds the run's lock.
        """
        with self._guard:
            tail.seq += 1
            tail.reserved = tail.seq
            pending = [entry for _, entries in self._frozen for entry in entries] + self._queue
            return tail.seq, [entry.done for entry in pending if entry.tail is tail]

    def unpause(self, tail: Tail) -> None:
        """Let the run's events go again; the reserved seq has been used."""
        with self._guard:
            tail.reserved = None
        self._bell.put(None)

    # -- what is large goes outside first ----------------------------------------------------

    def _send_carriers(self) -> None:
        """Begin to put large values outside. By the thread alone, which Ctrl-C cannot strike."""
        if self._blobs is None:
            return
        with self._guard:
            fresh = [entry for entry in self._queue if entry.large and not entry.carried]
        for entry in fresh:
            entry.carried = True
            carrier = threading.Thread(
                target=self._carry, args=(self._blobs, entry), name="agentrun-blobs", daemon=True
            )
            try:
                Context().run(carrier.start)  # it belongs to no run
            except RuntimeError:  # the interpreter ends: the value stays in the database
                entry.large = False

    def _carry(self, blobs: Blobs, entry: _Entry) -> None:
        run_id, claim = entry.tail.run_id, f"{entry.tail.epoch}-{entry.tail.nonce}"
        try:
            with self._carriers:
                rows = [
                    replace(row, payloads=tuple(blobs.keep(p, run_id, claim) for p in row.payloads))
                    for row in entry.rows
                ]
            entry.rows = rows
        except Exception:
            logger.exception("a large value is kept in the database")
        finally:
            entry.large = False
            self._bell.put(None)

    # -- flushing ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._until_due():
                with self._flushing:
                    # A sync caller who flushed meanwhile left perhaps only what was queued just
                    # now: that will share a commit with what he waits for next.
                    if self._patience() <= 0:
                        self._flush()
                self._pass_on()
        finally:
            with self._flushing:
                self._abandon(StoreError("the journal writer has stopped in this process"))

    def _until_due(self) -> bool:
        """Sleep until something should be flushed; False: closed, and nothing is left."""
        while True:
            self._send_carriers()
            left = self._patience()
            if left <= 0:
                return True
            if self._closed and left == math.inf and not self._carrying():
                return False
            with contextlib.suppress(Empty):
                self._bell.get(timeout=None if left == math.inf else left)

    def _carrying(self) -> bool:
        with self._guard:
            return any(entry.large for entry in self._queue)

    def _patience(self) -> float:
        """Seconds until what is pending must go; none are left when an async caller waits."""
        with self._guard:
            frozen = [entry for _, entries in self._frozen for entry in entries]
            pending = [entry.queued_at for entry in frozen + self._ready()]
            if not pending:
                self._awake = self._urgent = False
                return math.inf
            if self._urgent or self._closed:
                return 0.0
            return min(pending) + LINGER - time.monotonic()

    def _pass_on(self) -> None:
        """Wake one waiter whose events were queued meanwhile, to flush them for all who wait."""
        with self._guard:
            for entry in self._ready():
                if entry.done.wake():
                    return

    def _ready(self) -> list[_Entry]:
        """What of the queue may be sent: nothing overtakes an event of its own run."""
        ready: list[_Entry] = []
        held: set[int] = set()
        for entry in self._queue:
            if id(entry.tail) not in held and entry.ready():
                ready.append(entry)
            else:
                held.add(id(entry.tail))
        return ready

    def _freeze(self) -> None:
        """Take the next batch from the queue."""
        with self._guard:
            taken: list[_Entry] = []
            rows = size = 0
            for entry in self._ready():
                if entry.done.settled:
                    continue  # sent already: Ctrl-C came between the last lines of this
                if rows >= BATCH_ROWS or size >= BATCH_BYTES:
                    break
                taken.append(entry)
                rows += len(entry.rows)
                size += sum(row.size for row in entry.rows)
            if taken:
                self._frozen.append((Batch([row for entry in taken for row in entry.rows]), taken))
            gone = {id(entry) for entry in taken}
            kept = [e for e in self._queue if id(e) not in gone and not e.done.settled]
            self._queue, self._urgent = kept, bool(kept)
            self._load.left(row for entry in kept for row in entry.rows)
            self._company = len({id(entry.tail) for entry in taken})

    def _flush(self) -> bool:
        """Send what is pending; False if there was nothing. Holds the flush lock.

        A batch leaves ``_frozen`` only when its waiters have been told. An interrupted waiter
        (Ctrl-C in the thread that happens to flush) leaves it there for whoever flushes next, who
        sends it again and finds by its nonce what had become of it.
        """
        if not self._frozen:
            self._freeze()
        found = bool(self._frozen)
        while self._frozen:
            batch, entries = self._frozen[0]
            self._load.sends(len(batch.rows))
            try:
                accepted = self._sender.send(batch) if batch.rows else set()
                refused = self._sender.refusals(batch, batch.runs - accepted)
            except Exception as error:
                self._sender.close()
                parts = self._each_alone(batch, entries, error)
            else:
                parts = []
                self._load.sent()
                self._report(entries, accepted, refused)
            with self._guard:
                self._frozen[:1] = parts
        return found

    def _each_alone(
        self, batch: Batch, entries: list[_Entry], error: Exception
    ) -> list[tuple[Batch, list[_Entry]]]:
        """One bad row fails one run: a refused batch is split, and each run sent by itself.

        Under the same nonce, should a sending whose answer was lost have been accepted.
        """
        runs: dict[UUID, list[_Entry]] = {}
        for entry in entries:
            runs.setdefault(entry.tail.run_id, []).append(entry)
        if len(runs) > 1:
            return [
                (Batch([row for entry in group for row in entry.rows], batch.nonce), group)
                for group in runs.values()
            ]
        logger.error("an event of run %s cannot be stored: %s", entries[0].tail.run_id, error)
        for entry in entries:
            entry.fail(StoreError(f"an event of this run cannot be stored: {error}".strip()))
        return []

    def _report(
        self, entries: list[_Entry], accepted: set[UUID], refused: dict[UUID, LeaseLost]
    ) -> None:
        for entry in entries:
            lost = entry.tail.lost
            accounted = entry.tail.run_id in accepted or (not entry.rows and not lost)
            if accounted or entry.done.settled:  # settled: Ctrl-C came while waiters were told
                entry.done.settle()
            else:
                self._refuse(entry, lost or refused[entry.tail.run_id])

    def _refuse(self, entry: _Entry, error: BaseException) -> None:
        """The run is not ours any more: its events are no part of the journal."""
        # One that was cut short is written again by its run, which knows all of it.
        for row in () if isinstance(error, JournalLost) else entry.rows:
            try:
                self._late(row)
            except Exception:
                logger.exception("an answer that came too late could not be kept")
        entry.fail(error)

    # -- ending ------------------------------------------------------------------------------

    def _abandon(self, error: StoreError) -> None:
        """Leave no waiter waiting for what nobody will send any more."""
        with self._guard:
            self._closed = True
            left = [entry for _, entries in self._frozen for entry in entries] + self._queue
            self._frozen, self._queue = [], []
        for entry in left:
            entry.fail(error)

    def close(self) -> None:
        """Flush what is pending, end the thread and close the connection."""
        with self._guard:
            self._closed = True
        self._bell.put(None)
        self._thread.join()
        self._sender.close()
