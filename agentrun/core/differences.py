"""Compares a recorded step with the request of the code: in phrases, and as a diff."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping

from agentrun.core.codec import canonical
from agentrun.core.events import Json

__all__ = [
    "are_equal",
    "comparable_text",
    "compare_arguments",
    "compare_fields",
    "compare_requests",
    "join_changes",
    "json_diff",
    "same_conversation",
    "shorten",
]

_DIFF_LINES = 40
_LINE = 400  # characters of a line of a diff
_NAMED = 3  # differences that a headline names
_SHORT = 40  # characters of a value that a headline shows
_PROMPTS = ("instructions", "system")
_COMPARED = 2000  # similarity is judged by this many characters of a message
_ALIKE = 0.5  # two messages are similar from this ratio of equal text on
_MISSING = object()


def are_equal(one: Json, other: Json) -> bool:
    """Whether two JSON values are equal. The order of keys does not matter."""
    return canonical(one, sort=True) == canonical(other, sort=True)


def comparable_text(value: Json) -> str:
    """``value`` as canonical JSON text. A text that is JSON is parsed first.

    So a tool's message can be compared with the result of the tool, however the agent wrote it.
    """
    spelt = value
    if isinstance(value, str):
        try:
            spelt = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return _spell(spelt)


_spell = json.JSONEncoder(sort_keys=True, default=str).encode


def compare_arguments(before: Mapping[str, Json], now: Mapping[str, Json]) -> list[str]:
    """The differences between the arguments of two calls, one phrase each."""
    return list(compare_fields(before, now, "argument "))


def compare_requests(
    before: dict[str, Json], now: dict[str, Json]
) -> tuple[list[str], tuple[Json, Json]]:
    """The differences between the bodies of two model calls, one phrase each.

    Also returns the parts of both bodies that differ, for a diff.
    """
    changes = list(_compare_bodies(before, now)) or ["the request differs"]
    return changes, _differing_parts(before, now)


def same_conversation(before: Mapping[str, Json], now: Mapping[str, Json]) -> bool:
    """Whether two requests are probably the same turn of the same conversation.

    They must have the same number of messages with the same roles. At least one message or the
    system prompt must be equal, or the first messages must be similar. The content is compared
    because the code may also have inserted another model call before the recorded one.
    """
    first, second = _messages(before), _messages(now)
    if [*map(_role, first)] != [*map(_role, second)]:
        return False
    texts = list(zip(map(_text, first), map(_text, second), strict=True))
    prompts = [_prompts(one) for one in (before, now)]
    if any(one == other for one, other in texts) or (prompts[0] and prompts[0] == prompts[1]):
        return True
    return not texts or _similar(*texts[0])


def _messages(body: Mapping[str, Json]) -> list[Json]:
    found = body.get("messages", body.get("input"))
    messages = found if isinstance(found, list) else [{"role": "user", "content": found}]
    return [one for one in messages if not _is_prompt(one)]


def _prompts(body: Mapping[str, Json]) -> list[Json]:
    found = body.get("messages", body.get("input"))
    prompts = [one for one in found if _is_prompt(one)] if isinstance(found, list) else []
    return prompts + [body[name] for name in _PROMPTS if body.get(name)]


def _role(message: Json) -> Json:
    return _get(message, "role") or _get(message, "type")


def _text(message: Json) -> str:
    content = _get(message, "content")
    return content if isinstance(content, str) else json.dumps(message, sort_keys=True)


def _similar(one: str, other: str) -> bool:
    return difflib.SequenceMatcher(None, one[:_COMPARED], other[:_COMPARED]).ratio() >= _ALIKE


def join_changes(changes: list[str]) -> str:
    """Join differences to a headline. It names the first few and counts the others."""
    more = len(changes) - _NAMED
    return "; ".join(changes[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def shorten(value: Json) -> str:
    """A value as a headline shows it, cut if it is long."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def json_diff(
    recorded: Json, asked: Json, names: tuple[str, str] = ("recorded", "asked now")
) -> str:
    """A short unified diff of two values as indented JSON. ``names`` are those of the values.

    A text of several lines becomes a list with one item for each line, so the diff is readable.
    """
    before, after = (
        json.dumps(_by_line(value), indent=1, sort_keys=True, ensure_ascii=True).splitlines()
        for value in (recorded, asked)
    )
    lines = list(difflib.unified_diff(before, after, *names, lineterm="", n=2))
    if len(lines) > _DIFF_LINES:
        lines = [*lines[:_DIFF_LINES], f"… {len(lines) - _DIFF_LINES} more lines"]
    return "\n".join(line if len(line) <= _LINE else line[:_LINE] + "…" for line in lines)


def _by_line(value: Json) -> Json:
    if isinstance(value, str) and "\n" in value:
        return value.splitlines()
    if isinstance(value, dict):
        return {name: _by_line(one) for name, one in value.items()}
    return [_by_line(one) for one in value] if isinstance(value, list) else value


