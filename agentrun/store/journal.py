"""The journal writer: one a process, with group commit, fencing, and resending after a lost answer.

**Group commit.** The pending events of all runs of the process are sent as one batch: one statement
and one commit. The thread that holds the flush lock is the writer. A sync caller that waits for its
events takes the lock and flushes for everybody. A background thread flushes for async callers and
for events that no caller waits for. So sync and async code share one implementation, and a blocked
event loop stops no commit.

**Order.** The events of one run are committed in the order of the calls of `append`. An event that
cannot be sent yet (its large value is being uploaded, or it follows a reserved seq) holds back all
later events of its run, and none of another run.

**A lost answer.** A batch never changes once it was sent. If the connection breaks before the
answer, it is unknown whether the batch was committed. The writer then sends the same rows again,
with the same nonce. That statement waits until the first one has committed or rolled back. The rows
that now carry the nonce were stored by one of the two. To read the journal instead would prove
nothing: the first statement could still commit after the read.

**Ctrl-C.** KeyboardInterrupt may be raised in the main thread between any two bytecodes. Therefore
the main thread and the writer share only plain locks, which `with` acquires and releases
atomically. A Condition, and so a Future or an Event, is acquired in Python code: an interrupt there
would leave it locked for ever.
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

from agentrun.core.errors import JournalLost, LeaseLost, Parking, StoreError
from agentrun.core.events import Event
from agentrun.core.log import logger
from agentrun.core.secrets import Masker, mask
from agentrun.core.sharing import Shared
from agentrun.store.backpressure import WriterLoad
from agentrun.store.blobs import Blobs, is_large
from agentrun.store.commit_waiters import PendingCommit
from agentrun.store.patience import PROCESS, current
from agentrun.store.rows import OpenInputs, Row, to_row
from agentrun.store.sending import Batch, Sender

LINGER = 0.002  # seconds that an event which no caller waits for is held back, to share a commit
BATCH_ROWS = 2_000  # the most rows in one statement
BATCH_BYTES = 8 << 20  # a batch gets no further entry once its values have this size
_UPLOADS = 8  # entries whose large values are uploaded at the same time


@dataclass(eq=False)
class JournalTail:
    """The end of an owned run's journal: where this process appends next.

    Only the owner of a run has its tail. Two fields are set once and never cleared: ``lost`` when
    an append was refused, ``ended`` when the last event of this claim was queued.
    """

    run_id: UUID
    epoch: int
    worker: str
    seq: int  # the last seq that was assigned
    shared: Shared = field(default_factory=Shared)
    open_inputs: OpenInputs = field(default_factory=dict)
    mask: Masker = mask
    lost: BaseException | None = None
    ended: BaseException | None = None  # raised to callers that append after the last event
    reserved: int | None = None  # the seq at which a `transaction` tool will append its checkpoint
    nonce: str = field(default_factory=lambda: uuid4().hex[:8])  # names the blobs of this claim
    key: str = ""  # the run's key, for messages

    def encode(self, events: Iterable[Event]) -> list[Row]:
        """Encode the events, in order, as the next rows of the journal and assign their seqs."""
        rows = [
            to_row(
                event,
                self.run_id,
                seq,
                self.epoch,
                self.worker,
                self.shared,
                self.open_inputs,
                self.mask,
            )
            for seq, event in enumerate(events, self.seq + 1)
        ]
        self.seq += len(rows)
        return rows


@dataclass(eq=False)
class _Entry:
    """The rows of one call of `Writer.append`."""

    tail: JournalTail
    last: int  # the seq of the last row; without rows, of the event that the caller waits for
    rows: list[Row]
    done: PendingCommit = field(default_factory=PendingCommit)
    queued_at: float = field(default_factory=time.monotonic)
    large: bool = False  # a value has to be uploaded before the rows are sent
    uploading: bool = False  # a thread uploads it

    def ready(self) -> bool:
        if self.large:
            return False
        return self.tail.reserved is None or self.last < self.tail.reserved

    def fail(self, error: BaseException) -> None:
        """Fail the entry with the first error of its run, since later failures follow from it."""
        self.tail.lost = self.tail.lost or error
        self.done.finish(self.tail.lost)


class Writer:
    """Collects the events of all runs of the process and commits them in groups.

    ``late`` is called, in the flushing thread, with each row that was refused because the run has
    another owner: the row may hold an answer that was paid for, which the new owner can adopt. With
    ``blobs``, large values are uploaded before their rows are sent, each in a thread of its own, so
    that only later events of the same run wait for the upload.
    """

    def __init__(
        self,
        dsn: str,
        late: Callable[[Row], None] = lambda _row: None,
        blobs: Blobs | None = None,
        load: WriterLoad | None = None,
    ) -> None:
        self._sender = Sender(dsn)
        self._late = late
        self._load = load or WriterLoad()
        self._blobs = blobs
        self._upload_slots = threading.Semaphore(_UPLOADS)
        self._queue: list[_Entry] = []
        self._frozen: list[tuple[Batch, list[_Entry]]] = []  # sent, outcome unknown; in order
        self._flushing = threading.Lock()
        self._guard = threading.Lock()  # protects the queue and the tails
        self._bell: SimpleQueue[None] = SimpleQueue()  # an item wakes the thread
        self._awake = False  # the thread will look at the queue before it sleeps again
        self._urgent = False  # an async caller waits
        self._closed = False
        self._runs_in_batch = 0  # of the last batch
        self._thread = threading.Thread(target=self._run, name="agentrun-writer", daemon=True)
        Context().run(self._thread.start)  # an empty context, since the thread belongs to no run

    # -- adding ---------------------------------------------------------------------------

    def append(self, tail: JournalTail, events: Iterable[Event]) -> PendingCommit:
        """Queue events of one run, in order; return a handle that finishes when they are durable.

        The caller holds the run's lock, so that the order of events is the order of calls. Waiting
        for the handle raises LeaseLost if the run has another owner.
        """
        with self._guard:
            entry = _Entry(tail, tail.seq, [])
            if self._closed:
                entry.done.finish(StoreError("the database was closed in this process"))
                return entry.done
            entry.rows = tail.encode(events)
            entry.last = tail.seq
            error = tail.lost or tail.ended
            if error is not None:
                self._refuse(entry, error)
                return entry.done
            if self._blobs is not None:
                entry.large = any(is_large(p) for row in entry.rows for p in row.payloads)
            self._queue.append(entry)
            self._load.add_rows(entry.rows)
            asleep, self._awake = not self._awake, True
        if asleep:
            self._bell.put(None)
        return entry.done

    def wait(self, done: PendingCommit) -> None:
        """Block until ``done`` is finished; flush in this thread when no other thread does.

        Raises the error that the events failed with. Raises Parking when the caller's patience is
        over; the events then stay queued.
        """
        alone = self._runs_in_batch <= 1
        began = time.monotonic()
        while not done.finished:
            patience = current.get()
            patience.check(began)
            if patience.hurried:  # an outage may keep the flush lock taken for as long as it lasts
                done.sleep(lambda: True)
                continue
            if self._flushing.locked():  # the flusher wakes its own waiters, and one to flush next
                done.sleep(self._flushing.locked)
                continue
            if not alone:
                # The runs of the last batch probably have further events: let them queue these
                # first, so that all share one commit.
                alone = True
                time.sleep(0)
                continue
            with self._flushing:
                sent = done.finished or self._flush()
            self._wake_next_flusher()
            if not sent:  # the events are held back: the thread sends them once they are ready
                done.sleep(lambda: True)
        if done.error is not None:
            raise done.error

    def hurry(self) -> None:
        """Make the thread flush now, because an async caller waits."""
        if not self._urgent:
            self._urgent = True
            self._bell.put(None)

    # -- a transaction tool appends its own checkpoint ---------------------------------------

    def reserve(self, tail: JournalTail) -> tuple[int, list[PendingCommit]]:
        """Assign the next seq to a checkpoint and hold back the run's later events.

        Returns the seq, and the commits that have to finish before the checkpoint is appended. The
        caller holds the run's lock.
        """
        with self._guard:
            tail.seq += 1
            tail.reserved = tail.seq
            pending = [entry for _, entries in self._frozen for entry in entries] + self._queue
            return tail.seq, [entry.done for entry in pending if entry.tail is tail]

    def unpause(self, tail: JournalTail) -> None:
        """Send the run's events again, now that the reserved seq has been used."""
        with self._guard:
            tail.reserved = None
        self._bell.put(None)

    # -- large values are uploaded first -----------------------------------------------------

    def _start_uploads(self) -> None:
        """Begin to upload large values. Only called in the writer's thread, which Ctrl-C spares."""
        if self._blobs is None:
            return
        with self._guard:
            fresh = [entry for entry in self._queue if entry.large and not entry.uploading]
        for entry in fresh:
            entry.uploading = True
            uploader = threading.Thread(
                target=self._upload, args=(self._blobs, entry), name="agentrun-blobs", daemon=True
            )
            try:
                Context().run(uploader.start)  # the thread belongs to no run
            except RuntimeError:  # the interpreter is ending: the value stays in the database
                entry.large = False

    def _upload(self, blobs: Blobs, entry: _Entry) -> None:
        run_id, claim = entry.tail.run_id, f"{entry.tail.epoch}-{entry.tail.nonce}"
        try:
            with self._upload_slots:
                rows = [
                    replace(row, payloads=tuple(blobs.keep(p, run_id, claim) for p in row.payloads))
                    for row in entry.rows
                ]
            entry.rows = rows
        except Exception:
            logger.exception("a large value could not be uploaded and is stored in the database")
        finally:
            entry.large = False
            self._bell.put(None)

    # -- flushing ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait_until_due():
                # `_give_up` has failed the waiters before Parking arrives here.
                with self._flushing, contextlib.suppress(Parking):
                    # A sync caller may have flushed in the meantime. What is left then was queued
                    # just now, and can share a commit with what that caller appends next.
                    if self._seconds_until_due() <= 0:
                        self._flush()
                self._wake_next_flusher()
        finally:
            with self._guard:
                self._closed = True
            with self._flushing:
                self._fail_pending(StoreError("the journal writer has stopped in this process"))

    def _wait_until_due(self) -> bool:
        """Sleep until events are due; return False when the writer is closed and has none left."""
        while True:
            self._start_uploads()
            seconds = self._seconds_until_due()
            if seconds <= 0:
                return True
            if self._closed and seconds == math.inf and not self._has_uploads():
                return False
            with contextlib.suppress(Empty):
                self._bell.get(timeout=None if seconds == math.inf else seconds)

    def _has_uploads(self) -> bool:
        with self._guard:
            return any(entry.large for entry in self._queue)

    def _seconds_until_due(self) -> float:
        """The seconds until pending events must be sent: 0 if an async caller waits, inf if none
        is pending."""
        with self._guard:
            frozen = [entry for _, entries in self._frozen for entry in entries]
            pending = [entry.queued_at for entry in frozen + self._ready()]
            if not pending:
                self._awake = self._urgent = False
                return math.inf
            if self._urgent or self._closed:
                return 0.0
            return min(pending) + LINGER - time.monotonic()

    def _wake_next_flusher(self) -> None:
        """Wake one thread whose events were queued during the flush, to flush for all waiters."""
        with self._guard:
            for entry in self._ready():
                if entry.done.wake():
                    return

    def _ready(self) -> list[_Entry]:
        """The queued entries that may be sent. No event overtakes an earlier event of its run."""
        ready: list[_Entry] = []
        held: set[int] = set()
        for entry in self._queue:
            if id(entry.tail) not in held and entry.ready():
                ready.append(entry)
            else:
                held.add(id(entry.tail))
        return ready

    def _freeze(self) -> None:
        """Move the next batch from the queue to ``_frozen``."""
        with self._guard:
            taken: list[_Entry] = []
            rows = size = 0
            for entry in self._ready():
                if entry.done.finished:
                    continue  # it was sent: Ctrl-C interrupted this method in its last lines
                if rows >= BATCH_ROWS or size >= BATCH_BYTES:
                    break
                taken.append(entry)
                rows += len(entry.rows)
                size += sum(row.size for row in entry.rows)
            if taken:
                self._frozen.append((Batch([row for entry in taken for row in entry.rows]), taken))
            gone = {id(entry) for entry in taken}
            kept = [e for e in self._queue if id(e) not in gone and not e.done.finished]
            self._queue, self._urgent = kept, bool(kept)
            self._load.replace_rows(row for entry in kept for row in entry.rows)
            self._runs_in_batch = len({id(entry.tail) for entry in taken})

    def _flush(self) -> bool:
        """Send the pending events; return False if there were none. Call it with the flush lock.

        A batch leaves ``_frozen`` only after its waiters were informed. If Ctrl-C interrupts a
        waiter that flushes, the batch stays there. The next thread that flushes sends it again, and
        learns from its nonce whether the first sending was committed.
        """
        if not self._frozen:
            self._freeze()
        found = bool(self._frozen)
        while self._frozen:
            batch, entries = self._frozen[0]
            self._load.begin_commit(len(batch.rows))
            try:
                accepted = self._sender.send(batch) if batch.rows else set()
                refused = self._sender.explain_refusals(batch, batch.runs - accepted)
            except Parking as parking:
                if PROCESS.hurried:
                    self._give_up(parking)
                raise  # otherwise only this waiter gives up
            except Exception as error:
                self._sender.close()
                parts = self._split_by_run(batch, entries, error)
            else:
                parts = []
                self._load.end_commit()
                self._report(entries, accepted, refused)
            with self._guard:
                self._frozen[:1] = parts
        return found

    def _split_by_run(
        self, batch: Batch, entries: list[_Entry], error: Exception
    ) -> list[tuple[Batch, list[_Entry]]]:
        """Split a batch that the database rejected into one batch a run, so that one bad row fails
        one run only.

        The parts keep the nonce: an earlier sending, whose answer was lost, may have been accepted.
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
        """Inform the waiters of a batch whether their events were committed."""
        for entry in entries:
            lost = entry.tail.lost
            stored = entry.tail.run_id in accepted or (not entry.rows and not lost)
            # An entry is finished already if Ctrl-C interrupted this loop in an earlier flush.
            if stored or entry.done.finished:
                entry.done.finish()
            else:
                self._refuse(entry, lost or refused[entry.tail.run_id])

    def _refuse(self, entry: _Entry, error: BaseException) -> None:
        """Fail an entry whose run has another owner, and keep its answers aside."""
        # Not if the server lost the end of the journal: the run, which knows every event, writes
        # them again.
        for row in () if isinstance(error, JournalLost) else entry.rows:
            try:
                self._late(row)
            except Exception:
                logger.exception("an answer that came too late could not be kept")
        entry.fail(error)

    # -- ending ------------------------------------------------------------------------------

    def _fail_pending(self, error: BaseException) -> list[_Entry]:
        """Fail all entries that will not be sent any more, and return them."""
        with self._guard:
            pending = [entry for _, entries in self._frozen for entry in entries] + self._queue
            self._frozen, self._queue = [], []
            self._load.replace_rows([])
        for entry in pending:
            entry.fail(error)
        return pending

    def _give_up(self, parking: Parking) -> None:
        """Fail all pending entries because the process ends during an outage; log what is lost."""
        lost: dict[str, int] = {}
        for entry in self._fail_pending(parking):
            run = repr(entry.tail.key) if entry.tail.key else str(entry.tail.run_id)
            lost[run] = lost.get(run, 0) + len(entry.rows)
        for run, events in lost.items():
            if events:
                logger.error(
                    "run %s: its last %s could not be written, as the database is away. Executed "
                    "again, it goes on from the events before",
                    *(run, "event" if events == 1 else f"{events} events"),
                )

    def close(self) -> None:
        """Flush the pending events, end the thread and close the connection.

        If the process is about to end and the database is away, the pending events are given up,
        and the log names their runs.
        """
        with self._guard:
            self._closed = True
        self._bell.put(None)
        if not PROCESS.join(self._thread):  # the thread may be connecting, which fails slowly
            self._give_up(Parking("the process has ended"))
        self._sender.close()
