"""A `transaction` tool commits together with its checkpoint: exactly once.

The problem. A tool writes to the user's tables and the run writes its journal. If these were two
commits, a crash between them would lose one, and a resume would repeat or skip the work.

The rule. The body runs in a transaction on a connection to the database that holds the journal. The
step's outcome, the checkpoint, is the last statement of the same transaction, so one COMMIT decides
about both:

* While the body runs, no seq of the journal is reserved for it: other steps of the run go on.
* At its end the writer makes all earlier events durable, and holds later events of the run back.
* The checkpoint is appended on the tool's connection at the next seq, and COMMIT is sent.

A serialization failure, a deadlock, a connection that is lost in the body, or a full disk rolls
everything back. The body is then run again as a whole.

If the answer to COMMIT is lost, a query cannot tell whether the commit happened: the row may be
absent because the commit is still on its way. So `attempt_failed` is appended at the same seq,
which only one row can have. If this append succeeds, the commit did not happen and never will. If
it is refused, the seq is taken: by the checkpoint, so the commit happened, or by another worker, so
the run is lost.

A checkpoint that is refused is resolved in the same way. Above READ COMMITTED a refusal does not
show that the run is lost: the snapshot of the body may be older than the run's last event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from random import random
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors

from agentrun.core import points
from agentrun.core.errors import LeaseLost, StoreError, StoreLost, ToolFailed
from agentrun.core.events import Event
from agentrun.core.flow import Flow, Op, pause, run_async, run_sync
from agentrun.core.log import logger, should_log_again
from agentrun.core.pauses import Backoff
from agentrun.steps.blocking import blocking
from agentrun.steps.execution_point import at_point
from agentrun.steps.run_context import RunContext
from agentrun.steps.step import ActiveStep
from agentrun.store.commit_waiters import PendingCommit
from agentrun.store.connection import (
    RETRY_AT_ONCE,
    is_lost,
    is_short,
    open_transaction,
    open_transaction_async,
)
from agentrun.store.rows import to_row
from agentrun.store.sending import Batch, append, append_async, limit_commit
from agentrun.values import exceptions
from agentrun.values.typed_values import outcome_of

if TYPE_CHECKING:
    from agentrun.steps.function_step import StepBody


T = TypeVar("T")

_RERUNS = 10  # at least so many reruns of a body whose transaction the database ended
_COMMIT_POLL = 0.002  # seconds between checks whether another tool of the run has committed
_BACKOFF = Backoff(0.5, 30.0)  # after the tool failed, or the database was short of something
_RERUN_BACKOFF = Backoff(0.02, 5.0)  # after the database ended the transaction
_CONNECT_BACKOFF = Backoff(0.05, 1.0)


def attempt(step: ActiveStep, invoke: Callable[[Any], Op[Any]], body: StepBody) -> Flow[None]:
    """Make one attempt: body, checkpoint and COMMIT on one connection."""
    step.run.check(step.scope)
    step.attempts += 1
    step.started_at = step.run.heart.now()
    conn = yield from _open_connection(step)
    try:
        yield from step.run.fence()
        try:
            conn.lent = True
            value = yield invoke(conn)
            conn.lent = False
        except asyncio.CancelledError as error:
            if step.was_cancelled():
                raise
            yield _on_connection(conn.close)
            step.fail(error)
        except Exception as error:
            again = _decide_rerun(step, conn, error, body)
            yield _on_connection(conn.close)  # its locks are released before the wait
            yield from _record_failure(step, error, again)
        else:
            retry_in = yield _run_to_end(_commit(step, conn, value, body))
            if step.outcome is None:
                yield pause(retry_in)
    finally:
        yield _on_connection(conn.close)


def _open_connection(step: ActiveStep) -> Flow[Any]:
    """Open a connection for the body. Waits, with a warning, while the database is away."""
    dsn = step.run.database.tools_dsn
    began = time.monotonic()
    for attempt in count():
        try:
            opened = partial(open_transaction, dsn), partial(open_transaction_async, dsn)
            return (yield _on_connection(*opened))
        except psycopg.OperationalError as error:
            if should_log_again(attempt):
                logger.warning("waiting for the database: %s", str(error).strip())
        step.run.patience.check(began)
        yield pause(_CONNECT_BACKOFF.pause_after(attempt, random()))
        step.run.check(step.scope)


@dataclass(frozen=True)
class _Rerun:
    """Another attempt follows. ``status`` is set if the database ended this one, not the tool."""

    retry_in: float  # seconds
    status: str | None = None


def _record_failure(step: ActiveStep, error: Exception, again: _Rerun | None) -> Flow[None]:
    """Record that the body failed, and wait for the next attempt if one follows.

    Nothing was committed.
    """
    if again is None:
        step.fail(error)
        return
    failed = step.run.append(_failed_event(step, error, again, exceptions.summary(error)))
    # The snapshot of the next attempt may have to contain this event.
    yield step.run.durable(failed)
    yield pause(again.retry_in)


def _failed_event(step: ActiveStep, error: BaseException, again: _Rerun, reason: str) -> Event:
    """The `attempt_failed` event, with its status: see `_Rerun`."""
    event = step.failed_event(exceptions.describe(error, trace=True), again.retry_in, reason)
    return replace(event, status=again.status)


def _decide_rerun(
    step: ActiveStep, conn: Any, error: BaseException, body: StepBody
) -> _Rerun | None:
    """Decide whether another attempt follows. None: there is none, and the error is the outcome."""
    known = step.run.history.steps.get(step.ident)
    failed, reruns = (known.failures, known.reruns) if known else (0, 0)
    if is_short(error):  # a shortage of the database is waited for without limit, as elsewhere
        logger.warning("waiting for the database: %s", str(error).strip())
        return _Rerun(_BACKOFF.pause_after(reruns, random()), "rolled_back")
    if isinstance(error, RETRY_AT_ONCE) or is_lost(conn, error):
        more = reruns < max(body.retries, _RERUNS)
        retry_in = _RERUN_BACKOFF.pause_after(reruns, random())
        return _Rerun(retry_in, "rolled_back") if more else None
    if isinstance(error, ToolFailed) or failed >= body.retries:
        return None
    return _Rerun(_BACKOFF.pause_after(failed, random()))


def _commit(step: ActiveStep, conn: Any, value: Any, body: StepBody) -> Flow[float]:
    """Append the checkpoint and COMMIT. Returns the pause before the next attempt, if one follows.

    A seq that was reserved is always used: after a gap no event could ever be appended.
    """
    run, writer = step.run, step.run.database.writer
    step.check_finished(value)
    status, output = outcome_of(step.request.name, value, body.result)
    outcome = step.outcome_event(status, output)
    reserved: tuple[int, list[PendingCommit]] | None = None
    try:
        while (reserved := _reserve(run)) is None:
            yield pause(_COMMIT_POLL)
        batch = _checkpoint(run, outcome, reserved[0])
        try:
            for done in reserved[1]:
                yield run.durable(done)
            yield from _send_checkpoint(run, conn, batch)
        except (LeaseLost, StoreLost, StoreError, GeneratorExit):
            raise
        except BaseException as error:
            return (yield from _find_commit_outcome(step, conn, batch, reserved[1], error, body))
        step.adopt_committed_event(outcome, reserved[0])
        return 0.0
    finally:
        if reserved is not None:
            writer.unpause(run.tail)


def _reserve(run: RunContext) -> tuple[int, list[PendingCommit]] | None:
    """The checkpoint's seq, and what must be durable before it; None while another tool commits."""
    with run.lock:
        taken = run.tail.reserved is not None
        return None if taken else run.database.writer.reserve(run.tail)


