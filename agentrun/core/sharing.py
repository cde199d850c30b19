"""Keeps the storage of a run linear in its new text, although each request repeats all messages.

`Shared` holds the parts of all earlier values of one run. In a new value, a part that is held
already is replaced by the reference ``{"$ref": digest}``. A list of dicts, such as the messages,
that begins like an earlier list becomes ``{"$prefix": digest, "then": [new elements]}``. A key of
the value itself that begins with ``$`` gets a second ``$``, so that it cannot be taken for
a reference.

The rule: each row of the run is given to `Shared` exactly once and in journal order. `pack` and
`receive` are for rows with references, `learn` and `learn_later` for rows that were stored whole.
Then a reader holds the parts that the writer held. If a row was skipped, a later reference to it
could not be resolved.

A reader works only on what is new in a row. `receive` registers the new parts and leaves the
references as they are; `Packed.unpack` builds the whole value when somebody asks for it. A part
that contains the beginning of an earlier list, such as the body of a request, is registered only
when a later row refers to it: its name is the digest of its whole text.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeGuard

from agentrun.core.codec import ENVELOPE, MAX_DEPTH, Undecodable, canonical, check, digest, loads
from agentrun.core.events import Json

__all__ = ["MIN_SIZE", "Chain", "Packed", "Shared", "own_key", "whole"]

MIN_SIZE = 64  # bytes of canonical JSON; a reference takes about 43
_LEVELS = 2 * (MAX_DEPTH + ENVELOPE)  # of a packed value: a reference may take a level of its own


class _Node(NamedTuple):
    """A part that is held."""

    value: Json  # packed
    size: int  # bytes of its canonical JSON


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
        self._nodes: dict[str, _Node] = {}
        self._links: dict[str, _Link] = {}
        self._new_nodes: dict[str, _Node] = {}
        self._new_links: dict[str, _Link] = {}
        self._to_learn: list[tuple[str, bool]] = []
        self._unnamed: list[Json] = []  # packed parts that `receive` has not registered yet
        self._allowance = math.inf  # to how many more characters and items references may expand
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
            copy._to_learn, copy._unnamed = list(self._to_learn), list(self._unnamed)
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
        self._hold_new()
        return packed

    def _hold_new(self) -> None:
        # Not earlier, because a reader cannot resolve references inside the value it is reading.
        self._nodes.update(self._new_nodes)
        self._links.update(self._new_links)

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
        """Allow references to expand to ``more`` characters and items. The first call limits them.

        Needed for rows from an untrusted file: a few nested references can expand to more than
        fits into memory.
        """
        self._allowance = more if self._allowance == math.inf else self._allowance + more

    def receive(self, packed: Json) -> Packed:
        """Hold the parts that are new in ``packed``, which `pack` made; the value, not yet built.

        Raises Undecodable for a reference to a part that no earlier row has.
        """
        self._catch_up()
        self._allowance -= self._measure(packed)
        if self._allowance < 0:
            raise Undecodable("its references expand to far more than its size")
        self._new_nodes, self._new_links = {}, {}
        self._hold_parts(packed)
        self._hold_new()
        return Packed(self, packed)

    def unpack(self, packed: Json) -> Json:
        """The value that was given to `pack`. Its parts are then held. Raises Undecodable."""
        return self.receive(packed).unpack()

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
        packed = self._parts(value)
        self._new_nodes[name] = _Node(packed, len(text))
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

    # -- reading: only what is new is built, to find its names ------------------------------------

    def _measure(self, packed: Json, levels: int = _LEVELS) -> int:
        """How many characters and items ``packed`` has when it is built. Raises Undecodable."""
        if not isinstance(packed, (dict, list)):
            return len(packed) if isinstance(packed, str) else 1
        if levels == 0:
            raise Undecodable("it is nested too deeply")
        match packed:
            case {"$ref": str(name), **others} if not others:
                return self._node(name).size
            case {"$prefix": str(name), "then": list(then), **others} if not others:
                return self._link(name).size + self._measure(then, levels - 1)
        size = len(packed)
        for key in packed if isinstance(packed, dict) else ():
            size += len(own_key(key))
        for item in packed.values() if isinstance(packed, dict) else packed:
            size += self._measure(item, levels - 1)
        return size

    def _hold_parts(self, packed: Json) -> None:
        """Register what `_parts` registered when it made ``packed``."""
        if _is_reference(packed, "$ref"):
            return
        if _is_reference(packed, "$prefix") or self._is_packed_chain(packed):
            self._hold_chain(packed)
        elif isinstance(packed, (dict, list)):
            for item in packed.values() if isinstance(packed, dict) else packed:
                self._hold_part(item)

    def _hold_part(self, packed: Json, text: bytes | None = None) -> None:
        """Register what `_part` registered when it made ``packed``. ``text`` is as there."""
        self._hold_parts(packed)
        if not isinstance(packed, (str, dict, list)) or _is_short(packed):
            return
        if _is_reference(packed, "$ref") or _is_reference(packed, "$prefix"):
            return
        if self._is_packed_chain(packed):
            return
        if text is None and _has_prefix(packed):
            self._unnamed.append(packed)
        else:
            text = self._text(packed) if text is None else text
            self._hold_node(packed, text, self._new_nodes)

    def _hold_node(self, packed: Json, text: bytes, nodes: dict[str, _Node]) -> None:
        if len(text) >= MIN_SIZE:
            nodes.setdefault(digest(text), _Node(packed, len(text)))

    def _hold_chain(self, packed: Json) -> None:
        name, size, rest = "", 0, packed
        if isinstance(packed, dict):
            name, rest = packed["$prefix"], packed["then"]
            size = self._links[name].size
        for element in rest:
            text = self._text(element)
            before, name = name, digest((name + digest(text)).encode())
            size += len(text)
            if name in self._links:
                continue
            self._hold_part(element, text)
            self._new_links[name] = _Link(before, element, size)

    def _text(self, packed: Json) -> bytes:
        """The canonical text of the value of ``packed``."""
        value = self._build(packed)
        if self._allowance != math.inf:  # an untrusted file must not nest it deeper and deeper
            check(value, "value", MAX_DEPTH + ENVELOPE)
        return canonical(value)

    def _is_packed_chain(self, packed: Json) -> bool:
        """Whether ``packed`` is a list of dicts, without a reference for its beginning."""
        if not isinstance(packed, list) or not packed:
            return False
        first = packed[0]
        if _is_reference(first, "$ref"):
            first = self._nodes[first["$ref"]].value
        return isinstance(first, dict) and not _is_reference(first, "$prefix")

    def _node(self, name: str) -> _Node:
        """The part of this name. Parts that have no name yet get theirs, latest first."""
        while name not in self._nodes:
            if not self._unnamed:
                raise _dangling_reference("$ref", name)
            self._name_latest()
        return self._nodes[name]

    def _name_latest(self) -> None:
        packed = self._unnamed.pop()
        self._hold_node(packed, self._text(packed), self._nodes)

    def _link(self, name: str) -> _Link:
        if name not in self._links:
            raise _dangling_reference("$prefix", name)
        return self._links[name]

    # -- looking up ------------------------------------------------------------------------------

    def part(self, name: str) -> Json:
        """The part of this name, packed. It is the very object in the row that had it first."""
        return self._node(name).value

    def last_link(self, name: str) -> tuple[str, Json]:
        """The last element, packed, of the beginning of a list, and the name of those before it."""
        link = self._link(name)
        return link.before, link.element

    def length_of(self, name: str) -> int:
        """How many elements the beginning of this name has."""
        return len(self._elements(name))

    # -- building ------------------------------------------------------------------------------

    def _build(self, packed: Json) -> Json:
        """The value of ``packed``. Every container in it is a new object."""
        packed = self._look_up(packed)
        if isinstance(packed, dict):
            whole = {}
            for key, item in packed.items():
                whole[own_key(key)] = self._build(item)
            return whole
        if isinstance(packed, list):
            items = []
            for item in packed:
                items.append(self._build(item))
            return items
        return packed

    def _look_up(self, packed: Json) -> Json:
        """The target of a reference, still packed. Any other value is returned unchanged."""
        if _is_reference(packed, "$ref"):
            return self._nodes[packed["$ref"]].value
        if _is_reference(packed, "$prefix"):
            return self._elements(packed["$prefix"]) + packed["then"]
        return packed

    def _outline(self, packed: Json) -> Json:
        """The value of ``packed``, in which lists that go on from earlier ones are not built."""
        if _is_reference(packed, "$prefix"):
            return Chain(self, packed["$prefix"], packed["then"])
        packed = self._look_up(packed)
        if isinstance(packed, dict):
            return {own_key(key): self._outline(item) for key, item in packed.items()}
        return self._build(packed)


class Packed:
    """A value with references to earlier rows of its run. It is built when it is asked for.

    Any thread may use it, also while later rows are read or written: what is held never changes.
    """

    __slots__ = ("_shared", "stored")

    def __init__(self, shared: Shared, stored: Json) -> None:
        self._shared = shared
        self.stored = stored  # the packed value, as `Shared.pack` made it

    def unpack(self) -> Json:
        """The value, a new one at each call."""
        return self._shared._build(self.stored)

    def outline(self) -> Json:
        """The value without what earlier rows hold: such a list is a `Chain` if a dict holds it."""
        return self._shared._outline(self.stored)


class Chain:
    """A list of dicts that begins like an earlier one. Only its new elements are built."""

    __slots__ = ("_shared", "_then", "before")

    def __init__(self, shared: Shared, before: str, then: list[Json]) -> None:
        self._shared, self._then = shared, then
        self.before = before  # the name of the beginning; equal names mean equal beginnings

    def new(self) -> list[Json]:
        """The elements after the beginning."""
        return [self._shared._build(element) for element in self._then]

    def last_of(self, name: str) -> tuple[str, Json]:
        """The last element of the beginning ``name``, and the name of the elements before it."""
        link = self._shared._links[name]
        return link.before, self._shared._build(link.element)

    def whole(self) -> list[Json]:
        """All elements."""
        packed = self._shared._elements(self.before) + self._then
        return [self._shared._build(element) for element in packed]


def whole(outline: Json) -> Json:
    """The value of `Packed.outline`, with all elements of its lists."""
    if isinstance(outline, Chain):
        return outline.whole()
    if isinstance(outline, dict):
        return {key: whole(item) for key, item in outline.items()}
    return outline


def _is_reference(packed: Json, marker: str) -> bool:
    """Whether ``packed`` is such a reference. The keys of other dicts never look like it."""
    return isinstance(packed, dict) and marker in packed


def _has_prefix(packed: Json) -> bool:
    """Whether a dict refers to the beginning of a list, itself or in dicts that it holds."""
    if not isinstance(packed, dict):
        return False
    return "$prefix" in packed or any(_has_prefix(item) for item in packed.values())


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


def own_key(key: str) -> str:
    """The key that a packed dict has in the value itself."""
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
