"""A `transaction` tool commits together with its checkpoint: exactly once.

While the body runs on its connection no seq is taken. At its end the writer makes everything
earlier durable and holds later events of the run back; the checkpoint is the connection's last
statement, and one COMMIT decides about both. A serialization failure reruns the body whole. If the
answer to COMMIT is lost, `attempt_failed` is appended at the same seq: success proves that the
commit did not happen, refusal that it did (or that the run was lost).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from agentrun.core.errors import LeaseLost, ToolFailed
from agentrun.core.events import Event
from agentrun.core.flow import Flow, Op
from agentrun.runner import failures
from agentrun.runner.context import blocking
from agentrun.runner.step import Step
from agentrun.runner.waiting import pause
from agentrun.store.connection import RETRY_AT_ONCE, open_transaction, open_transaction_async
from agentrun.store.journal import Batch, append, append_async
from agentrun.store.rows import to_row

if TYPE_CHECKING:
    from agentrun.runner.perform import Body


def attempt(step: Step, invoke: Callable[[Any], Op[Any]], body: Body) -> Flow[None]:
    """One attempt: body, checkpoint and COMMIT on one connection."""
    step.run.check(step.scope)
    step.attempts += 1
    step.started_at = datetime.now(UTC)
    step.run.heart.fence()
    dsn = step.run.database.dsn
    conn = yield Op(lambda: open_transaction(dsn), lambda: open_transaction_async(dsn))
    try:
        try:
            conn.lent = True
            value = yield invoke(conn)
            conn.lent = False
        except RETRY_AT_ONCE as error:
            yield from _again(step, body, error, rerun=True)
            return
        except Exception as error:
            yield from _again(step, body, error, rerun=False)
            return
        yield from _commit(step, conn, value, body)
    finally:
        yield Op(conn.close, conn.close)


def _again(step: Step, body: Body, error: Exception, *, rerun: bool) -> Flow[None]:
    """The body failed, so nothing was committed: rerun it, retry it, or that is the outcome."""
    known = step.run.history.steps.get(step.ident)
    failed = known.failures if known else 0
    limit = max(body.retries, 10) if rerun else body.retries
    if failed >= limit or isinstance(error, ToolFailed):
        step.finish("error", {"error": failures.describe(error)})
        raise error
    retry_in = min(5.0, 0.02 * 2**failed) if rerun else min(30.0, 0.5 * 2**failed)
    step.failed(failures.describe(error), retry_in, f"{type(error).__name__}: {error}")
    yield pause(retry_in)


def _commit(step: Step, conn: Any, value: Any, body: Body) -> Flow[None]:
    from agentrun.runner.perform import outcome_of

    run, tail = step.run, step.run.tail
    status, output = outcome_of(step, value, body.result)
    outcome = step.outcome_event(status, output)
    seq: int = yield blocking(lambda: _reserve(step))
    batch = Batch([to_row(outcome, tail.run_id, seq, tail.epoch, tail.worker, tail.shared)])
    try:
        accepted = yield Op(lambda: append(conn, batch), lambda: append_async(conn, batch))
        if tail.run_id not in accepted:
            raise run.stop(LeaseLost(f"the run was taken over from {tail.worker}"))
        yield Op(conn.commit, conn.commit)
    except (LeaseLost, GeneratorExit):
        raise
    except BaseException as error:
        # First let go of the row that may lie uncommitted at this seq.
        yield Op(conn.close, conn.close)
        committed = yield blocking(partial(_committed, step, seq, batch, error))
        if not isinstance(error, psycopg.Error):
            raise
        if not committed:
            return  # another attempt follows
    finally:
        run.database.writer.unpause(tail)
    with run.lock:
        run.history.apply(outcome)
    step.outcome = outcome


def _reserve(step: Step) -> int:
    """The seq of the checkpoint, once everything before it is durable."""
    writer = step.run.database.writer
    with step.run.lock:
        seq, pending = writer.reserve(step.run.tail)
    try:
        for done in pending:
            writer.wait(done)
    except BaseException:
        writer.unpause(step.run.tail)
        raise
    return seq


def _committed(step: Step, seq: int, batch: Batch, error: BaseException) -> bool:
    """Whether the checkpoint is in: settled by filling its seq with `attempt_failed`."""
    run, tail = step.run, step.run.tail
    filler: Event = step.failed_event(failures.describe(error), 0.0, "the commit failed")
    row = to_row(filler, tail.run_id, seq, tail.epoch, tail.worker, tail.shared)
    if run.database.fill(row):
        with run.lock:
            run.history.apply(filler)
        return False
    if run.database.settled(batch):
        return True
    raise run.stop(LeaseLost(f"the run was taken over from {tail.worker}"))