def _differing_parts(before: dict[str, Json], now: dict[str, Json]) -> tuple[Json, Json]:
    """Two requests without the fields and list items that are equal in both."""
    names = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    one = {name: before[name] for name in names if name in before}
    other = {name: now[name] for name in names if name in now}
    for name in names:
        first, second = one.get(name), other.get(name)
        if isinstance(first, list) and isinstance(second, list):
            one[name], other[name] = _middles(first, second)
    return one, other


def _middles(before: list[Json], now: list[Json]) -> tuple[list[Json], list[Json]]:
    """Two lists without their common beginning and their common end."""
    shortest = min(len(before), len(now))
    start = next((n for n in range(shortest) if before[n] != now[n]), shortest)
    rest = shortest - start
    end = next((n for n in range(rest) if before[-1 - n] != now[-1 - n]), rest)
    return before[start : len(before) - end], now[start : len(now) - end]


# -- bodies of model calls -------------------------------------------------------------------------


def _compare_bodies(before: Mapping[str, Json], now: Mapping[str, Json]) -> Iterator[str]:
    rest = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    for name in sorted(rest & set(_PROMPTS)):
        rest.discard(name)
        yield "the system prompt differs"
    for name in sorted(rest & {"messages", "input"}):
        if isinstance(before.get(name), list) and isinstance(now.get(name), list):
            rest.discard(name)
            yield from _compare_messages(before[name], now[name])
    if "tools" in rest and isinstance(before.get("tools", []), list):
        rest.discard("tools")
        yield from _compare_tools(before.get("tools") or [], now.get("tools") or [])
    if "stream" in rest:
        rest -= {"stream", "stream_options"}
        yield f"streaming was switched {'on' if now.get('stream') else 'off'}"
    yield from compare_fields(
        {name: before[name] for name in sorted(rest) if name in before},
        {name: now[name] for name in sorted(rest) if name in now},
    )


def _compare_messages(before: list[Json], now: list[Json]) -> Iterator[str]:
    prompts, rest = (
        [[one for one in messages if _is_prompt(one) is wanted] for messages in (before, now)]
        for wanted in (True, False)
    )
    if prompts[0] != prompts[1]:
        yield "the system prompt differs"
    if len(rest[0]) != len(rest[1]):
        yield f"the conversation has {len(rest[1])} messages instead of {len(rest[0])}"
    for number, (one, other) in enumerate(zip(*rest, strict=False), 1):
        if one != other:
            who = _get(other, "role") or _get(other, "type") or "item"
            yield f"message {number} of the conversation ({who}) differs"
            return


def _is_prompt(message: Json) -> bool:
    return _get(message, "role") in ("system", "developer")


def _compare_tools(before: list[Json], now: list[Json]) -> Iterator[str]:
    first, second = ({_tool_name(tool): tool for tool in tools} for tools in (before, now))
    yield from (f"tools: a tool was added: {name}" for name in second if name not in first)
    yield from (f"tools: a tool was removed: {name}" for name in first if name not in second)
    both = [name for name in first if name in second]
    for name in both:
        if first[name] != second[name]:
            yield f"tools: {name}: {join_changes(list(_compare_tool(first[name], second[name])))}"
    if both != [name for name in second if name in first]:
        yield "tools: their order differs"


def _compare_tool(before: Json, now: Json) -> Iterator[str]:
    first, second = (_get(one, "function") or one for one in (before, now))
    if not isinstance(first, dict) or not isinstance(second, dict):
        yield "its definition differs"
        return
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if one == other:
            continue
        changes = list(_compare_parameters(_get(one, "properties"), _get(other, "properties")))
        yield from changes or [f"its {name} {'differ' if name.endswith('s') else 'differs'}"]


def _compare_parameters(before: Json, now: Json) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        yield from (f"a parameter was added: {name}" for name in now if name not in before)
        yield from (f"a parameter was removed: {name}" for name in before if name not in now)


def _tool_name(tool: Json) -> str:
    name = _get(_get(tool, "function"), "name") or _get(tool, "name") or _get(tool, "type")
    return str(name)


def compare_fields(
    before: Mapping[str, Json], now: Mapping[str, Json], what: str = ""
) -> Iterator[str]:
    """The differences between two objects, one phrase a field; ``what`` stands before its name."""
    for name in [*before, *(name for name in now if name not in before)]:
        one, other = before.get(name, _MISSING), now.get(name, _MISSING)
        if one is _MISSING:
            yield f"{what}{name} was added: {shorten(other)}"
        elif other is _MISSING:
            yield f"{what}{name} was removed, it was {shorten(one)}"
        elif not are_equal(one, other):
            yield f"{what}{name} {shorten(one)} → {shorten(other)}"


def _get(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None
