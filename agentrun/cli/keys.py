"""Finds the key that a KEY on the command line means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from agentrun.core.errors import RunNotFound, RunPruned

if TYPE_CHECKING:
    from agentrun.store.database import OpenDatabase

__all__ = ["Connect", "full_key"]

_LAST = "@last"
_CANDIDATES = 10  # keys that are listed when a prefix is ambiguous

Connect: TypeAlias = "Callable[[], OpenDatabase]"


def full_key(database: OpenDatabase, key: str) -> str:
    """Find the key that ``key`` means. Raises RunNotFound, with the candidates if several match."""
    from agentrun.store.run_list import list_runs
    from agentrun.store.runs import find_run, list_keys

    if key == _LAST:
        newest = list_runs(database, limit=1)
        if not newest:
            raise RunNotFound("there are no runs yet", key=key)
        return newest[0].key
    try:
        return find_run(database, key).key
    except RunPruned:
        raise
    except RunNotFound:
        found = list_keys(database, key, _CANDIDATES + 1)
        if not found:
            raise
    if len(found) > 1:
        more = ", …" if len(found) > _CANDIDATES else ""
        listed = ", ".join(found[:_CANDIDATES])
        raise RunNotFound(f"several runs begin with {key!r}: {listed}{more}", key=key)
    return found[0]
