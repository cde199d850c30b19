"""The options of a run, which `DurableAgent.with_options` sets and describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentrun.core.budget import Budget
from agentrun.steps.divergence_policy import OnDivergence

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """The options of a run. `DurableAgent.with_options` describes them."""

    key: str | None = None
    on_busy: Literal["wait", "raise"] = "wait"
    on_held: Literal["raise", "wait"] = "raise"
    on_divergence: OnDivergence | None = None  # None: the choice of the run, else of its agent
    in_place: bool = True  # a wait blocks here; False (in a worker): a wait parks the run
    queue: str = "default"
    priority: int = 0
    delay: float | None = None  # seconds before a submitted run is due
    deadline: float | None = None  # seconds that a run may take, waiting included
    budget: Budget | None = None  # limits for the run and its children
