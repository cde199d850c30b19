"""Tool descriptions for a model, from a function's signature and docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.runner.replies import Api
from agentrun.runner.tool import Tool

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_PARAMETER = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.+)$")


def schemas(*tools: Tool[..., Any], api: Api = "chat") -> list[Json]:
    """The ``tools=`` argument for a model call, one entry a tool.

    ``api`` is "chat" (OpenAI's chat completions), "responses" or "anthropic". OpenAI's are strict
    where that can be; Anthropic's are not, since not all of its models take that.
    ``idempotency_key`` is left out: agentrun fills it in. A parameter with a default may be left
    out by the model, or null if the schema is strict, and then has its default.

    Raises:
        ConfigError: ``api`` is unknown, two tools share a name, or something is no tool.
    """
    if api not in get_args(Api):
        known = ", ".join(map(repr, get_args(Api)))
        raise ConfigError(f"schemas(api={api!r}): there is no such API; it is one of {known}")
    by_name(tools)
    return [_DESCRIBE[api](tool) for tool in tools]


def by_name(tools: Any) -> dict[str, Tool[..., Any]]:
    """Tools by name. Raises ConfigError for what is no tool, and for two of one name."""
    named: dict[str, Tool[..., Any]] = {}
    for tool in tools:
        if not isinstance(tool, Tool):
            raise ConfigError(f"{tool!r} is not a tool; decorate it with @agentrun.tool")
        if tool.name in named:
            raise ConfigError(f"two tools are named {tool.name!r}; give one of them name=")
        named[tool.name] = tool
    return named


def _chat(tool: Tool[..., Any]) -> dict[str, Json]:
    function = _described(tool)
    if _strictly(function["parameters"]):
        function["strict"] = True
    return {"type": "function", "function": function}


def _responses(tool: Tool[..., Any]) -> dict[str, Json]:
    function = _described(tool)
    # Said either way: here a function is strict unless it says that it is not.
    return {"type": "function", **function, "strict": _strictly(function["parameters"])}


def _anthropic(tool: Tool[..., Any]) -> dict[str, Json]:
    function = _described(tool)
    return {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }


_DESCRIBE: dict[Api, Callable[[Tool[..., Any]], dict[str, Json]]] = {
    "chat": _chat,
    "responses": _responses,
    "anthropic": _anthropic,
}


def _described(tool: Tool[..., Any]) -> dict[str, Json]:
    """Name, description and parameters, as the docstring and the signature give them."""
    summary, described = _docstring(tool.function)
    schema = tool.arguments.model.model_json_schema(by_alias=True)
    _clean(schema)
    for name, text in described.items():
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", text)
    return {"name": tool.name, "description": summary, "parameters": schema}


def _docstring(function: Any) -> tuple[str, dict[str, str]]:
    """A docstring's text before its sections, and what its Args section says of each name."""
    text: list[str] = []
    described: dict[str, str] = {}
    section = name = ""
    for line in (inspect.getdoc(function) or "").splitlines():
        if heading := _SECTION.match(line):
            section = heading[1]
        elif not section:
            text.append(line)
        elif section in ("Args", "Arguments", "Parameters"):
            if found := _PARAMETER.match(line.strip()):
                name = found[1]
                described[name] = found[2].strip()
            elif name and line.strip():
                described[name] += " " + line.strip()
    return "\n".join(text).strip(), described


def _clean(schema: Json) -> None:
    """Drop the titles that pydantic makes up from names."""
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for value in schema.values():
            _clean(value)
    elif isinstance(schema, list):
        for value in schema:
            _clean(value)


def _strictly(schema: dict[str, Json]) -> bool:
    """Make ``schema`` strict in place: every object closed, every property required.

    False, and unchanged, where that cannot be: an object with free keys.
    """
    objects = list(_objects(schema))
    if any("properties" not in found and found is not schema for found in objects):
        return False
    for found in objects:
        properties = found.setdefault("properties", {})
        required = set(found.get("required", ()))
        for name in properties:
            if name not in required:
                properties[name] = _nullable(properties[name])
        found["required"] = list(properties)
        found["additionalProperties"] = False
    return True


def _objects(schema: Json) -> Any:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from _objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _objects(value)


def _nullable(schema: dict[str, Json]) -> dict[str, Json]:
    """The same, or null; a default means nothing to a strict schema."""
    schema = {name: value for name, value in schema.items() if name != "default"}
    options = schema.get("anyOf", [{k: v for k, v in schema.items() if k != "description"}])
    if {"type": "null"} not in options:
        options = [*options, {"type": "null"}]
    kept = {"description": schema["description"]} if "description" in schema else {}
    return {"anyOf": options, **kept}
