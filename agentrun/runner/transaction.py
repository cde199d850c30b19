"""A `transaction` tool commits together with its checkpoint: exactly once.

While the body runs on its connection no seq is taken. At its end the writer makes everything
earlier durable and holds later events of the run back; the checkpoint is the connection's last
statement, and one COMMIT decides about both. A serialization failure, a connection lost in the body
or a full disk reruns the body whole. If the answer to COMMIT is lost, `attempt_failed` is appended
at the same seq: success proves that the commit did not happen, refusal that it did (or that the run
was lost). A checkpoint that is refused is settled the same way: above READ COMMITTED the run may be
ours all the same, as the body's snapshot does not show what the run has recorded since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors

from agentrun.core import points
from agentrun.core.errors import LeaseLost, StoreError, ToolFailed
from agentrun.core.events import Event
from agentrun.core.flow import Flow, Op, run_async, run_sync
from agentrun.core.log import logger, now_and_then
from agentrun.runner import failures
from agentrun.runner.context import RunContext, blocking, on_line
from agentrun.runner.step import Step
from agentrun.runner.values import outcome_of
from agentrun.runner.waiting import pause
from agentrun.store.connection import (
    RETRY_AT_ONCE,
    is_lost,
    is_short,
    open_transaction,
    open_transaction_async,
)
from agentrun.store.durable import Durable
from agentrun.store.rows import to_row
from agentrun.store.sending import Batch, append, append_async
from agentrun.store.sql import QUERIES

if TYPE_CHECKING:
    from agentrun.runner.perform import Body


T = TypeVar("T")

_RERUNS = 10  # of a body whose transaction the database ended, at least
_TURN = 0.002  # seconds between looks whether another tool of the run has committed


def attempt(step: Step, invoke: Callable[[Any], Op[Any]], body: Body) -> Flow[None]:
    """One attempt: body, checkpoint and COMMIT on one connection."""
    step.run.check(step.scope)
    step.attempts += 1
    step.started_at = step.run.heart.now()
    conn = yield from _opened(step)
    try:
        yield from step.run.fence()
        try:
            conn.lent = True
            value = yield invoke(conn)
            conn.lent = False
        except Exception as error:
            again = _again(step, conn, error, body)
            yield _apart(conn.close)  # its locks go before we wait
            yield from _failed(step, error, again)
        else:
            retry_in = yield _to_the_end(_commit(step, conn, value, body))
            if step.outcome is None:
                yield pause(retry_in)
    finally:
        yield _apart(conn.close)


def _opened(step: Step) -> Flow[Any]:
    """A connection for the body; waits, and says so, while the database is away."""
    dsn, wait = step.run.database.dsn, 0.05
    for attempt in count():
        try:
            opened = partial(open_transaction, dsn), partial(open_transaction_async, dsn)
            return (yield _apart(*opened))
        except psycopg.OperationalError as error:
            if now_and_then(attempt):
                logger.warning("waiting for the database: %s", str(error).strip())
        yield pause(wait)
        wait = min(1.0, wait * 2)
        step.run.check(step.scope)


@dataclass(frozen=True)
class _Again:
    """Another attempt follows; ``status`` says so if the database ended this one, not the tool."""

    retry_in: float  # seconds
    status: str | None = None


def _failed(step: Step, error: Exception, again: _Again | None) -> Flow[None]:
    """The body failed, so nothing was committed: another attempt follows, or that is the end."""
    if again is None:
        step.finish("error", {"error": failures.describe(error)})
        raise error
    failed = step.run.append(_failed_event(step, error, again, failures.summary(error)))
    yield step.run.durable(failed)  # the next body's snapshot may have to show it
    yield pause(again.retry_in)


def _failed_event(step: Step, error: BaseException, again: _Again, reason: str) -> Event:
    event = step.failed_event(failures.describe(error), again.retry_in, reason)
    return replace(event, status=again.status)


def _again(step: Step, conn: Any, error: BaseException, body: Body) -> _Again | None:
    """Whether another attempt follows; None: there is none, the error is the outcome."""
    known = step.run.history.steps.get(step.ident)
    failed, reruns = (known.failures, known.reruns) if known else (0, 0)
    if is_short(error):  # there is no end to that patience, here as elsewhere
        logger.warning("waiting for the database: %s", str(error).strip())
        return _Again(min(30.0, 0.5 * 2.0 ** min(reruns, 10)), "rolled_back")
    if isinstance(error, RETRY_AT_ONCE) or is_lost(conn, error):
        more = reruns < max(body.retries, _RERUNS)
        return _Again(min(5.0, 0.02 * 2**reruns), "rolled_back") if more else None
    if isinstance(error, ToolFailed) or failed >= body.retries:
        return None
    return _Again(min(30.0, 0.5 * 2**failed))


def _commit(step: Step, conn: Any, value: Any, body: Body) -> Flow[float]:
    """Checkpoint and COMMIT; returns after how many seconds to try again, if there is no outcome.

    No seq is taken without being used: an event after the gap could never be appended.
    """
    run, writer = step.run, step.run.database.writer
    status, output = outcome_of(step.wanted.name, value, body.result.encode)
    outcome = step.outcome_event(status, output)
    reserved: tuple[int, list[Durable]] | None = None
    try:
        while (reserved := _reserve(run)) is None:
            yield pause(_TURN)
        batch = _checkpoint(run, outcome, reserved[0])
        try:
            for done in reserved[1]:
                yield run.durable(done)
            yield from _sent(run, conn, batch)
        except (LeaseLost, StoreError, GeneratorExit):
            raise
        except BaseException as error:
            return (yield from _lost(step, conn, batch, reserved[1], error, body))
        step.took(outcome, reserved[0])
        return 0.0
    finally:
        if reserved is not None:
            writer.unpause(run.tail)


def _reserve(run: RunContext) -> tuple[int, list[Durable]] | None:
    """The checkpoint's seq and what must be durable before it; None: another tool has its turn."""
    with run.lock:
        taken = run.tail.reserved is not None
        return None if taken else run.database.writer.reserve(run.tail)


