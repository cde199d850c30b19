"""Waits for a database that is away: for ever, and where the process is to end, a few seconds."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from crashing import in_child

import agentrun
from agentrun.core.errors import Parking
from agentrun.store import patience
from agentrun.store.connection import connect
from agentrun.store.database import OpenDatabase
from agentrun.store.patience import PROCESS
from agentrun.store.runs import find_run


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "GRACE", 0.2)


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """The DSN of a server that is not there."""
    return f"postgresql://postgres@/postgres?host={tmp_path}"


def raised(call: Callable[[], Any]) -> BaseException | None:
    """What a call raises in a thread of its own; it must end."""
    found: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            found.append(error)
        else:
            found.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for ever"
    return found[0]


def test_a_wait_gives_up_where_the_process_is_to_end(nowhere: str) -> None:
    with PROCESS.hurrying():
        error = raised(lambda: find_run(OpenDatabase(nowhere), "k"))
    assert isinstance(error, Parking)
    assert error.parked_for is None  # the run is handed back
    assert not PROCESS.hurried


def test_a_wait_goes_on_where_the_process_does(nowhere: str) -> None:
    thread = threading.Thread(target=lambda: raised(lambda: find_run(OpenDatabase(nowhere), "k")))
    thread.daemon = True
    thread.start()
    thread.join(5 * patience.GRACE)
    assert thread.is_alive()
    with PROCESS.hurrying():
        thread.join(60)
    assert not thread.is_alive()


def test_a_statement_that_gets_no_answer_is_cut_off(dsn: str) -> None:
    conn = connect(dsn, deadline=45.0)
    with PROCESS.hurrying():
        error = raised(lambda: conn.execute("SELECT pg_sleep(60)"))
    conn.close()
    assert isinstance(error, psycopg.OperationalError)
    assert "within" not in str(error)  # not given up by its own deadline


def test_the_thread_of_a_cancelled_waiter_gives_up(nowhere: str) -> None:
    async def wait_and_go() -> None:
        waiting = asyncio.create_task(
            patience.in_thread(lambda: find_run(OpenDatabase(nowhere), "k"))
        )
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.wait([waiting])

    def action() -> None:
        signal.alarm(40)  # ends this process, which waits for the threads of its pool
        asyncio.run(wait_and_go())

    assert in_child(action) == 0, "it waits for ever"


def test_a_database_that_answers_has_all_the_time_it_needs(db: OpenDatabase) -> None:
    @agentrun.step(effect="idempotent")
    def work(n: int) -> int:
        return n

    @agentrun.agent
    def patient() -> list[int]:
        return [work(n) for n in range(200)]

    with PROCESS.hurrying():
        assert patient.run() == list(range(200))
