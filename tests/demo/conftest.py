"""The demo's world, and what was started and not ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from leftovers import MARK, Marked

import agentrun
from agentrun.demo.world import World, open_world
from agentrun.store.database import OpenDatabase


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Marked:
    """What this test starts from here on bears the mark."""
    found = Marked()
    monkeypatch.setenv(MARK, found.mark)
    return found


@pytest.fixture
def database(dsn: str) -> Iterator[OpenDatabase]:
    with agentrun.connect(dsn) as opened:
        yield opened


@pytest.fixture
def world(database: OpenDatabase) -> Iterator[World]:
    with open_world(database.dsn, None) as opened:
        yield opened
