"""Keeps the storage of a run linear in its new text, although each request repeats all messages.

`Shared` holds the parts of all earlier values of one run. In a new value, a part that is held
already is replaced by the reference ``{"$ref": digest}``. A list of dicts, such as the messages,
that begins like an earlier list becomes ``{"$prefix": digest, "then": [new elements]}``. A key of
the value itself that begins with ``$`` gets a second ``$``, so that it cannot be taken for
a reference.

The rule: each row of the run is given to `Shared` exactly once and in journal order. `pack` and
`unpack` are for rows with references, `learn` and `learn_later` for rows that were stored whole.
Then writer and reader hold the same parts, because `unpack` resolves the references and then
registers the value in the same way as `pack`. If a row was skipped, a later reference to it could
not be resolved.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeGuard

from agentrun.core.codec import Undecodable, canonical, digest, loads
from agentrun.core.events import Json

__all__ = ["MIN_SIZE", "Shared"]

MIN_SIZE = 64  # bytes of canonical JSON; a reference takes about 43


class _Link(NamedTuple):
    """A list that is held: a shorter list that is held too, and its last element."""

    before: str  # the digest of the shorter list; "" is the empty one
    element: Json  # packed
    size: int  # bytes of canonical JSON of all elements together


class Shared:
    """The parts of the earlier values of one run, by digest. Only one thread may use it at a time.

    The parts are held packed. So each text is in memory once, and the tables share only immutable
    strings with the caller's values.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Json] = {}
        self._links: dict[str, _Link] = {}
        self._new_nodes: dict[str, Json] = {}
        self._new_links: dict[str, _Link] = {}
        self._to_learn: list[tuple[str, bool]] = []
        self._allowance = math.inf  # how many more characters and items `unpack` may build
        self._shown: Shared | None = None

    @property
    def shown(self) -> Shared:
        """The tables for the masked values that people see.

        This is the object itself until the first masked value differs from the exact one.
        """
        return self if self._shown is None else self._shown

    def split(self) -> None:
        """From now on hold the masked values in tables of their own."""
        if self._shown is None:
            copy = Shared()
            copy._nodes, copy._links = dict(self._nodes), dict(self._links)
            copy._to_learn = list(self._to_learn)
            self._shown = copy

    def pack_both(self, value: Json, shown: Json) -> tuple[Json, Json]:
        """``value`` and its masked form ``shown``, both packed; one object if they are equal."""
        if shown is not value:
            self.split()
        packed = self.pack(value)
        return packed, packed if self._shown is None else self._shown.pack(shown)

    def pack(self, value: Json) -> Json:
        """``value`` with references in place of parts that are held. Then hold its own parts too.

        The value must have passed `codec.check`. Store the result and do not change it, because the
        tables hold parts of it. If the row could not be stored, discard this Shared: later values
        would refer to a row that does not exist.
        """
        self._catch_up()
        self._new_nodes, self._new_links = {}, {}
        packed = self._parts(value)
        # Not earlier, because a reader cannot resolve references inside the value it is unpacking.
        self._nodes.update(self._new_nodes)
        self._links.update(self._new_links)
        return packed

    def learn(self, value: Json) -> None:
        """Hold the parts of ``value``, which is stored whole."""
        self.pack(value)

    def learn_later(self, text: str, escaped: bool) -> None:
        """`learn` the value with this stored text, but not before the next `pack` or `unpack`.

        So a run without model calls never spends the time. The text is kept and not the value,
        which the caller may change.
        """
        if len(text) >= MIN_SIZE:  # a shorter text has no part that is worth a reference
            self._to_learn.append((text, escaped))

    def _catch_up(self) -> None:
        waiting, self._to_learn = self._to_learn, []
        for text, escaped in waiting:
            self.learn(loads(text, escaped))

    def allow(self, more: int) -> None:
        """Allow `unpack` to build ``more`` characters and items. The first call sets the limit.

        Needed for rows from an untrusted file: a few nested references can expand to more than
        fits into memory.
        """
        self._allowance = more if self._allowance == math.inf else self._allowance + more

    def unpack(self, packed: Json) -> Json:
        """The value that was given to `pack`. Its parts are then held.

        Raises Undecodable for a reference to a part that no earlier row has.
        """
        self._catch_up()
        value = self._build(packed)
        self.learn(value)
        return value

    # -- packing: each part is looked up by its digest ------------------------------------------

    def _parts(self, value: Json) -> Json:
        """``value`` with its parts packed, without a reference for the value itself."""
        if isinstance(value, dict):
            whole = {}
            for key, item in value.items():
                whole["$" + key if key.startswith("$") else key] = self._part(item)
            return whole
        if _is_chain(value):
            return self._chain(value)
        if isinstance(value, (list, tuple)):
            items = []
            for item in value:  # no comprehension: on Python 3.11 it costs a frame a level
                items.append(self._part(item))
            return items
        return value

    def _part(self, value: Json, text: bytes | None = None) -> Json:
        """A reference to ``value``, or ``value`` packed. ``text`` is its canonical text."""
        if not isinstance(value, (str, dict, list, tuple)) or _is_short(value):
            return value
        if _is_chain(value):
            return self._chain(value)
        if text is None:
            text = canonical(value)
        if len(text) < MIN_SIZE:
            return self._parts(value)
        name = digest(text)
        if name in self._nodes:
            return {"$ref": name}
        packed = self._new_nodes[name] = self._parts(value)
        return packed

    def _chain(self, elements: list[Json]) -> Json:
        """A list of dicts, packed. Each beginning of it has a name: the digest of the name of the
        beginning that is one element shorter, and of the last element.

        A list needs no node of its own. If all of it is held, it is a prefix with nothing after it.
        """
        known = name = ""
        size = 0
        rest: list[Json] = []
        for element in elements:
            text = canonical(element)
            before, name = name, digest((name + digest(text)).encode())
            size += len(text)
            if name in self._links:  # then every shorter beginning is held as well
                known = name
                continue
            packed = self._part(element, text)
            self._new_links[name] = _Link(before, packed, size)
            rest.append(packed)
        if not known:
            return rest
        if self._links[known].size < MIN_SIZE:
            return self._elements(known) + rest
        return {"$prefix": known, "then": rest}

    def _elements(self, name: str) -> list[Json]:
        elements: list[Json] = []
        while name:
            name, element, _ = self._links[name]
            elements.append(element)
        elements.reverse()
        return elements

    # -- unpacking ---------------------------------------------------------------------------

    def _build(self, packed: Json) -> Json:
        """The value of ``packed``. Every container in it is a new object."""
        packed = self._look_up(packed)
        self._allowance -= len(packed) if isinstance(packed, (str, dict, list)) else 1
        if self._allowance < 0:
            raise Undecodable("its references expand to far more than its size")
        if isinstance(packed, dict):
            whole = {}
            for key, item in packed.items():
                whole[_own_key(key)] = self._build(item)
            return whole
        if isinstance(packed, list):
            items = []
            for item in packed:
                items.append(self._build(item))
            return items
        return packed

    def _look_up(self, packed: Json) -> Json:
        """The target of a reference, still packed. Any other value is returned unchanged."""
        match packed:
            case {"$ref": str(name), **others} if not others:
                if name not in self._nodes:
                    raise _dangling_reference("$ref", name)
                return self._nodes[name]
            case {"$prefix": str(name), "then": list(rest), **others} if not others:
                if name not in self._links:
                    raise _dangling_reference("$prefix", name)
                return self._elements(name) + rest
        return packed


def _is_chain(value: Json) -> TypeGuard[list[Json]]:
    return isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], dict)


def _is_short(value: Json) -> bool:
    """Whether a text is certainly shorter than `MIN_SIZE`. Most are, and this check is fast."""
    return (
        isinstance(value, str)
        and 2 * len(value) + 2 < MIN_SIZE
        and value.isascii()
        and value.isprintable()
    )


def _own_key(key: str) -> str:
    if not key.startswith("$"):
        return key
    if not key.startswith("$$"):
        raise Undecodable(f"a shared value has the unknown marker {key!r}")
    return key[1:]


def _dangling_reference(marker: str, name: str) -> Undecodable:
    return Undecodable(
        f"a shared value refers to {marker} {name}, which no earlier row of this run holds: "
        "give Shared every row, in journal order"
    )
