"""Deliberate defects of agentrun, each with the test that must turn red on it.

They are in `defects/`, a file for each room of the package. What a defect breaks is named in the
words of the promise that it breaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules

import defects
from defects import Mutation

__all__ = ["MUTATIONS", "Mutation", "join"]


def join(rooms: Iterable[Mapping[str, Mutation]]) -> dict[str, Mutation]:
    """The defects of all rooms.

    Raises:
        ValueError: two of them have one name.
    """
    found: dict[str, Mutation] = {}
    for room in rooms:
        if twice := found.keys() & room.keys():
            raise ValueError(f"two files of tests/proof/defects/ name a defect so: {twice}")
        found.update(room)
    return found


MUTATIONS = join(
    import_module(f"defects.{module.name}").DEFECTS for module in iter_modules(defects.__path__)
)
