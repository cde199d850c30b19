"""Fixtures of the room `gateway`: a database, the double of a provider, a gateway before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gateways import Gateway

from agentrun.testing import Provider


@pytest.fixture
def start(dsn: str, provider: Provider, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway: `start("--keep", "1d", upstream=url)`."""
    with ExitStack() as stack:

        def started(*options: str, upstream: str = provider.url) -> Gateway:
            log = tmp_path / "gateway.log"
            return stack.enter_context(Gateway(dsn, upstream, log, *options))

        yield started


@pytest.fixture
def gateway(start: Callable[..., Gateway]) -> Gateway:
    return start()
