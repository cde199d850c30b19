"""The step whose body is executing, for the body and the code that it calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from agentrun.core import recorder
from agentrun.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What the body of a tool may know about its own step. `current_step` returns it.

    ``key`` is the idempotency key, the same for each attempt of the step. ``attempt`` counts from
    1. ``number`` is the step's number in the run, as `agentrun show` prints it.

    Example:
        >>> info = agentrun.current_step()
        >>> payments.refund(order_id, idempotency_key=info.key)
    """

    key: str
    attempt: int
    number: int
    _connection: Any = field(default=None, repr=False)
    _input: Any = field(default=None, repr=False)  # the step's input, as it is recorded

    def __bool__(self) -> bool:
        """True inside a step; False outside one, where a tool is a plain function."""
        return self.number > 0

    @property
    def connection(self) -> Any:
        """The psycopg connection of a `transaction` tool.

        Raises ConfigError in tools of any other class.
        """
        if self._connection is None:
            raise ConfigError(
                "current_step().connection exists only in tools declared effect='transaction'"
            )
        return self._connection


_step: ContextVar[StepInfo | None] = ContextVar("agentrun_step", default=None)


def current_step() -> StepInfo:
    """Return the step whose body is executing: its `.key`, `.attempt` and `.connection`.

    Outside a step, where a tool is a plain function, the result is false in a condition
    (``if current_step():``). Its key is empty and its attempt is 1.

    Example:
        >>> @agentrun.tool(effect="transaction")
        ... def book(order_id: str) -> None:
        ...     connection = agentrun.current_step().connection
        ...     connection.execute("UPDATE orders SET booked = true WHERE id = %s", [order_id])
    """
    found = _step.get()
    return StepInfo(key="", attempt=1, number=0) if found is None else found


@contextmanager
def outside_runs() -> Iterator[None]:
    """Execute the block as code that belongs to no run and to no step."""
    run_token, step_token = recorder.current.set(None), _step.set(None)
    try:
        yield
    finally:
        _step.reset(step_token)
        recorder.current.reset(run_token)
