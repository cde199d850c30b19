"""Makes the missing events of a stream from the finished response.

A provider streams a background response again only for a limited time. A reader who has part of
the stream, or none, gets the rest from the finished response: the same texts, in fewer pieces.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from agentrun.core.events import Json

__all__ = ["SeenEvents", "write_missing_events"]

# The fields that say where in a response an event belongs.
POSITION = ("output_index", "content_index", "summary_index")
# For an item made of parts: the field of the parts, the name of a part's index in events, and the
# event type, to which ".added" or ".done" is appended.
ITEM_PARTS = {
    "message": ("content", "content_index", "response.content_part"),
    "reasoning": ("summary", "summary_index", "response.reasoning_summary_part"),
}
# For a part or an item with a text: the field of the text, and the event type, to which ".delta" or
# ".done" is appended.
TEXTS = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "summary_text": ("text", "response.reasoning_summary_text"),
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}


class SeenEvents:
    """Which events of a response a reader has received."""

    def __init__(self) -> None:
        self.is_empty = True
        self.last_number = -1  # the last sequence number; stays -1 if events have no numbers
        self._complete: set[tuple[Json, ...]] = set()  # events that came whole
        self._lengths: Counter[tuple[Json, ...]] = Counter()  # characters received of each text

    def add(self, event: dict[str, Json]) -> None:
        """Count ``event`` as received."""
        self.is_empty = False
        number, delta = event.get("sequence_number"), event.get("delta")
        self.last_number = number if isinstance(number, int) else self.last_number
        if isinstance(delta, str):
            self._lengths[_key(event)] += len(delta)
        else:
            self._complete.add(_key(event))

    def unseen_part(self, event: dict[str, Json]) -> dict[str, Json] | None:
        """The part of ``event`` that the reader has not received; None if there is none."""
        if "delta" not in event:
            return None if _key(event) in self._complete else event
        delta = event["delta"][self._lengths[_key(event)] :]
        return {**event, "delta": delta} if delta else None


def write_missing_events(response: dict[str, Json], seen: SeenEvents) -> bytes:
    """The events of a finished response that a reader has not received, as stream bytes."""
    text = b""
    for event in _all_events(response):
        if (unseen := seen.unseen_part(event)) is not None:
            unseen = {**unseen, "sequence_number": seen.last_number + 1}
            seen.add(unseen)
            data = json.dumps(unseen, separators=(",", ":"))
            text += f"event: {unseen['type']}\ndata: {data}\n\n".encode()
    return text


def _key(event: dict[str, Json]) -> tuple[Json, ...]:
    return event.get("type"), *(event.get(name) for name in POSITION)


def _all_events(response: dict[str, Json]) -> Iterator[dict[str, Json]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(_dicts(response.get("output"))):
        placed = {"output_index": index}
        hollow = {**item, **_emptied(item), "status": "in_progress"}
        yield {"type": "response.output_item.added", **placed, "item": hollow}
        for event in _item_events(item):
            yield {**event, **placed, "item_id": item.get("id")}
        yield {"type": "response.output_item.done", **placed, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


def _item_events(item: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """The events of an item between its ``added`` and its ``done`` event."""
    if _kind(item) not in ITEM_PARTS:
        yield from _text_events(item)
        return
    field, numbered, name = ITEM_PARTS[_kind(item)]
    for number, part in enumerate(_dicts(item.get(field))):
        yield {"type": f"{name}.added", numbered: number, "part": {**part, **_emptied(part)}}
        for event in _text_events(part):
            yield {**event, numbered: number}
        yield {"type": f"{name}.done", numbered: number, "part": part}


def _text_events(holder: dict[str, Json]) -> Iterator[dict[str, Json]]:
    if _kind(holder) not in TEXTS:
        return
    field, name = TEXTS[_kind(holder)]
    text = holder.get(field)
    more: dict[str, Json] = {"logprobs": []} if _kind(holder) == "output_text" else {}
    if isinstance(text, str):
        yield {"type": f"{name}.delta", "delta": text, **more}
        called = {"name": holder["name"]} if "name" in holder else {}
        yield {"type": f"{name}.done", field: text, **more, **called}


def _emptied(holder: dict[str, Json]) -> dict[str, Json]:
    """The field of an item's or a part's content, empty, as its ``added`` event has it."""
    kind = _kind(holder)
    if kind in ITEM_PARTS:
        return {ITEM_PARTS[kind][0]: []}
    return {TEXTS[kind][0]: ""} if kind in TEXTS else {}


def _kind(holder: dict[str, Json]) -> str:
    return str(holder.get("type"))


def _dicts(value: Json) -> list[dict[str, Json]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
