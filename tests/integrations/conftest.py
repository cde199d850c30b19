"""What the tests of the adapters share: a folder outside, and the provider of their agents.

Each adapter has tests that kill an agent at every point, under the mark `long`. Of all that are
collected, a run draws `SHARE` by its seed; with ``--whole`` it takes all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matrix import SEED

from agentrun.testing import Provider

SHARE = 8


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    kills = [item for item in items if item.path.parent == here and item.get_closest_marker("long")]
    if len(kills) <= SHARE or config.getoption("--whole") or "long" not in config.option.markexpr:
        return
    drawn = random.Random(f"{SEED} adapters").sample(kills, SHARE)
    left_out = [item for item in kills if item not in drawn]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


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