def _checkpoint(run: RunContext, event: Event, seq: int) -> Batch:
    """A batch with one event, to be appended at ``seq``."""
    tail = run.tail
    row = to_row(event, tail.run_id, seq, tail.epoch, tail.worker, tail.shared, mask=tail.mask)
    return Batch([row])


def _send_checkpoint(run: RunContext, conn: Any, batch: Batch) -> Flow[None]:
    """Send the checkpoint as the connection's last statement, then COMMIT."""
    yield _on_connection(partial(limit_commit, conn))
    points.reach("checkpoint", "before")
    accepted = yield _on_connection(
        partial(append, conn, batch), partial(append_async, conn, batch)
    )
    points.reach("checkpoint", "after")
    if run.run_id not in accepted:
        raise errors.SerializationFailure("the run's last event is newer than the body's snapshot")
    points.reach("commit", "before")
    yield _on_connection(conn.commit)
    points.reach("commit", "after")


def _find_commit_outcome(
    step: ActiveStep,
    conn: Any,
    batch: Batch,
    before: list[PendingCommit],
    error: BaseException,
    body: StepBody,
) -> Flow[float]:
    """Find out whether an unanswered COMMIT happened, by appending another row at its seq.

    The same serves for a COMMIT or a checkpoint that was refused. If the row is accepted, the
    commit did not happen and never will. If it is refused, the checkpoint is there, or the run is
    lost. Returns the pause before the next attempt.
    """
    run, seq = step.run, batch.rows[0].seq
    again: _Rerun | None = _Rerun(0.0)
    if isinstance(error, psycopg.Error):
        again = _decide_rerun(step, conn, error, body)
    if again is None:
        filler = step.outcome_event("error", {"error": exceptions.describe(error, trace=True)})
    else:
        filler = _failed_event(step, error, again, f"the commit failed: {error}".strip())
    # Ends the transaction, which may hold the seq by its uncommitted row.
    yield _on_connection(conn.close)
    for done in before:
        yield run.durable(done)
    filled: bool = yield blocking(lambda: run.database.fill(_checkpoint(run, filler, seq).rows[0]))
    if filled:
        step.adopt_committed_event(filler, seq)
    elif (yield blocking(lambda: run.database.is_stored(batch))):
        step.adopt_committed_event(batch.rows[0].event, seq)
    else:
        raise (yield from _refusal_error(run, batch))
    if not isinstance(error, psycopg.Error):
        raise error
    step.failure = error
    return again.retry_in if again is not None else 0.0


def _refusal_error(run: RunContext, batch: Batch) -> Flow[BaseException]:
    """The interrupt that tells why the run was lost.

    The seq stays empty, so later events of the run's other steps are lost, too.
    """
    error = yield blocking(partial(run.database.refusal, batch))
    with run.lock:
        run.tail.lost = run.tail.lost or error
    return run.stop(error)


def _on_connection(sync: Callable[[], Any], asyn: Callable[[], Any] | None = None) -> Op[Any]:
    """A call on the tool's connection. Tasks and threads that it starts belong to no run."""

    async def awaited() -> Any:
        with at_point(None):
            return await (asyn or sync)()

    return Op(sync, awaited)


def _run_to_end(flow: Flow[T]) -> Op[T]:
    """Drive ``flow`` to its end even if the waiting task is cancelled; then raise that."""

    async def shielded() -> T:
        with at_point(None):
            work = asyncio.ensure_future(run_async(flow))
        cancelled: asyncio.CancelledError | None = None
        while not work.done():
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError as error:
                cancelled = error
            except BaseException:
                break
        if cancelled is not None and not work.cancelled():
            work.exception()  # marks the error as retrieved; the cancellation takes precedence
            raise cancelled
        return work.result()

    return Op(lambda: run_sync(flow), shielded)
