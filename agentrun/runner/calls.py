"""`call_tools`: answer the tool calls of a model's reply.

Whatever the model sent is answered: an unknown tool, malformed or invalid arguments, a missing or
repeated call id become recorded steps whose error the model reads. Only so often in a row, though:
a model that keeps at it fails the run instead of emptying the purse.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentrun.core.errors import AgentrunError, ConfigError, LimitExceeded, ToolError, ToolFailed
from agentrun.core.events import Json
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.identity import Asked, find_call
from agentrun.core.messages import ToolRequest
from agentrun.runner import failures
from agentrun.runner.context import Line, current_line, on_line
from agentrun.runner.perform import Body, perform
from agentrun.runner.replies import Reply, Told, answers, read_reply, sendable
from agentrun.runner.schemas import by_name
from agentrun.runner.step import Wanted
from agentrun.runner.tool import Tool
from agentrun.runner.values import Result

MALFORMED_IN_A_ROW = 3  # replies none of whose calls could be made


@dataclass(frozen=True)
class _Call:
    """One call of the reply: the tool and its arguments, or why it cannot be made."""

    sent: ToolRequest
    asked: Asked | None
    tool: Tool[..., Any] | None = None
    values: dict[str, Any] | None = None
    problem: str = ""


def call_tools(reply: Any, tools: Iterable[Tool[..., Any]]) -> list[Json]:
    """Perform the tool calls of ``reply`` in order; return the input items that answer them.

    ``reply`` is a chat completion or its message, a response, an Anthropic message, or a dict of
    one. The items are of the same API, to append to the conversation after the reply itself:
    tool messages, function call outputs, or one user message with every result. Errors of tools,
    and calls that cannot be made, are answered to the model.

    Raises:
        ConfigError: a tool is async (use `acall_tools`), or ``tools`` are no tools.
        LimitExceeded: three replies in a row held no call that could be made.
    """
    line, read = current_line(), read_reply(reply)
    calls = _prepare(line, read, tools)
    if any(call.tool is not None and call.tool.is_async for call in calls):
        raise ConfigError("call_tools() cannot perform async tools; use `await acall_tools()`")
    return answers(read.api, [_told(call, *_try(line, call)) for call in calls])


async def acall_tools(reply: Any, tools: Iterable[Tool[..., Any]]) -> list[Json]:
    """`call_tools`, with all calls at once: async tools as tasks, sync ones in threads."""
    line, read = current_line(), read_reply(reply)
    calls = _prepare(line, read, tools)
    tasks = [asyncio.ensure_future(_try_async(line, call)) for call in calls]
    # All of them: when one interrupts the run, the steps in flight beside it still finish.
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    told = [
        _told(call, *result)
        for call, result in zip(calls, results, strict=True)
        if not isinstance(result, BaseException)
    ]
    return answers(read.api, told)


# -- reading the reply ---------------------------------------------------------------------------


def _prepare(line: Line | None, reply: Reply, tools: Iterable[Tool[..., Any]]) -> list[_Call]:
    named = by_name(tools)
    calls = [_read(line, request, named, reply.cut_off) for request in reply.requests]
    if line is not None and calls:
        with line.run.lock:
            scope = line.scope
            scope.malformed = scope.malformed + 1 if all(c.problem for c in calls) else 0
            if scope.malformed > MALFORMED_IN_A_ROW:
                raise LimitExceeded(
                    f"{scope.malformed} replies in a row asked for no tool call that can be made; "
                    f"the last: {calls[-1].problem}",
                    key=line.run.key,
                )
    return calls


def _read(
    line: Line | None, sent: ToolRequest, named: dict[str, Tool[..., Any]], cut_off: bool
) -> _Call:
    asked = None
    if line is not None:
        with line.run.lock:
            asked = find_call(line.scope, sent.name, sent.id or None, sent.arguments.__eq__)
    tool = named.get(sent.name)
    if tool is None:
        known = ", ".join(sorted(named)) or "none"
        return _Call(sent, asked, problem=f"there is no tool {sent.name!r}; tools: {known}")
    try:
        given = json.loads(sent.arguments or "{}")
    except (ValueError, RecursionError) as error:
        cause = "the reply was cut off at its length limit" if cut_off else str(error)
        return _Call(sent, asked, problem=f"the arguments are not valid JSON: {cause}")
    if not isinstance(given, dict):
        return _Call(sent, asked, problem="the arguments must be a JSON object")
    try:
        values = tool.validated(given)
        tool.recorded(values)  # NaN and the like: Python's json and a type let them pass
    except ToolFailed as error:
        return _Call(sent, asked, problem=str(error))
    return _Call(sent, asked, tool, values)


# -- performing ------------------------------------------------------------------------------------


def _flow(line: Line, call: _Call) -> Flow[Any]:
    if call.tool is not None and call.values is not None:
        return call.tool.perform(line, call.values, call.asked)
    return _refused(line, call)


def _refused(line: Line, call: _Call) -> Flow[Any]:
    """A call that cannot be made is a step too: recorded, with the answer the model got."""

    def refuse(_info: Any) -> Any:
        raise ToolFailed(call.problem)

    wanted = Wanted(
        kind="tool",
        name=call.sent.name or "(no name)",
        effect="read",
        asked={"arguments": call.sent.arguments},
        call=call.asked,
    )
    return (yield from perform(line, wanted, Body(refuse, Result())))


def _try(line: Line | None, call: _Call) -> tuple[bool, Any]:
    try:
        if line is None:
            return True, _outside(call)
        return True, run_sync(_flow(line, call))
    except Exception as error:
        return False, _trouble(error)


async def _try_async(line: Line | None, call: _Call) -> tuple[bool, Any]:
    try:
        if call.tool is not None and call.tool.is_async:
            return True, await (_outside(call) if line is None else run_async(_flow(line, call)))
        if line is None:
            return True, await asyncio.to_thread(_outside, call)
        with on_line(line):
            return True, await asyncio.to_thread(run_sync, _flow(line, call))
    except Exception as error:
        return False, _trouble(error)


def _outside(call: _Call) -> Any:
    """Outside a run a tool is the plain function."""
    if call.tool is None or call.values is None:
        raise ToolFailed(call.problem)
    positional, named = call.tool.arguments.call_with(call.values, "")
    return call.tool.function(*positional, **named)


def _trouble(error: Exception) -> str:
    """What the model is told; trouble of our own is not for the model."""
    if isinstance(error, AgentrunError) and not isinstance(error, ToolError):
        raise error
    return failures.text_of(error) if isinstance(error, ToolError) else failures.summary(error)


def _told(call: _Call, ok: bool, value: Any) -> Told:
    if not ok:
        content = json.dumps({"error": value}, ensure_ascii=False)
    elif isinstance(value, str):
        content = value
    else:
        stored = call.tool.arguments.result.encode(value) if call.tool else value
        content = json.dumps(stored, ensure_ascii=False)
    return Told(sendable(call.sent.id), sendable(content), ok)
