"""A response that is finished, spelled as the rest of the stream that tells of it.

The provider streams a response again only for a while. Who has read the first part of a stream, or
nothing of it, gets what is missing from the whole: the same texts, in fewer pieces.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from agentrun.core.events import Json

__all__ = ["Seen", "rest"]

# Where in a response an event belongs.
PLACE = ("output_index", "content_index", "summary_index")
# Of an item made of parts: its field, how a part is numbered, and what tells of one.
IN_PARTS = {
    "message": ("content", "content_index", "response.content_part"),
    "reasoning": ("summary", "summary_index", "response.reasoning_summary_part"),
}
# Of what holds a text, a part or an item: its field, and what tells of it.
TEXTS = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "summary_text": ("text", "response.reasoning_summary_text"),
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}


class Seen:
    """What a reader has of a response's events."""

    def __init__(self) -> None:
        self.nothing = True
        self.number = -1  # the last sequence number; of events without numbers, this
        self._told: set[tuple[Json, ...]] = set()
        self._spelt: Counter[tuple[Json, ...]] = Counter()  # characters of each text

    def note(self, event: dict[str, Json]) -> None:
        """The reader has this one, too."""
        self.nothing = False
        number, delta = event.get("sequence_number"), event.get("delta")
        self.number = number if isinstance(number, int) else self.number
        if isinstance(delta, str):
            self._spelt[_key(event)] += len(delta)
        else:
            self._told.add(_key(event))

    def left(self, event: dict[str, Json]) -> dict[str, Json] | None:
        """What is new of an event to the reader; None if nothing is."""
        if "delta" not in event:
            return None if _key(event) in self._told else event
        delta = event["delta"][self._spelt[_key(event)] :]
        return {**event, "delta": delta} if delta else None


def rest(response: dict[str, Json], seen: Seen) -> bytes:
    """The events of a finished response that a reader has not seen."""
    told = b""
    for event in _events(response):
        if (left := seen.left(event)) is not None:
            left = {**left, "sequence_number": seen.number + 1}
            seen.note(left)
            data = json.dumps(left, separators=(",", ":"))
            told += f"event: {left['type']}\ndata: {data}\n\n".encode()
    return told


def _key(event: dict[str, Json]) -> tuple[Json, ...]:
    return event.get("type"), *(event.get(name) for name in PLACE)


def _events(response: dict[str, Json]) -> Iterator[dict[str, Json]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(_dicts(response.get("output"))):
        placed = {"output_index": index}
        hollow = {**item, **_hollow(item), "status": "in_progress"}
        yield {"type": "response.output_item.added", **placed, "item": hollow}
        for event in _spelt(item):
            yield {**event, **placed, "item_id": item.get("id")}
        yield {"type": "response.output_item.done", **placed, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


def _spelt(item: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """What is told of an item between its beginning and its end."""
    if _kind(item) not in IN_PARTS:
        yield from _text(item)
        return
    field, numbered, name = IN_PARTS[_kind(item)]
    for number, part in enumerate(_dicts(item.get(field))):
        yield {"type": f"{name}.added", numbered: number, "part": {**part, **_hollow(part)}}
        for event in _text(part):
            yield {**event, numbered: number}
        yield {"type": f"{name}.done", numbered: number, "part": part}


def _text(holder: dict[str, Json]) -> Iterator[dict[str, Json]]:
    if _kind(holder) not in TEXTS:
        return
    field, name = TEXTS[_kind(holder)]
    said = holder.get(field)
    more: dict[str, Json] = {"logprobs": []} if _kind(holder) == "output_text" else {}
    if isinstance(said, str):
        yield {"type": f"{name}.delta", "delta": said, **more}
        called = {"name": holder["name"]} if "name" in holder else {}
        yield {"type": f"{name}.done", field: said, **more, **called}


def _hollow(holder: dict[str, Json]) -> dict[str, Json]:
    """What an item or a part says before any of it is written."""
    kind = _kind(holder)
    if kind in IN_PARTS:
        return {IN_PARTS[kind][0]: []}
    return {TEXTS[kind][0]: ""} if kind in TEXTS else {}


def _kind(holder: dict[str, Json]) -> str:
    return str(holder.get("type"))


def _dicts(value: Json) -> list[dict[str, Json]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