def _checkpoint(run: RunContext, event: Event, seq: int) -> Batch:
    tail = run.tail
    return Batch([to_row(event, tail.run_id, seq, tail.epoch, tail.worker, tail.shared)])


def _sent(run: RunContext, conn: Any, batch: Batch) -> Flow[None]:
    """The checkpoint as the connection's last statement, and COMMIT."""
    soon = {"milliseconds": str(int(conn.deadline * 1000))}
    yield _apart(partial(conn.execute, QUERIES["settle_soon"], soon))
    points.reach("checkpoint", "before")
    accepted = yield _apart(partial(append, conn, batch), partial(append_async, conn, batch))
    points.reach("checkpoint", "after")
    if run.run_id not in accepted:
        raise errors.SerializationFailure("the run's last event is newer than the body's snapshot")
    points.reach("commit", "before")
    yield _apart(conn.commit)
    points.reach("commit", "after")


def _lost(
    step: Step,
    conn: Any,
    batch: Batch,
    before: list[Durable],
    error: BaseException,
    body: Body,
) -> Flow[float]:
    """The answer to COMMIT was lost, or it, or the checkpoint, was refused: settled by filling the
    seq.

    If the filler is in, the commit did not happen and never will; if not, it did.
    """
    run, seq = step.run, batch.rows[0].seq
    again: _Again | None = _Again(0.0)
    if isinstance(error, psycopg.Error):
        again = _again(step, conn, error, body)
    if again is None:
        filler = step.outcome_event("error", {"error": failures.describe(error)})
    else:
        filler = _failed_event(step, error, again, f"the commit failed: {error}".strip())
    yield _apart(conn.close)  # lets go of the row that may lie uncommitted at this seq
    for done in before:
        yield run.durable(done)
    filled: bool = yield blocking(lambda: run.database.fill(_checkpoint(run, filler, seq).rows[0]))
    if filled:
        step.took(filler, seq)
    elif (yield blocking(lambda: run.database.settled(batch))):
        step.took(batch.rows[0].event, seq)
    else:
        raise (yield from _refused(run, batch))
    if not isinstance(error, psycopg.Error) or (filled and again is None):
        raise error
    return again.retry_in if again is not None else 0.0


def _refused(run: RunContext, batch: Batch) -> Flow[BaseException]:
    """Why. The run is lost, and so is what its other steps append behind this seq: it is empty."""
    error = yield blocking(partial(run.database.refusal, batch))
    with run.lock:
        run.tail.lost = run.tail.lost or error
    return run.stop(error)


def _apart(sync: Callable[[], Any], asyn: Callable[[], Any] | None = None) -> Op[Any]:
    """A call on the tool's connection. The tasks and threads it starts are none of the run's."""

    async def awaited() -> Any:
        with on_line(None):
            return await (asyn or sync)()

    return Op(sync, awaited)


def _to_the_end(flow: Flow[T]) -> Op[T]:
    """Drive ``flow`` to its end even if the waiter is cancelled meanwhile; that is raised then."""

    async def shielded() -> T:
        with on_line(None):
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
            work.exception()  # seen; the cancellation goes first
            raise cancelled
        return work.result()

    return Op(lambda: run_sync(flow), shielded)
