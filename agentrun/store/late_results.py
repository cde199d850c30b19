"""Answers that arrived after their worker lost the run: kept aside, for the next owner to adopt.

The journal refuses the outcome, because the run has another owner. But the model call was paid, or
the tool has acted. The table `late_results` keeps the answer, so that the next owner can take it as
the outcome of that attempt instead of making a further one.
"""

from __future__ import annotations

import contextlib
import threading
from contextvars import Context
from dataclasses import replace
from functools import partial
from uuid import UUID

from agentrun.core.codec import Codec, decode, decode_exact
from agentrun.core.errors import Parking
from agentrun.core.events import Event
from agentrun.store.exact_values import exact_columns, late_parts, read_exact
from agentrun.store.rows import Row, payload_columns, usage_columns, usage_in
from agentrun.store.session import Session
from agentrun.store.values import read_payload

__all__ = ["keep_late", "late_result"]


def late_result(session: Session, run_id: UUID, step: int, attempt: int) -> Event | None:
    """The late answer to this attempt or an earlier one, as the outcome that it would have been."""
    rows = session.query("late", run_id=run_id, step=step, attempt=attempt)
    if not rows:
        return None
    row = rows[0]
    flags = Codec(row["codec"])
    if Codec.OUTPUT_MASKED in flags:
        name = f"{step}.{row['attempt']}"
        output = decode_exact(read_exact(session, run_id, "late", name=name)["late", name])
    else:
        fetch = partial(read_payload, session, run_id) if Codec.OUTPUT_PAYLOAD in flags else None
        output = decode(row["output"], Codec.OUTPUT_ESCAPED in flags, fetch)
    return Event(
        event="step_finished",
        run_id=run_id,
        step=step,
        attempt=row["attempt"],
        worker=row["worker"],
        status=row["status"],
        model=row["model"],
        usage=usage_in(row),
        output=output,
        has_output=True,
    )


def keep_late(session: Session, row: Row) -> None:
    """Store the answer in a row that was refused, if a later attempt could adopt it.

    The answer is stored in the database whatever its size. A blob that was uploaded for the refused
    row belongs to a claim that is over, so `agentrun prune` removes it.
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
        **exact_columns(late_parts(row.exact, f"{event.step}.{event.attempt or 1}")),
    )

    def keep() -> None:
        with contextlib.suppress(Parking):  # the process ends and the database is away
            session.query("keep_late", **parameters)

    # In a thread, since the flushing thread must not wait for it. Losing the answer breaks no
    # promise: the next owner treats the attempt as one without an answer.
    thread = threading.Thread(target=keep, daemon=True, name="agentrun-late")
    Context().run(thread.start)  # the thread belongs to no run
