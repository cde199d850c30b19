"""Fixtures for agents that are killed and run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashing import World, killed

import agentrun


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A place for the effects of a test's agents."""
    return World(tmp_path / "effects")


@pytest.fixture
def resumed(db: Any, dsn: str) -> Callable[[Any], Any]:
    """Kill the agent, which dies by itself, and run it again."""

    def run(agent: Any) -> Any:
        keyed = agent.with_options(key="k")

        def action() -> None:
            agentrun.connect(dsn)
            keyed.run()

        killed(action)
        return keyed.run()

    return run
