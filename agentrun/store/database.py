"""One Postgres database as this process uses it: writer, heart, reads, claims.

Threads and connections are started when first needed, so that reading a transcript starts neither.
`store/opening.py` opens one and keeps the process's default.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import psycopg

from agentrun.core import points
from agentrun.core.budget import Budget
from agentrun.core.codec import Codec, decode, encode, plain
from agentrun.core.errors import ConfigError, LeaseLost, StoreError, StoreUnavailable
from agentrun.core.events import Event, Json
from agentrun.core.sharing import Shared
from agentrun.core.state import SAFEGUARD, status_after
from agentrun.store.arrays import UUIDS
from agentrun.store.blobs import Blobs, fetch
from agentrun.store.connection import RETRY_AT_ONCE, DeadlineConnection, is_transient
from agentrun.store.connection import connect as open_connection
from agentrun.store.journal import Tail, Writer
from agentrun.store.keys import checked, run_id_of
from agentrun.store.late import keep_late
from agentrun.store.limits import Limits
from agentrun.store.liveness import LEASE, Heart, Life, find_dead, life_of
from agentrun.store.load import Load
from agentrun.store.partials import Partials
from agentrun.store.retention import not_found, refuse_pruned
from agentrun.store.rows import Reader, Row, payload_columns
from agentrun.store.sending import Batch, Sender, patiently, wait_for
from agentrun.store.sql import QUERIES

T = TypeVar("T")

_WHOLE = 1 << 30  # bytes; a letter is stored in one piece, whatever its size
_IDLE = 4  # connections kept open for reads


class Database:
    """A connection to agentrun's tables; also a context manager whose `close()` drains."""

    def __init__(self, dsn: str, *, lease: float = LEASE, blobs: Blobs | None = None) -> None:
        self.dsn = dsn
        self.lease = lease
        self.blobs = blobs  # where large values go; None: they stay in the database
        self._pid = os.getpid()
        self._idle: list[DeadlineConnection] = []
        self._guard = threading.Lock()
        self._claiming = threading.Lock()
        self.reserving = threading.Lock()  # one transaction at a time: they wait for each other
        # Runs executing in this process; the runner enters and leaves them.
        self.active: dict[UUID, Any] = {}
        self.served: Counter[str] = Counter()  # by agent, the workers of this process
        self._left = threading.Condition(self._guard)
        self._closed = False
        self._writer: Writer | None = None
        self.load = Load()  # of the writer
        self.limits = Limits(self)
        self.partials = Partials(self)

    # -- parts, started when first needed -----------------------------------------------------

    @property
    def writer(self) -> Writer:
        """The process's one journal writer."""
        if self._writer is None:
            with self._guard:  # a second writer would commit the events of one run out of order
                late = partial(keep_late, self)
                self._writer = self._writer or Writer(self.dsn, late, self.blobs, self.load)
        return self._writer

    @property
    def heart(self) -> Heart:
        """This process as a worker; a new incarnation if the last one was declared dead."""
        with self._claiming:
            return self._beating()

    def heart_of(self, worker: str) -> Heart:
        """The heart of this process as that worker. Raises LeaseLost if it is another by now."""
        heart: Heart | None = getattr(self, "_heart", None)
        if heart is None or heart.worker != worker:
            raise LeaseLost(f"worker {worker} was declared dead; its runs have new owners")
        return heart

    def _beating(self) -> Heart:
        if self._closed:
            raise StoreError("the database was closed in this process")
        heart: Heart | None = getattr(self, "_heart", None)
        if heart is None and self.blobs is not None:
            self.blobs.prove()  # before it has a run
        if heart is None or heart.dead:
            heart = self._heart = self._patiently(
                lambda: Heart(self.dsn, self.lease, self._after_beat, self.load.told)
            )
            self.limits.load()
        return heart

    def _after_beat(self, conn: psycopg.Connection[Any]) -> None:
        self._stop_what_is_to_stop(conn)
        self.limits.refresh(conn)

    def obey_cancellations(self) -> None:
        """Stop the runs of this process that somebody cancelled."""

        def look() -> None:
            with self.connection() as conn:
                self._stop_what_is_to_stop(conn)

        self._patiently(look)

    def _stop_what_is_to_stop(self, conn: psycopg.Connection[Any]) -> None:
        """Stop runs of this process that expired, or that somebody cancelled."""
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

    # -- statements ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connection(self) -> Iterator[DeadlineConnection]:
        """Borrow an autocommit connection; a broken one is thrown away."""
        if os.getpid() != self._pid:
            raise ConfigError(
                "this Database belongs to the parent of a forked process; "
                "call agentrun.connect() again in the child"
            )
        with self._guard:
            conn = self._idle.pop() if self._idle else None
        if conn is None or conn.closed:
            conn = open_connection(self.dsn)
        try:
            yield conn
        finally:
            usable = not conn.closed and conn.info.transaction_status == 0
            with self._guard:
                keep = usable and len(self._idle) < _IDLE and not self._closed
                if keep:
                    self._idle.append(conn)
            if not keep:
                conn.close()

    def query(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a named statement; waits, and says so, while the database is away."""

        def run() -> list[dict[str, Any]]:
            with self.connection() as conn:
                if name not in points.COMMITS:
                    return _rows(conn.execute(QUERIES[name], parameters))
                points.reach(name, "before")
                rows = _rows(conn.execute(QUERIES[name], parameters))
                points.reach(name, "after")
                return rows

        return self._patiently(run)

    def _patiently(self, action: Callable[[], T]) -> T:
        for attempt in patiently():
            try:
                return action()
            except psycopg.Error as error:
                if not is_transient(error) or self._closed:
                    raise
                if not isinstance(error, RETRY_AT_ONCE):
                    wait_for("database", error, attempt)
        raise AssertionError("unreachable: patience has no end")

    # -- runs -------------------------------------------------------------------------------------

    def find(self, key: str) -> dict[str, Any]:
        """The row of a run. Raises RunNotFound, naming what is near, or that it was pruned."""
        if rows := self.query("run", key=checked(key)):
            return rows[0]
        raise not_found(self.query, key)

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
        """Create the run if no run has its key; return whether it was created here."""
        encoded, run_id, nonce = encode(given, at="arguments"), run_id_of(key), uuid4()
        payloads = [encoded.payload] if encoded.payload else []
        if self.blobs is not None and payloads:
            if self.query("run", key=checked(key)):
                return False  # what was put again would be nobody's
            payloads = [self.blobs.keep(p, run_id, f"0-{nonce.hex}") for p in payloads]
        row = self.query(
            "create",
            run_id=run_id,
            key=checked(key),
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
            input=encoded.text,
            **payload_columns(payloads),
        )
        return bool(row)

    def events(self, run_id: UUID) -> tuple[list[Event], Shared]:
        """The decoded journal of a run, and the table of texts later requests may refer to."""
        reader = Reader(partial(self.payload, run_id))
        rows = self.query("events", run_id=run_id, after=0)
        if not rows:
            refuse_pruned(self.query, run_id=run_id)
        return [reader.event(row) for row in rows], reader.shared

    def payload(self, run_id: UUID, digest: str) -> bytes:
        """The compressed bytes of a large value, by its digest.

        Raises StoreUnavailable if they are not to be had here, RunPruned if they are gone.
        """
        if not (rows := self.query("payload", run_id=run_id, digest=digest)):
            refuse_pruned(self.query, run_id=run_id)
            raise StoreUnavailable(f"payload {digest} of run {run_id} is not in the database")
        (row,) = rows
        try:
            return bytes(row["zstd"]) if row["blob"] is None else fetch(self.blobs, run_id, row)
        except StoreUnavailable:
            refuse_pruned(self.query, run_id=run_id)
            raise

    # -- ownership --------------------------------------------------------------------------------

    def owner_of(self, run: dict[str, Any]) -> tuple[bool, Life | None]:
        """Whether a live worker executes ``run``, and what is known of its last owner."""
        owner = run["owner"]
        if run["status"] != "running" or owner is None:
            return False, None
        if self.heart.worker == owner:  # registered: leases of others may count from then on
            return run["run_id"] in self.active, None

        def look() -> Life | None:
            with self.connection() as conn:
                return find_dead(conn, owner)

        dead = self._patiently(look)
        return dead is None, dead

    def claim(self, run: dict[str, Any], reason: str) -> tuple[Tail, list[Event]] | None:
        """Take a run that nobody alive owns: one event, by compare-and-swap on the journal's end.

        Returns its tail and its journal including the claim; None if somebody else was faster.
        """
        run_id: UUID = run["run_id"]
        events, shared = self.events(run_id)
        last = events[-1]
        if (last.epoch, _status(events)) != (run["epoch"], run["status"]):
            return None  # it went on since the caller looked: its owner, if any, is another
        with self._claiming:
            worker = self._beating().worker
            claimed = Event(event="claimed", reason=reason)
            tail = Tail(run_id, last.epoch + 1, worker, last.seq, shared)
            batch = Batch(tail.take([claimed]))
            try:
                accepted = run_id in self._claims.send(batch)
            except KeyboardInterrupt:
                if self._claims.settled(batch):
                    self.hand_back(tail)
                raise
            if not accepted:
                return None
        head = Event(
            event="claimed",
            reason=reason,
            run_id=run_id,
            seq=tail.seq,
            epoch=tail.epoch,
            worker=worker,
        )
        return tail, [*events, head]

    def hold(
        self,
        run: dict[str, Any],
        reason: str,
        *,
        again: Sequence[Event] = (),
        seen: tuple[int, Shared] | None = None,
    ) -> bool:
        """Take a run and park it for a person, whatever its journal holds; False as in `claim`.

        ``again`` is written before the park, in the one commit; then ``seen`` says how far the
        caller has read the journal, and the texts that it has so far.
        """
        run_id: UUID = run["run_id"]
        gone: dict[str, Any] = {"epoch": None, "seq": 0}  # it was pruned
        last = next(iter(self.query("tail", run_id=run_id)), gone)
        seq, shared = seen or (last["seq"], Shared())
        if (last["epoch"], last["seq"]) != (run["epoch"], seq):
            return False
        with self._claiming:
            tail = Tail(run_id, run["epoch"] + 1, self._beating().worker, seq, shared)
            claimed = Event(event="claimed", reason=reason)
            parked = Event(event="parked", status="held", by=SAFEGUARD, reason=reason)
            batch = Batch(tail.take([claimed, *again, parked]))
            return run_id in self._claims.send(batch)

    def hand_back(self, tail: Tail) -> None:
        """Let go of a claimed run that nobody executes: somebody waited for it no longer."""
        self.writer.append(tail, [Event(event="handed_back", reason="interrupted at its claim")])

    def fill(self, row: Row) -> bool:
        """Append one row at a seq that somebody may hold; False: the seq is taken."""
        with self._claiming:
            return row.run_id in self._claims.send(Batch([row]))

    def refusal(self, batch: Batch) -> LeaseLost:
        """Why a batch of one run was refused."""
        with self._claiming:
            return next(iter(self._claims.refusals(batch, batch.runs).values()))

    def settled(self, batch: Batch) -> bool:
        """Whether this very batch of one run is in the journal."""
        with self._claiming:
            return bool(self._patiently(lambda: self._claims.settled(batch)))

    def settled_in(self, worker: str) -> float:
        """Seconds until nothing that ``worker`` began can still be sent."""
        heart: Heart | None = getattr(self, "_heart", None)
        if heart is not None and heart.worker == worker:
            return 0.0

        def look() -> Life | None:
            with self.connection() as conn:
                return life_of(conn, worker)

        life = self._patiently(look)
        return 0.0 if life is None else life.settled_in

    # -- mail -----------------------------------------------------------------------------------

    def send_mail(
        self,
        key: str,
        kind: str,
        *,
        step: int | None,
        by: str | None,
        reason: str | None,
        payload: Json,
        mail_id: UUID | None = None,
    ) -> UUID:
        """Tell a run something; its owner journals it. The id, chosen here, makes it once."""
        mail_id = mail_id or uuid4()
        encoded = encode(payload, at="payload", limit=_WHOLE)
        try:
            self.query(
                "send_mail",
                key=checked(key),
                id=mail_id,
                kind=kind,
                step=step,
                by=None if by is None else plain(by),
                reason=None if reason is None else plain(reason),
                codec=int(encoded.as_output()),
                payload=encoded.text,
            )
        except psycopg.errors.NoDataFound:
            raise not_found(self.query, key) from None
        return mail_id

    def mail(self, run_id: UUID) -> list[dict[str, Any]]:
        """What a run was told, oldest first, decoded."""
        rows = self.query("mail", run_id=run_id)
        for row in rows:
            row["payload"] = decode(row["payload"], Codec.OUTPUT_ESCAPED in Codec(row["codec"]))
        return rows

    def wake(self, run_id: UUID, looks: list[set[str]]) -> None:
        """Make a parked run due if mail came since its waiting steps looked, or a cancellation.

        ``looks`` holds, for each step that looked, the ids of the letters that were there.
        """
        seen = UUIDS([UUID(letter) for letter in set.intersection(*looks)] if looks else [])
        self.query("wake", run_id=run_id, looked=bool(looks), seen=seen)

    def has_news(self, run: dict[str, Any]) -> bool:
        """Whether a run in doubt was told something that it has not journaled yet."""
        rows = self.query("news", run_id=run["run_id"], step=run["open_doubt"])
        return bool(rows)

    def doubts(self, run_id: UUID) -> list[int]:
        """The steps that a parked run is in doubt about."""
        return [row["step"] for row in self.query("doubts", run_id=run_id)]

    # -- entering, leaving, closing ------------------------------------------------------------

    def enter(self, run_id: UUID, run: Any) -> bool:
        """Note that ``run`` executes in this process; False: an earlier claim of it still does."""
        with self._guard:
            return self.active.setdefault(run_id, run) is run

    def leave(self, run_id: UUID) -> None:
        with self._left:
            self.active.pop(run_id, None)
            self._left.notify_all()

    def close(self, *, timeout: float = 30.0) -> None:
        """Drain: steps in flight finish, runs are handed back, connections are closed.

        ``timeout`` is in seconds; runs still executing after it lose their lease in time.
        """
        if self._closed or os.getpid() != self._pid:
            return
        with self._left:
            for run in self.active.values():
                run.drain()
            self._left.wait_for(lambda: not self.active, timeout)
            settled = not self.active
            idle, self._idle, self._closed = self._idle, [], True
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
            heart.stop(settled=settled)
        for conn in idle:
            conn.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __del__(self) -> None:
        # A forked child has a copy: closing that would end the sessions of its parent.
        if os.getpid() == getattr(self, "_pid", None):
            for conn in self._idle:
                conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _rows(cursor: psycopg.Cursor[Any]) -> list[dict[str, Any]]:
    told = cursor.pgresult  # its `description` would be made anew for each look
    return cursor.fetchall() if told is not None and told.nfields else []


def _status(events: list[Event]) -> str:
    """What `runs` says of a run with this journal."""
    return next(status for event in reversed(events) if (status := status_after(event)))
