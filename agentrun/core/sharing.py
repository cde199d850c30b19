"""Keeps a run's storage linear in its new text, although every request repeats the conversation.

`Shared` knows what the earlier rows of one run hold. A part of a new value that is known becomes
``{"$ref": digest}``; a list of dicts, such as the messages, that begins like a known one becomes
``{"$prefix": digest, "then": [what is new]}``. A key of the value's own that begins with ``$``
gets one more.

Rows must be fed in journal order, each once: `pack` or `unpack` for a shared one, `learn` or
`learn_later` for one that was stored whole. Then writer and reader hold the same tables, because
unpacking is looking up and then doing what packing did.
"""

from __future__ import annotations

from typing import NamedTuple, TypeGuard

from agentrun.core.codec import Undecodable, canonical, digest, loads
from agentrun.core.events import Json

__all__ = ["MIN_SIZE", "Shared"]

MIN_SIZE = 64  # bytes of canonical JSON; a reference takes about 43


class _Link(NamedTuple):
    """A list known up to here: a shorter one and the element that follows it."""

    before: str  # the digest of the shorter list; "" is the empty one
    element: Json  # packed
    size: int  # bytes of canonical JSON, all elements together


class Shared:
    """What the earlier rows of one run hold, by digest. Belongs to one thread at a time.

    Nodes are kept packed: a text is in memory once, and nothing is shared with the values of the
    caller but immutable strings.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Json] = {}
        self._links: dict[str, _Link] = {}
        self._new_nodes: dict[str, Json] = {}
        self._new_links: dict[str, _Link] = {}
        self._to_learn: list[tuple[str, bool]] = []

    def pack(self, value: Json) -> Json:
        """``value`` with references to what is known, which from now on it is.

        The value must hold no secret any more (a reader learns from the row) and have passed
        `codec.check`. Store the result and leave it unchanged: the tables hold parts of it. Where
        a packed row could not be stored, its Shared is of no more use.
        """
        self._catch_up()
        self._new_nodes, self._new_links = {}, {}
        packed = self._parts(value)
        # Only now: a reader cannot look up what lies in the very value it is unpacking.
        self._nodes.update(self._new_nodes)
        self._links.update(self._new_links)
        return packed

    def learn(self, value: Json) -> None:
        """Know ``value``, which is stored whole."""
        self.pack(value)

    def learn_later(self, text: str, escaped: bool) -> None:
        """`learn` the value that is stored as this text, once a request may refer to it.

        Of the text, since the value may be changed by then; a run without models never does it.
        """
        if len(text) >= MIN_SIZE:  # no part of a shorter one is worth a reference
            self._to_learn.append((text, escaped))

    def _catch_up(self) -> None:
        waiting, self._to_learn = self._to_learn, []
        for text, escaped in waiting:
            self.learn(loads(text, escaped))

    def unpack(self, packed: Json) -> Json:
        """The value that `pack` replaced, built anew; from now on it is known.

        Raises Undecodable for a reference to something that no earlier row holds.
        """
        self._catch_up()
        value = self._build(packed)
        self.learn(value)
        return value

    # -- packing: digests of parts, looked up among what earlier values held ------------------

    def _parts(self, value: Json) -> Json:
        """``value`` itself in full, its parts packed."""
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
        """``value`` packed, or a reference; ``text`` is its canonical text where that is known."""
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
        """A list of dicts: each of its beginnings has a name, made of the one before.

        It needs no node of its own: known as a whole, it is a prefix with nothing after it.
        """
        known = name = ""
        size = 0
        rest: list[Json] = []
        for element in elements:
            text = canonical(element)
            before, name = name, digest((name + digest(text)).encode())
            size += len(text)
            if name in self._links:  # then so is every shorter beginning
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
        """The value behind ``packed``; every container in it is new."""
        packed = self._look_up(packed)
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
        """What a reference stands for, itself still packed; anything else as it is."""
        match packed:
            case {"$ref": str(name), **others} if not others:
                if name not in self._nodes:
                    raise _unknown("$ref", name)
                return self._nodes[name]
            case {"$prefix": str(name), "then": list(rest), **others} if not others:
                if name not in self._links:
                    raise _unknown("$prefix", name)
                return self._elements(name) + rest
        return packed


def _is_chain(value: Json) -> TypeGuard[list[Json]]:
    return isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], dict)


def _is_short(value: Json) -> bool:
    """A text that is surely shorter than `MIN_SIZE`, told without writing it: most are."""
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


def _unknown(marker: str, name: str) -> Undecodable:
    return Undecodable(
        f"a shared value refers to {marker} {name}, which no earlier row of this run holds: "
        "feed Shared every row, in journal order"
    )
