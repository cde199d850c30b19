"""Fixtures of the room `models`: a provider, a server of fixed words, clients of both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from model_doubles import MemoryRecorder
from sayings import Server

from agentrun.core.flow import Op
from agentrun.core.pauses import Backoff
from agentrun.models import attempts
from agentrun.testing import Provider


@pytest.fixture(scope="session")
def shared_provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: Provider) -> Provider:
    """The provider double, saying nothing special and free of faults."""
    shared_provider.disarm()
    shared_provider.say()
    return shared_provider


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Every wait before a retry, as it is begun: how, and how long. The wait is real."""
    begun: list[tuple[str, float]] = []
    real = attempts.pause

    def noted(seconds: float) -> Op[None]:
        pause = real(seconds)

        def sync() -> None:
            begun.append(("sync", seconds))
            pause.sync()

        async def asyn() -> None:
            begun.append(("async", seconds))
            await pause.asyn()

        return Op(sync, asyn)

    monkeypatch.setattr(attempts, "pause", noted)
    return begun


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without waiting, where the wait is not what is tested."""
    monkeypatch.setattr("agentrun.models.retries.BACKOFF", Backoff(0.0, 0.0))
