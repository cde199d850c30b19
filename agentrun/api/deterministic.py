"""Time, ids and random numbers that are the same on a resume; branches and turns."""

from __future__ import annotations

import random as _random
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

from agentrun.api.current_run import RunInfo, context_of
from agentrun.core.codec import plain
from agentrun.core.errors import ConfigError
from agentrun.core.flow import run_sync
from agentrun.steps.execution_point import ExecutionPoint, at_point, current_point
from agentrun.steps.function_step import StepBody, perform
from agentrun.steps.masking import refuse_credential
from agentrun.steps.run_context import RunContext
from agentrun.steps.step import StepRequest
from agentrun.values.typed_values import Result

_NOW = StepBody(lambda _info: datetime.now(UTC), Result(datetime))


def now() -> datetime:
    """The current time, as an aware datetime in UTC.

    Inside a run the time is recorded as a step, so that a resume sees the same time.

    Example:
        >>> deadline = agentrun.now() + timedelta(hours=1)
    """
    line = current_point()
    if line is None:
        return datetime.now(UTC)
    request = StepRequest(kind="function", name="now", effect="read", input={"args": {}})
    moment: datetime = run_sync(perform(line, request, _NOW))
    return moment


def uuid() -> UUID:
    """A new UUID. Inside a run it is derived from the run, so that a resume gets the same UUID.

    Example:
        >>> order_id = str(agentrun.uuid())
    """
    line = current_point()
    return uuid4() if line is None else derived(line, "uuid")


def rng() -> _random.Random:
    """A random generator. Inside a run its seed is derived from the run.

    So a resume draws the same numbers. Each call returns another generator, with another seed.

    Example:
        >>> first = agentrun.rng().choice(["a", "b", "c"])
    """
    line = current_point()
    return _random.Random() if line is None else _random.Random(derived(line, "rng").int)


def derived(line: ExecutionPoint, purpose: str) -> UUID:
    """A UUID of this place in the run for this purpose; the same on a resume."""
    with line.run.lock:
        line.scope.uuids += 1
        return uuid5(line.run.run_id, f"{line.scope.path}{purpose}:{line.scope.uuids}")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigError("branch(name) needs a name that is a non-empty string")


@contextmanager
def branch(name: str, *, of: RunInfo | None = None) -> Generator[None, None, None]:
    """Make the block a sub-conversation of its own, which a resume finds by ``name``.

    Steps that overlap in time must be in different branches, tasks or threads. Outside a run the
    block is executed as it is.

    Args:
        name: names the branch among those of the same task or thread; a resume finds its steps by
            it. The same name again goes on with the same branch.
        of: what `current_run` returned. The branch is then one of that run itself, whatever thread
            or task enters it. It serves callbacks in threads of a framework, where the run cannot
            be found and which begin in no fixed order.

    Raises:
        ConfigError: the name is empty, is not a string, or holds a credential, or ``of`` is not a
            run that executes in this process.

    Example:
        >>> with agentrun.branch("summary"):
        ...     summary = client.responses.create(model="gpt-5-mini", input=text)
    """
    _check_name(name)
    refuse_credential("the branch name", name)
    line = current_point()
    run = _executing(of) if of is not None else None if line is None else line.run
    if run is None:
        yield
        return
    with run.lock:
        scope = (run.root if of is not None or line is None else line.scope).branch(plain(name))
        if of is not None and line is not None and line.run is run:
            line.scope.mark_begun()  # so that a park does not wait for its first step
            scope.body = scope.body or line.scope.body
    with at_point(ExecutionPoint(run, scope)):
        yield


def _executing(info: RunInfo) -> RunContext:
    run = context_of(info)
    if run is None:
        raise ConfigError(
            f"branch(…, of={info!r}): give what current_run() returned, while that run executes"
        )
    return run


@contextmanager
def turn() -> Generator[None, None, None]:
    """Count all model calls of the block as one turn.

    Optional: without it, agentrun finds the turns by itself. Outside a run it does nothing.

    Example:
        >>> with agentrun.turn():
        ...     draft, critique = write(question), review(question)
    """
    line = current_point()
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
