"""Fixtures for agents of other frameworks: a connected database and a provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import agentrun
from agentrun.testing import Provider


@pytest.fixture
def db(dsn: str) -> Iterator[agentrun.Database]:
    with agentrun.connect(dsn) as database:
        yield database


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as double:
        yield double
