"""Answers that came when their worker had lost the run: kept aside, for the next owner to adopt."""

from __future__ import annotations

import threading
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from agentrun.core.codec import Codec, decode
from agentrun.core.events import Event
from agentrun.store.rows import Row, payload_columns, usage_columns, usage_in

if TYPE_CHECKING:
    from agentrun.store.database import Database

__all__ = ["keep_late", "late_result"]


def late_result(database: Database, run_id: UUID, step: int, attempt: int) -> Event | None:
    """The answer to an attempt up to this one that arrived after its worker had lost the run.

    As the outcome that it would have been.
    """
    rows = database.query("late", run_id=run_id, step=step, attempt=attempt)
    if not rows:
        return None
    row = rows[0]
    flags = Codec(row["codec"])
    fetch = partial(database.payload, run_id) if Codec.OUTPUT_PAYLOAD in flags else None
    return Event(
        event="step_finished",
        run_id=run_id,
        step=step,
        attempt=row["attempt"],
        worker=row["worker"],
        status=row["status"],
        model=row["model"],
        usage=usage_in(row),
        output=decode(row["output"], Codec.OUTPUT_ESCAPED in flags, fetch),
        has_output=True,
    )


def keep_late(database: Database, row: Row) -> None:
    """Keep the answer in a row that was refused, if a later attempt could adopt it.

    Whatever its size, in the database: what it put outside is nobody's, as its claim is over.
    """
    event = row.event
    if event.event != "step_finished" or event.effect == "read" or event.step is None:
        return
    parameters = dict(
        run_id=row.run_id,
        step=event.step,
        attempt=event.attempt or 1,
        worker=row.worker,
        status=event.status or "ok",
        model=event.model,
        codec=row.codec,
        output=row.output,
        **usage_columns(event.usage),
        **payload_columns([replace(payload, blob=None) for payload in row.payloads]),
    )
    # The flushing thread must not wait for this; the answer is extra, not owed.
    thread = threading.Thread(
        target=database.query,
        args=("keep_late",),
        kwargs=parameters,
        daemon=True,
        name="agentrun-late",
    )
    Context().run(thread.start)  # it belongs to no run
