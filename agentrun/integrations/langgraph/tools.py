"""Tool calls of a `ToolNode`, and of LangChain's agents, as recorded steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import ToolMessage, message_to_dict, messages_from_dict
from langgraph.errors import GraphBubbleUp

import agentrun
from agentrun.core.events import Effect, Json
from agentrun.integrations.effect_classes import (
    check_classes,
    check_names,
    choose_effect,
    is_recorded_tool,
)
from agentrun.integrations.langgraph.packing import pack, unpack

__all__ = ["check_tools", "durable_tools"]


def durable_tools(
    *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
) -> dict[str, Any]:
    """The arguments that make a `ToolNode` record its tool calls, sync and async.

    `interrupt()` and `Command` inside a tool are control flow: a resumed run takes the same way.

    Args:
        effects: effect classes by tool name; they precede the tools' metadata.
        default: the effect class of a tool that declares none.

    Raises:
        ConfigError: an effect class is misspelt. If a name in ``effects`` is the misspelt name of
            a tool, the run fails with this error at its first tool call.

    Example:
        >>> node = ToolNode([search], **durable_tools(effects={"search": "read"}))
    """

    check_classes(effects, default)

    def options(request: Any) -> dict[str, Any]:
        name = request.tool_call["name"]
        listed = getattr(request.runtime, "tools", None) or ()
        check_tools([request.tool, *listed], effects)
        return {
            "call_id": request.tool_call.get("id"),
            "effect": choose_effect(name, effects, _declared_effect(request.tool), default),
            "passes": (GraphBubbleUp,),
        }

    def record(request: Any, execute: Any) -> Any:
        if not _is_recorded_here(request):
            return execute(request)

        def act(**given: Any) -> Json:
            return _pack(execute(_edit(request, given)))

        call = request.tool_call
        try:
            recorded = agentrun.call(call["name"], call["args"], act, **options(request))
        except agentrun.ToolFailed as failed:
            return _make_answer(request, str(failed), status="error")
        return _unpack(request, recorded)

    async def arecord(request: Any, execute: Any) -> Any:
        if not _is_recorded_here(request):
            return await execute(request)

        async def act(**given: Any) -> Json:
            return _pack(await execute(_edit(request, given)))

        call = request.tool_call
        try:
            recorded = await agentrun.acall(call["name"], call["args"], act, **options(request))
        except agentrun.ToolFailed as failed:
            return _make_answer(request, str(failed), status="error")
        return _unpack(request, recorded)

    return {"wrap_tool_call": record, "awrap_tool_call": arecord}


def check_tools(tools: Iterable[Any], effects: Mapping[str, Effect] | None) -> None:
    """Refuse what is misspelt: a name in ``effects``, or the effect class that a tool declares.

    Other tools may come later, so a name that resembles none of these is no error.
    """
    named = {tool.name: tool for tool in tools if getattr(tool, "name", None)}
    check_names(effects, named, complete=False)
    for name, tool in named.items():
        choose_effect(name, effects, _declared_effect(tool), "once")


def _declared_effect(tool: Any) -> Any:
    return (getattr(tool, "metadata", None) or {}).get("effect")


def _is_recorded_here(request: Any) -> bool:
    """Whether the call is made inside a run, and its function does not record itself."""
    if agentrun.current_run() is None:
        return False
    functions = (getattr(request.tool, "func", None), getattr(request.tool, "coroutine", None))
    return not any(map(is_recorded_tool, functions))


def _edit(request: Any, given: dict[str, Any]) -> Any:
    """The request, with the arguments that a person edited."""
    if given == request.tool_call["args"]:
        return request
    return request.override(tool_call={**request.tool_call, "args": given})


def _pack(value: Any) -> Json:
    """A tool message as readable JSON; a `Command` as LangGraph's own serializer writes it."""
    if isinstance(value, ToolMessage):
        return {"message": message_to_dict(value)}
    return pack(value)


def _unpack(request: Any, recorded: Json) -> Any:
    """What `_pack` wrote, or what a person said that the tool returned."""
    match recorded:
        case {"message": dict(packed), **others} if not others:
            (message,) = messages_from_dict([packed])
            return message
        case {"packed": str(), "data": str(), **others} if not others:
            return unpack(recorded)
    text = recorded if isinstance(recorded, str) else json.dumps(recorded, ensure_ascii=False)
    return _make_answer(request, text)


def _make_answer(request: Any, text: str, **options: Any) -> ToolMessage:
    """The answer to a tool call, which the model reads."""
    call = request.tool_call
    return ToolMessage(text, name=call["name"], tool_call_id=call.get("id") or "", **options)
