"""Find out whether a live worker continues a run that waits, and say so in words."""

from __future__ import annotations

import warnings

from agentrun.core.errors import NoWorkerWarning
from agentrun.core.shell import quote_word, write_command
from agentrun.store.database import OpenDatabase
from agentrun.store.serving import find_servers

__all__ = ["missing_worker", "warn_missing_worker", "who_continues"]


_AGAIN = "run your program again"  # what calls `.run()` with the key goes on with the run


def missing_worker(database: OpenDatabase, key: str) -> str | None:
    """A text that says that no live worker takes the run up, and how to start one.

    None if a live worker can take the run, or if a process owns the run: one that waits in place,
    as `.run()` does, needs no worker.
    """
    servers = find_servers(database, key)
    if servers is None or servers.owned or servers.serving:
        return None
    agent, queue = servers.agent, servers.queue
    option = "" if queue == "default" else f" --queue {quote_word(queue)}"
    start = f"start one with `agentrun worker FILE{option}`"
    if servers.knowing:
        return f"no live worker that knows agent {agent!r} serves queue {queue!r}: {start}"
    return f"no live worker knows agent {agent!r}: {start}"


def who_continues(database: OpenDatabase, key: str) -> str:
    """A text that says who continues a run that can go on now."""
    if why := missing_worker(database, key):
        return f"{why}, or go on here: `{write_command('resume', key, 'FILE')}`, or {_AGAIN}"
    servers = find_servers(database, key)
    owned = servers is not None and servers.owned
    return "its process goes on with the run" if owned else "a worker goes on with the run"


def warn_missing_worker(
    database: OpenDatabase, key: str, *, decided: bool = False, stacklevel: int = 3
) -> bool:
    """Give a NoWorkerWarning if no worker continues the run; return whether it was given.

    With ``decided``, a person has decided about the run, and any process may go on with it.
    """
    why = missing_worker(database, key)
    if why is not None:
        text = f"run {key!r} waits: {why}" + (f", or {_AGAIN}" if decided else "")
        warnings.warn(text, NoWorkerWarning, stacklevel=stacklevel)
    return why is not None
