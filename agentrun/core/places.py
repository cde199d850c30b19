"""Finds the places in a journal where those parts stand that later rows refer to.

A row of a journal refers to earlier parts by the digests of their text (`core.sharing`). Who cannot
compute these digests, such as the script of a page, needs the places instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from agentrun.core.events import Json
from agentrun.core.sharing import Shared, own_key

__all__ = ["Places"]

# The number of a row, from 0 on, and the keys and positions that lead from it to a part.
_Place: TypeAlias = tuple[int | str, ...]


class Places:
    """The rows of one journal, as `Shared` packed them, and where their parts stand."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._rows: list[tuple[_Place, Json, bool]] = []

    def add(self, row: int, field: str, packed: Json, *, whole: bool) -> None:
        """Take the value of a field of a row, packed. ``whole``: the row itself has it whole."""
        self._rows.append(((row, field), packed, whole))

    def find(self) -> dict[str, list[int | str]]:
        """The place of each part that a row refers to, by its name.

        The place of the beginning of a list is that of its last element. Before it stands the name
        of the beginning that is one element shorter.
        """
        used = [name for _, packed, whole in self._rows if not whole for name in _names_in(packed)]
        places = self._places() if used else {}
        found: dict[str, list[int | str]] = {}
        for marker, name in used:
            if marker == "$ref":
                found[name] = [*places[id(self._shared.part(name))]]
            while marker == "$prefix" and name and name not in found:
                before, element = self._shared.last_link(name)
                found[name] = [before, *places[id(element)]]
                name = before
        return found

    def _places(self) -> dict[int, _Place]:
        """The place of each part by its identity. `Shared` holds the very objects of the rows."""
        places: dict[int, _Place] = {}
        for place, packed, whole in self._rows:
            self._walk(packed, place, whole, places)
        return places

    def _walk(self, packed: Json, place: _Place, whole: bool, places: dict[int, _Place]) -> None:
        places[id(packed)] = place
        if isinstance(packed, dict) and "$prefix" in packed:
            first = self._shared.length_of(packed["$prefix"]) if whole else 0
            inside = place if whole else (*place, "then")
            for position, item in enumerate(packed["then"], first):
                self._walk(item, (*inside, position), whole, places)
        elif isinstance(packed, dict) and "$ref" not in packed:
            for key, item in packed.items():
                self._walk(item, (*place, own_key(key) if whole else key), whole, places)
        elif isinstance(packed, list):
            for position, item in enumerate(packed):
                self._walk(item, (*place, position), whole, places)


def _names_in(packed: Json) -> Iterator[tuple[str, str]]:
    """The references in a packed value: each marker, and the name behind it."""
    if isinstance(packed, dict) and "$ref" in packed:
        yield "$ref", packed["$ref"]
        return
    if isinstance(packed, dict) and "$prefix" in packed:
        yield "$prefix", packed["$prefix"]
        packed = packed["then"]
    for item in packed.values() if isinstance(packed, dict) else packed:
        if isinstance(item, dict | list):
            yield from _names_in(item)
