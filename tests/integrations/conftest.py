"""What the tests of the adapters share: a folder outside, and the provider of their agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrun.testing import Provider


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the tools act."""
    monkeypatch.setenv("OUTSIDE", str(tmp_path))
    return tmp_path


@pytest.fixture
def at_provider(provider: Provider) -> Iterator[Provider]:
    """The provider that the frameworks' agents ask."""
    import anthropic_desk
    import framework_agents

    root = provider.base_url.removesuffix("/v1")
    clients: list[Any] = [framework_agents.client, framework_agents.aclient]
    others: list[Any] = [anthropic_desk.client, anthropic_desk.aclient]
    before = [client.base_url for client in (*clients, *others)]
    for client in clients:
        client.base_url = provider.base_url
    for client in others:
        client.base_url = root
    yield provider
    for client, url in zip((*clients, *others), before, strict=True):
        client.base_url = url
