"""Letters that arrive in the very moment in which their run lets go."""

from __future__ import annotations

import psycopg
from psycopg.rows import dict_row

from agentrun.core.state import park_event
from agentrun.lifecycle.worker import OVERDUE
from agentrun.store import sending
from agentrun.store.database import OpenDatabase
from agentrun.store.mail import wake
from agentrun.store.rows import to_row
from agentrun.store.runs import find_run
from agentrun.store.sending import Batch


def test_a_letter_whose_sender_commits_after_the_parkers_second_look_is_not_lost(dsn: str) -> None:
    """Neither sees the other: the letter is sent to a run that still executes, and committed when
    the parker has looked at its mail for the last time."""
    with OpenDatabase(dsn) as database:
        database.create("k", "agent", {}, "")
        claimed = database.claim(find_run(database, "k"), "first claim")
        assert claimed is not None
        tail = claimed[0]
        parked = park_event("signal", "waits for a letter")
        row = to_row(parked, tail.run_id, tail.seq + 1, tail.epoch, tail.worker, tail.shared)
        with psycopg.connect(dsn, row_factory=dict_row) as parker, psycopg.connect(dsn) as sender:
            assert sending.append(parker, Batch([row])) == {tail.run_id}
            sender.execute("SELECT agentrun.send('k', 'signal')")
            parker.commit()
            wake(database, tail.run_id, [set()])
            sender.commit()
        database.query("overlooked", since=database.heart.now() - OVERDUE)
        claims = database.query(
            "claim_ready",
            agents=["agent"],
            queues=["default"],
            limit=1,
            worker=database.heart.worker,
            batch=tail.run_id,
        )
    assert [claim["key"] for claim in claims] == ["k"]
