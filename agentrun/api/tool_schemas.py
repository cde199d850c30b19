"""`schemas`: describe tools to a model, from their functions' signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol, get_args

from agentrun.api.reply_formats import Api
from agentrun.api.strict_schemas import strict
from agentrun.api.tool import Tool, ToolFunction, tool_of
from agentrun.core.events import Json
from agentrun.core.json_types import is_array, is_object
from agentrun.steps.refusals import refusal
from agentrun.values.arguments import Arguments

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_PARAMETER = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.+)$")


def schemas(*tools: ToolFunction[..., Any], api: Api = "chat") -> list[Json]:
    """Return the ``tools=`` argument for a model call: one entry for each tool.

    The description is the function's docstring before its sections; the ``Args:`` section describes
    the parameters. ``idempotency_key`` is left out, because agentrun fills it in. OpenAI's schemas
    are strict where the types allow it. Anthropic's are not, because some of its models refuse
    strict schemas. The model may leave out a parameter that has a default; in a strict schema it
    sends null instead, which means the default.

    Args:
        tools: functions that `tool` or `step` made. A method may be given without its object, as
            ``Shop.look``; `call_tools` needs the method of an object, ``shop.look``.
        api: "chat" (OpenAI's chat completions), "responses" or "anthropic".

    Raises:
        ConfigError: ``api`` is unknown, two tools have one name, or an argument is no tool.

    Example:
        >>> client.chat.completions.create(
        ...     model="gpt-5-mini", messages=messages, tools=agentrun.schemas(search, refund))
    """
    if api not in get_args(Api):
        known = ", ".join(map(repr, get_args(Api)))
        raise refusal(f"schemas(api={api!r}): there is no such API; it is one of {known}")
    return [_DESCRIBE[api](tool) for tool in by_name(tools, callable_now=False).values()]


def by_name(
    tools: Iterable[ToolFunction[..., Any]], *, callable_now: bool = True
) -> dict[str, Tool]:
    """The tools by name.

    Raises ConfigError if a member is no tool, or two have one name. With ``callable_now``, also
    for a method without its object: it can be described, but not called.
    """
    named: dict[str, Tool] = {}
    for given in tools:
        tool = tool_of(given)
        if tool is None:
            raise refusal(f"{given!r} is not a tool; decorate it with @agentrun.tool")
        if callable_now and tool.receiver and not tool.passed:
            raise refusal(
                f"{given.__qualname__} is a method, and its object is missing: make an object and "
                f"give its tool, as in `one = {_class_of(given)}(…)` and `one.{given.__name__}`"
            )
        tool.check_sent()
        if tool.name in named:
            raise refusal(f"two tools are named {tool.name!r}; give one of them name=")
        named[tool.name] = tool
    return named


def _class_of(method: ToolFunction[..., Any]) -> str:
    return method.__qualname__.rpartition(".")[0].rpartition(".")[2]


def _chat(tool: Tool) -> dict[str, Json]:
    function = describe(tool)
    if (parameters := strict(function["parameters"])) is not None:
        function.update(parameters=parameters, strict=True)
    return {"type": "function", "function": function}


def _responses(tool: Tool) -> dict[str, Json]:
    function = describe(tool)
    parameters = strict(function["parameters"])
    function["parameters"] = parameters or function["parameters"]
    # Always set: in the Responses API a function without this field is strict.
    return {"type": "function", **function, "strict": parameters is not None}


def _anthropic(tool: Tool) -> dict[str, Json]:
    function = describe(tool)
    return {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }


_DESCRIBE: dict[Api, Callable[[Tool], dict[str, Json]]] = {
    "chat": _chat,
    "responses": _responses,
    "anthropic": _anthropic,
}


class Described(Protocol):
    """What can be described: a tool or an agent."""

    name: str
    function: Callable[..., Any]
    arguments: Arguments


def describe(tool: Described) -> dict[str, Json]:
    """Name, description and parameters of a tool or an agent: its docstring and its signature."""
    summary, described = _docstring(tool.function)
    schema = tool.arguments.model.model_json_schema(by_alias=True)
    _clean(schema)
    for name, text in described.items():
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", text)
    return {"name": tool.name, "description": summary, "parameters": schema}


def _docstring(function: Any) -> tuple[str, dict[str, str]]:
    """The text of a docstring before its sections, and the parameters that its Args describe."""
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
    """Remove the titles that pydantic derives from names: they only cost tokens."""
    if is_object(schema):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for value in schema.values():
            _clean(value)
    elif is_array(schema):
        for value in schema:
            _clean(value)
