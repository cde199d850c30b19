"""Time, ids and chance that a resume sees the same; branches and turns."""

from __future__ import annotations

import random as _random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

from agentrun.core.codec import plain
from agentrun.core.errors import ConfigError
from agentrun.core.flow import run_sync
from agentrun.runner.context import Line, current_line, on_line
from agentrun.runner.perform import Body, perform
from agentrun.runner.step import Wanted
from agentrun.runner.values import Result

_NOW = Body(lambda _info: datetime.now(UTC), Result(datetime))


def now() -> datetime:
    """The time, aware and in UTC; inside a run recorded, so that a resume sees the same."""
    line = current_line()
    if line is None:
        return datetime.now(UTC)
    wanted = Wanted(kind="function", name="now", effect="read", asked={"args": {}})
    moment: datetime = run_sync(perform(line, wanted, _NOW))
    return moment


def uuid() -> UUID:
    """A fresh UUID; inside a run derived from the run, so that a resume gets the same."""
    line = current_line()
    return uuid4() if line is None else derived(line, "uuid")


def rng() -> _random.Random:
    """A random generator; inside a run seeded from the run, so that a resume draws the same."""
    line = current_line()
    return _random.Random() if line is None else _random.Random(derived(line, "rng").int)


def derived(line: Line, purpose: str) -> UUID:
    """A UUID of this place in the run, the same on resume."""
    with line.run.lock:
        line.scope.uuids += 1
        return uuid5(line.run.run_id, f"{line.scope.path}{purpose}:{line.scope.uuids}")


@contextmanager
def branch(name: str) -> Iterator[None]:
    """Make the block a sub-conversation of its own, found by ``name`` on resume.

    Steps that overlap must be in different branches, tasks or threads. Outside a run it does
    nothing.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError("branch(name) needs a name that is a non-empty string")
    line = current_line()
    if line is None:
        yield
        return
    with line.run.lock:
        scope = line.scope.branch(plain(name))
    with on_line(Line(line.run, scope)):
        yield


@contextmanager
def turn() -> Iterator[None]:
    """Count all model calls of the block as one turn. Optional: turns are found by themselves."""
    line = current_line()
    if line is None:
        yield
        return
    scope, run = line.scope, line.run
    with run.lock:
        before = scope.fixed_turn
        scope.turn, scope.fixed_turn = None, True  # numbered by its first model call
    try:
        yield
    finally:
        with run.lock:
            scope.fixed_turn = before
