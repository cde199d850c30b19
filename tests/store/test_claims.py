"""Who may take a run: only on what it is now, never on what it was at an earlier look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentrun.core.events import Event
from agentrun.store.database import OpenDatabase
from agentrun.store.liveness import life_of
from agentrun.store.runs import find_run


@pytest.fixture
def one(dsn: str) -> Iterator[OpenDatabase]:
    with OpenDatabase(dsn) as database:
        database.create("run", "agent", {}, "")
        yield database


@pytest.fixture
def two(dsn: str) -> Iterator[OpenDatabase]:
    with OpenDatabase(dsn) as database:
        yield database


def test_a_run_that_ended_since_it_was_looked_at_is_not_claimed(
    one: OpenDatabase, two: OpenDatabase
) -> None:
    seen = find_run(two, "run")
    claimed = one.claim(find_run(one, "run"), "first claim")
    assert claimed is not None
    one.writer.wait(one.writer.append(claimed[0], [Event(event="run_finished")]))
    assert two.claim(seen, "was queued") is None
    assert find_run(one, "run").status == "done"


def test_a_run_that_a_live_worker_took_since_it_was_looked_at_is_not_claimed(
    one: OpenDatabase, two: OpenDatabase
) -> None:
    seen = find_run(two, "run")
    assert one.claim(find_run(one, "run"), "first claim") is not None
    assert two.claim(seen, "was queued") is None
    assert find_run(one, "run").owner == one.heart.worker


def test_a_run_of_a_live_worker_is_owned_and_of_a_dead_one_is_not(
    one: OpenDatabase, two: OpenDatabase
) -> None:
    assert one.claim(find_run(one, "run"), "first claim") is not None
    assert two.owner_of(find_run(two, "run")) == (True, None)
    one.heart.stop()
    owned, life = two.owner_of(find_run(two, "run"))
    assert not owned
    assert life is not None
    assert life.cause == "stopped"


def test_a_process_that_still_executes_a_run_at_its_close_is_not_said_to_have_stopped(
    dsn: str, two: OpenDatabase
) -> None:
    class Busy:
        def drain(self) -> None: ...

    database = OpenDatabase(dsn)
    database.create("run", "agent", {}, "")
    claimed = database.claim(find_run(database, "run"), "first claim")
    assert claimed is not None
    database.enter(claimed[0].run_id, Busy())
    worker = database.heart.worker
    database.close(timeout=0)
    assert two.settled_in(worker) > 0, "what it began may still be sent"
    with two.connection() as conn:
        life = life_of(conn, worker)
    assert life is not None
    assert life.cause is None
