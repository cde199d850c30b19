"""Errors of agentrun inside the agent's own code, where the run cannot go on.

They are an Interrupt, which is a BaseException. Agents and frameworks write `except Exception` and
report the error to the model. If they caught such an error, the run would go on as if nothing were
wrong, and would pay for model calls whose effects cannot be made. Outside a run the same refusals
are ordinary errors. An error in the data of one call (its arguments, the name of a signal, a limit
that the caller set) is an ordinary error inside a run, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentrun.core import recorder
from agentrun.core.errors import ConfigError, Refusing, StoreError, StoreLost

if TYPE_CHECKING:
    from agentrun.steps.run_context import RunContext


def refusal(text: str) -> BaseException:
    """The error for a call that agentrun refuses: ConfigError outside a run; inside, the run fails.

    Raises Refusing in a forked child of the process that executes the run.
    """
    run = _calling_run()
    return ConfigError(text) if run is None else run.stop(Refusing(text))


@contextmanager
def asking_database(run: RunContext | None = None) -> Iterator[None]:
    """Interrupt the run by StoreLost if the database fails in the block.

    The run is ``run``, or by default the run of the calling code if there is one.
    """
    try:
        yield
    except StoreError as error:
        failed = run or _calling_run()
        if failed is None:
            raise
        lost = StoreLost(error)
        failed.stop(lost)
        raise lost from error


def _calling_run() -> RunContext | None:
    """The run of the calling code."""
    point: Any = recorder.current.get()  # an ExecutionPoint, whose module imports this one
    if point is None:
        return None
    point.check_process()
    run: RunContext = point.run
    return run
