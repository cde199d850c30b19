"""Masks arguments of tools that are declared with `masked=` and must never be stored.

A model writes such arguments into its reply, and a reply is stored. So a reply is masked before it
is stored or returned. The tools that have such arguments register their names here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from weakref import WeakValueDictionary

from agentrun.core import secrets
from agentrun.core.events import Json

__all__ = [
    "PREFIX",
    "ToolPaths",
    "known_names",
    "mask_arguments",
    "mask_calls",
    "mask_path",
    "register",
]

PREFIX = "agentrun:"  # the prefix of the key that has the type of a value: `values/tagged_json.py`
_PAIRS = frozenset({"dict", "OrderedDict", "Counter"})  # types written as lists of pairs
# Parts of a tagged value that hold names of classes and fields, and no values.
_NO_VALUE = frozenset({PREFIX + "object", PREFIX + "enum", "set"})
_ARGUMENTS = ("arguments", "input", "args")  # the field of a call's arguments in various APIs


class ToolPaths:
    """The arguments of one tool that are never stored. Each path leads through nested names.

    ``parameters`` are the names of all parameters of the tool. A model may misspell one, or wrap
    the arguments in one more object. So a value under any other name is masked whole.
    """

    def __init__(
        self, tool: str, paths: Iterable[Sequence[str]], parameters: Iterable[str]
    ) -> None:
        self.tool = tool
        self.paths = [tuple(path) for path in paths]
        self.parameters = frozenset(parameters)


# The key is the name of the tool and its function. So a function that is defined again replaces
# its old entry. If two functions have the same tool name, the arguments of both are masked.
_known: WeakValueDictionary[tuple[str, str], ToolPaths] = WeakValueDictionary()


def register(paths: ToolPaths, function: str) -> None:
    """Mask these arguments in replies as long as the object ``paths`` exists."""
    _known[paths.tool, function] = paths


def known_names() -> set[str]:
    """The names of tools with arguments that are never stored."""
    return {one.tool for one in list(_known.values()) if one.paths}


def mask_path(value: Json, path: Sequence[str], *, whole: bool = False) -> Json:
    """``value`` with a mask at ``path``. A list on the way is masked in each item.

    ``whole``: a value on the way that is no object, such as a text, is masked whole, because the
    field may be anywhere in it. Nothing is changed in place.
    """
    if isinstance(value, list):
        # If some items are objects, the field is theirs, and a plain item is not masked.
        plain = whole and not any(isinstance(item, (dict, list)) for item in value)
        return [mask_path(item, path, whole=plain) if _is_plain(item) else
                mask_path(item, path, whole=whole) for item in value]  # fmt: skip
    if not isinstance(value, dict):
        return _mask_of(value, path[0]) if whole and value is not None else value
    if next(iter(value), "").startswith(PREFIX):
        value = {part: _mask_part(part, inner, path, whole) for part, inner in value.items()}
    if value.get(path[0]) is None:
        return value
    return {**value, path[0]: _mask_field(value[path[0]], path, whole)}


def _mask_field(value: Json, path: Sequence[str], whole: bool) -> Json:
    """The masked value of the field that ``path`` begins with."""
    return mask_path(value, path[1:], whole=whole) if len(path) > 1 else _mask_of(value, path[0])


def _mask_part(part: str, inner: Json, path: Sequence[str], whole: bool) -> Json:
    """A masked part of a tagged value: its fields, its items, or its pairs of keys and values."""
    tag = part.removeprefix(PREFIX)
    if part in _NO_VALUE or isinstance(inner, bool):
        return inner
    if tag in ("defaultdict", "deque") and isinstance(inner, list) and len(inner) == 2:
        way = "dict" if tag == "defaultdict" else "tuple"
        return [inner[0], _mask_part(PREFIX + way, inner[1], path, whole)]
    if tag in _PAIRS and isinstance(inner, list):
        return [
            [pair[0], _mask_field(pair[1], path, whole)]
            if isinstance(pair, list) and len(pair) == 2 and pair[0] == path[0]
            else pair
            for pair in inner
        ]
    return mask_path(inner, path, whole=whole)


def _is_plain(value: Json) -> bool:
    return not isinstance(value, (dict, list))


def mask_arguments(tool: str, arguments: Json) -> Json:
    """The arguments of a tool call, masked. They are a value or JSON text, as the API has it.

    A text that is not a JSON object is masked whole, because the argument cannot be located in it.
    """
    tools = [one for one in list(_known.values()) if one.tool == tool]
    paths = [path for one in tools for path in one.paths]
    if not isinstance(arguments, str):
        for path in paths:
            arguments = mask_path(arguments, path, whole=True)
        in_object = paths and isinstance(arguments, dict)
        return _mask_unknown(arguments, tools) if in_object else arguments
    if not paths or not arguments.strip():
        return arguments
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        return _mask_of(arguments, "arguments")
    masked = mask_arguments(tool, values)
    return arguments if masked == values else json.dumps(masked, ensure_ascii=False)


def _mask_unknown(arguments: dict[str, Json], tools: Collection[ToolPaths]) -> dict[str, Json]:
    """The arguments of a call, with a mask in place of each that is a parameter of no such tool."""
    names = {name for one in tools for name in one.parameters}
    unknown = arguments.keys() - names
    return {name: _mask_of(value, name) if name in unknown else value
            for name, value in arguments.items()}  # fmt: skip


def mask_calls(value: Json, known: Collection[str]) -> Json:
    """A reply, or a part of one, with the arguments of its tool calls masked.

    ``known`` are the names of the tools concerned. If nothing is masked, the same object is
    returned.
    """
    if isinstance(value, list):
        items = [mask_calls(item, known) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if not isinstance(value, dict):
        return value
    changed = {
        name: new for name, item in value.items() if (new := mask_calls(item, known)) is not item
    }
    tool = value.get("name")
    if isinstance(tool, str) and tool in known:
        for name in _ARGUMENTS:
            if value.get(name) and (new := mask_arguments(tool, value[name])) != value[name]:
                changed[name] = new
    return {**value, **changed} if changed else value


def _mask_of(argument: Json, kind: str) -> str:
    text = argument if isinstance(argument, str) else json.dumps(argument)
    return text if secrets.MASK.fullmatch(text) else secrets.mask.cover(text, kind)
