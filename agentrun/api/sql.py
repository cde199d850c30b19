"""`sql`: the user's own queries, by the same login as `agentrun sql`."""

from __future__ import annotations

from itertools import islice
from typing import Any

from agentrun.core.errors import ConfigError
from agentrun.core.table import Table
from agentrun.store.audit import TIMEOUT, read_only_query
from agentrun.store.opening import default, reader_of

__all__ = ["sql"]


def sql(query: str, *parameters: Any, timeout: float = TIMEOUT, limit: int | None = None) -> Table:
    """Query the database in SQL. It only reads: by a read-only login where there is one, and in
    a read-only transaction.

    The views of agentrun can be named without their schema: ``runs``, ``steps``, ``spend``.

    Args:
        query: one statement. Without parameters, ``%`` in it is an ordinary character.
        parameters: the values of its placeholders ``%s``.
        timeout: seconds that the query may take.
        limit: rows to read at most; `Table.truncated` says if there are more. None reads all.

    Raises:
        AgentrunError: the statement is wrong, would write, or took too long.
        StoreUnavailable: the database cannot be reached.
        ConfigError: ``timeout`` or ``limit`` is negative, or ``timeout`` is zero.

    Example:
        >>> agentrun.sql("SELECT status FROM runs WHERE key = %s", "ticket-42").rows
        (('done',),)
    """
    if timeout <= 0 or (limit is not None and limit < 0):
        raise ConfigError(f"timeout={timeout} must be positive, and limit={limit} not negative")
    with read_only_query(reader_of(default()), query, parameters, timeout=timeout) as answer:
        rows = tuple(answer.rows if limit is None else islice(answer.rows, limit))
        truncated = limit is not None and next(answer.rows, None) is not None
        return Table(answer.columns, rows, truncated)
