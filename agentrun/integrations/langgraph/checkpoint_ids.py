"""The ids of checkpoints, the same on a resume; and the run that a checkpoint belongs to.

The problem. LangGraph draws a random id for each checkpoint, and derives the ids of tasks, of
interrupts and of subgraphs' namespaces from it. A resumed run executes the graph again and would
draw others, so that nothing it saves would fit what the crashed process saved.

The solution. Inside a run that uses a `DurableSaver` each id is drawn once and recorded, as the
time is by `agentrun.now()`. LangGraph has no hook for that, so its one function that draws ids is
replaced.

LangGraph also saves from callbacks in threads that do not know the run. The id of a checkpoint
therefore leads to its run.
"""

from __future__ import annotations

import threading
import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base.id import uuid6
from langgraph.pregel import _checkpoint as source

import agentrun
from agentrun import RunInfo
from agentrun.core import recorder

__all__ = ["begin", "claim", "install", "run_of"]


@dataclass(frozen=True)
class _Drawing:
    """The run whose graph draws ids, and this execution of it: each claim has another."""

    run: RunInfo
    execution: weakref.ref[Any]

    @property
    def is_current(self) -> bool:
        here = _execution()
        return here is not None and self.execution() is here


# What draws ids in this line of control.
_drawing: ContextVar[_Drawing | None] = ContextVar("agentrun_langgraph_run", default=None)
# The run of each checkpoint id. `_drawing` keeps the run alive as long as its graph executes.
_runs: weakref.WeakValueDictionary[str, RunInfo] = weakref.WeakValueDictionary()
_installing = threading.Lock()


def install() -> None:
    """Replace LangGraph's function that draws the ids of checkpoints, once in a process."""
    with _installing:
        if getattr(source, "uuid6", None) not in (uuid6, _draw):
            raise agentrun.ConfigError(
                "DurableSaver does not know this version of langgraph: it draws the ids of "
                "checkpoints elsewhere. Install a version that `pip install "
                "'agentrun-harness[langgraph]'` allows"
            )
        source.uuid6 = _draw  # type: ignore[attr-defined]


def begin(run: RunInfo) -> None:
    """From here on, ids that this line of control draws are recorded in ``run``."""
    _drawing.set(_Drawing(run, weakref.ref(_execution())))


def claim(checkpoint_id: str) -> None:
    """Note that the run of this line of control works with this checkpoint."""
    drawing = _drawing.get()
    if drawing is not None and drawing.is_current:
        _runs[checkpoint_id] = drawing.run


def run_of(checkpoint_id: str) -> RunInfo | None:
    """The run that the calling code belongs to, or else the one that drew or loaded this id."""
    return agentrun.current_run() or _runs.get(checkpoint_id)


def _execution() -> Any:
    return getattr(recorder.current.get(), "run", None)


def _draw(*args: Any, **kwargs: Any) -> Any:
    drawing = _drawing.get()
    if drawing is None or not drawing.is_current:
        return uuid6(*args, **kwargs)

    def draw() -> str:
        return str(uuid6(*args, **kwargs))

    drawn = agentrun.step(effect="read", name="checkpoint id")(draw)()
    claim(drawn)
    return drawn
