"""Fixtures for runs: clients of a provider, what a run journaled, and a worker that is dead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

import agentrun
from agentrun.store.database import OpenDatabase
from agentrun.store.opening import internals
from agentrun.store.runs import find_run
from agentrun.store.values import read_events
from agentrun.testing import Provider


@pytest.fixture
def client(provider: Provider) -> OpenAI:
    return agentrun.wrap(OpenAI(base_url=provider.base_url, api_key="k"))


@pytest.fixture
def aclient(provider: Provider) -> AsyncOpenAI:
    return agentrun.wrap(AsyncOpenAI(base_url=provider.base_url, api_key="k"))


@pytest.fixture
def events(db: OpenDatabase) -> Callable[[str], list[Any]]:
    def read(key: str) -> list[Any]:
        return read_events(db, find_run(db, key).run_id)[0]

    return read


@pytest.fixture
def sql(db: OpenDatabase) -> Callable[..., list[tuple[Any, ...]]]:
    def query(text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with db.connection() as conn:
            return [tuple(row.values()) for row in conn.execute(text, parameters or None)]

    return query


@pytest.fixture
def reincarnate(db: OpenDatabase, dsn: str) -> Iterator[Callable[[], OpenDatabase]]:
    """Forget this process's worker as if it had been killed, and be a new one.

    The run stays owned by the dead worker; its heart stops without a word.
    """
    opened: list[OpenDatabase] = []

    def again() -> OpenDatabase:
        current = opened[-1] if opened else db
        heart = current.heart
        heart._stop.set()
        heart._thread.join()
        with current.connection() as conn:
            conn.execute(
                "UPDATE agentrun.workers SET dead_at = now(), cause = 'process gone' "
                "WHERE worker = %s",
                (heart.worker,),
            )
        current.active.clear()
        opened.append(internals(agentrun.connect(dsn)))
        return opened[-1]

    yield again
    for database in opened:
        database.close(timeout=0)


def dumped(value: Any) -> str:
    return json.dumps(value)
