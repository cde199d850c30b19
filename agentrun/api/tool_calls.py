"""`call_tools`: answer the tool calls of a model's reply.

Each tool call of the reply is answered, also one that cannot be made. An unknown tool, malformed
or invalid arguments, and calls over the cap become recorded steps whose error the model reads.
After `MALFORMED_IN_A_ROW` replies without any call that can be made, the run fails: each further
reply would cost money and probably bring nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agentrun.api.reply_formats import ParsedReply, ToolAnswer, answers, read_reply, sendable
from agentrun.api.tool import Tool, ToolFunction
from agentrun.api.tool_schemas import by_name
from agentrun.core.errors import AgentrunError, LimitExceeded, ToolError, ToolFailed
from agentrun.core.events import Json
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.identity import RequestedToolCall, find_call
from agentrun.core.json_types import is_object
from agentrun.core.messages import ToolRequest, arguments_of
from agentrun.steps import budgets
from agentrun.steps.execution_point import ExecutionPoint, at_point, current_point
from agentrun.steps.function_step import StepBody, perform
from agentrun.steps.refusals import refusal
from agentrun.steps.step import StepRequest
from agentrun.values import exceptions
from agentrun.values.typed_values import Result

MALFORMED_IN_A_ROW = 3  # replies none of whose calls could be made


@dataclass(frozen=True)
class _Call:
    """One call of the reply: the tool and its arguments, or why it cannot be made."""

    request: ToolRequest
    tool_call: RequestedToolCall | None
    tool: Tool | None = None
    arguments: dict[str, Any] | None = None  # the arguments as the model sent them
    values: dict[str, Any] | None = None  # the validated arguments
    problem: str = ""
    cap: int | None = None  # of calls in one reply, where this one is over it


def call_tools(
    reply: Any, tools: Iterable[ToolFunction[..., Any]], *, max_calls: int | None = None
) -> list[Json]:
    """Execute the tool calls of ``reply`` in order; return the messages that answer them.

    Append the reply itself to the conversation first, then the returned items. They have the form
    of the reply's API: tool messages (chat completions), function call outputs (responses), or one
    user message with all results (Anthropic). If a tool raises, or a call cannot be made, the
    answer holds the error, for the model to read. A reply without tool calls gives an empty list.

    Args:
        reply: a chat completion or its message, a response, an Anthropic message, or a dict of one.
        tools: the tools that the model may call.
        max_calls: how many calls of this reply are executed at most. The calls after that are not
            executed; their answer is an error that names the cap. Default: no cap.

    Raises:
        ConfigError: a tool is async (use `acall_tools`), a member of ``tools`` is no tool, or
            ``max_calls`` is not above 0.
        LimitExceeded: more than three replies in a row held no call that could be made.

    Example::

        messages += agentrun.call_tools(reply, [search, refund], max_calls=8)
    """
    line, read = current_point(), read_reply(reply)
    calls = _parse_calls(line, read, tools, max_calls)
    if any(call.tool is not None and call.tool.is_async for call in calls):
        raise refusal("call_tools() cannot perform async tools; use `await acall_tools()`")
    run_sync(_admit_calls(line, calls))
    _request_approvals(line, calls)
    return answers(read.api, [_answer_to(call, *_perform_call(line, call)) for call in calls])


async def acall_tools(
    reply: Any, tools: Iterable[ToolFunction[..., Any]], *, max_calls: int | None = None
) -> list[Json]:
    """Like `call_tools`, but all calls run at the same time, and tools may be async.

    Async tools run as tasks, sync tools in threads. The answers keep the order of the calls.

    Example::

        messages += await agentrun.acall_tools(reply, [search, refund])
    """
    line, read = current_point(), read_reply(reply)
    calls = _parse_calls(line, read, tools, max_calls)
    await run_async(_admit_calls(line, calls))
    _request_approvals(line, calls)
    # One thread for each call, so that a tool that waits for a person delays no other tool.
    pool = ThreadPoolExecutor(max(1, len(calls)), thread_name_prefix="agentrun-tool")
    coming = {call.tool_call.ident for call in calls if call.tool_call is not None}
    if line is not None:
        line.run.upcoming.update(coming)
    try:
        tasks = [asyncio.ensure_future(_aperform_call(line, call, pool)) for call in calls]
        # Wait for all calls: if one interrupts the run, the other steps in flight still finish.
        results = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        pool.shutdown(wait=False)
        if line is not None:  # a task that was cancelled before it began did not do this itself
            line.run.upcoming.difference_update(coming)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    results_of_calls = [
        _answer_to(call, *result)
        for call, result in zip(calls, results, strict=True)
        if not isinstance(result, BaseException)
    ]
    return answers(read.api, results_of_calls)


# -- reading the reply ---------------------------------------------------------------------------


def _parse_calls(
    line: ExecutionPoint | None,
    reply: ParsedReply,
    tools: Iterable[ToolFunction[..., Any]],
    max_calls: int | None,
) -> list[_Call]:
    check_cap(max_calls)
    named = by_name(tools)
    for tool in named.values():
        tool.check_callable()
    calls = [_parse_call(line, request, named, reply.cut_off) for request in reply.requests]
    calls = _refuse_over_cap(line, calls, max_calls)
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


def _parse_call(
    line: ExecutionPoint | None, sent: ToolRequest, named: dict[str, Tool], cut_off: bool
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
        given = arguments_of(sent.arguments)
    except (ValueError, RecursionError) as error:
        cause = "the reply was cut off at its length limit" if cut_off else str(error)
        return _Call(sent, asked, problem=f"the arguments are not valid JSON: {cause}")
    if not is_object(given):
        return _Call(sent, asked, problem="the arguments must be a JSON object")
    try:
        values = tool.validate(given, sent=True)
        tool.record(values, given)  # refuses NaN, for example, which validation lets pass
    except ToolFailed as error:
        return _Call(sent, asked, problem=str(error))
    return _Call(sent, asked, tool, given, values)


def check_cap(max_calls: object) -> None:
    """Raise ConfigError unless ``max_calls`` is None or a whole number above 0."""
    if max_calls is not None and (not isinstance(max_calls, int) or max_calls < 1):
        raise refusal(f"max_calls={max_calls!r}: give a whole number above 0, or None")


def _refuse_over_cap(
    line: ExecutionPoint | None, calls: list[_Call], max_calls: int | None
) -> list[_Call]:
    """The same calls; those over the cap have no tool, but a problem that the model reads."""
    made: list[_Call] = []
    for index, call in enumerate(calls):
        cap = _exceeded_cap(line, call, index, max_calls)
        if cap is not None:
            problem = (
                f"not performed: at most {cap} calls in one reply, and this one asked for "
                f"{len(calls)}: {len(calls) - cap} left out. Ask again for what you still need"
            )
            call = replace(call, tool=None, values=None, problem=problem, cap=cap)
        made.append(call)
    return made


def _exceeded_cap(
    line: ExecutionPoint | None, call: _Call, index: int, max_calls: int | None
) -> int | None:
    """The cap that a call exceeds, or None. For a recorded call the recorded cap counts.

    So a resume repeats the recorded decision, also if the code has another cap now.
    """
    if line is not None and call.tool_call is not None:
        known = line.run.history.steps.get(call.tool_call.ident)
        if known is not None and is_object(known.input):
            cap: int | None = known.input.get("max_calls")
            return cap
    return max_calls if max_calls is not None and index >= max_calls else None


def _admit_calls(line: ExecutionPoint | None, calls: list[_Call]) -> Flow[None]:
    """Count the calls that can be made against the budgets, before the first of them is made."""
    if line is not None:
        made = [
            call.tool_call for call in calls if call.tool is not None and call.tool_call is not None
        ]
        yield from budgets.admit_reply(line, made)


def _request_approvals(line: ExecutionPoint | None, calls: list[_Call]) -> None:
    """Request all approvals that the reply needs, before its first call waits for one.

    So a person sees all requests of a reply together.
    """
    if line is not None:
        for call in calls:
            if call.tool is not None and call.arguments is not None:
                call.tool.request_approval(line, call.arguments, call.tool_call)


# -- performing ------------------------------------------------------------------------------------


def _flow(line: ExecutionPoint, call: _Call) -> Flow[Any]:
    if call.tool is not None and call.arguments is not None:
        return call.tool.perform(line, call.arguments, call.tool_call)
    return _record_refusal(line, call)


def _record_refusal(line: ExecutionPoint, call: _Call) -> Flow[Any]:
    """Record a call that cannot be made as a step, with the error that the model reads."""

    def refuse(_info: Any) -> Any:
        raise ToolFailed(call.problem)

    request = StepRequest(
        kind="tool",
        name=call.request.name or "(no name)",
        effect="read",
        input={"arguments": call.request.arguments} | ({"max_calls": call.cap} if call.cap else {}),
        call=call.tool_call,
    )
    return (yield from perform(line, request, StepBody(refuse, Result())))


def _perform_call(line: ExecutionPoint | None, call: _Call) -> tuple[bool, Any]:
    try:
        if line is None:
            return True, _call_unrecorded(call)
        return True, run_sync(_flow(line, call))
    except Exception as error:
        return False, _text_for_model(error)


async def _aperform_call(
    line: ExecutionPoint | None, call: _Call, pool: ThreadPoolExecutor
) -> tuple[bool, Any]:
    here = current_point()
    if call.tool_call is None:  # no recorded reply asked for the call: it is a step of this task
        line = here
    elif here is not None:
        here.scope.mark_begun()  # this task stands for the call: it may begin no other step
    try:
        if call.tool is not None and call.tool.is_async:
            return True, await (
                _call_unrecorded(call) if line is None else run_async(_flow(line, call))
            )
        make = (
            partial(_call_unrecorded, call)
            if line is None
            else partial(run_sync, _flow(line, call))
        )
        with at_point(line):
            context = copy_context()
        with at_point(None):
            made = asyncio.get_running_loop().run_in_executor(pool, context.run, make)
        return True, await made
    except Exception as error:
        return False, _text_for_model(error)
    finally:
        if line is not None and call.tool_call is not None:
            line.run.upcoming.discard(call.tool_call.ident)


def _call_unrecorded(call: _Call) -> Any:
    """Call the plain function, outside a run; nothing is recorded."""
    if call.tool is None or call.values is None:
        raise ToolFailed(call.problem)
    return call.tool.call(call.values, call.tool.passed, "")


def _text_for_model(error: Exception) -> str:
    """The error as the model reads it. An error of agentrun itself is raised instead."""
    if isinstance(error, AgentrunError) and not isinstance(error, ToolError):
        raise error
    return exceptions.text_of(error) if isinstance(error, ToolError) else exceptions.summary(error)


def _answer_to(call: _Call, ok: bool, value: Any) -> ToolAnswer:
    if not ok:
        content = json.dumps({"error": value}, ensure_ascii=False)
    elif isinstance(value, str):
        content = value
    else:
        shown = call.tool.arguments.result.encode_for_display(value) if call.tool else value
        content = json.dumps(shown, ensure_ascii=False)
    return ToolAnswer(sendable(call.request.id), sendable(content), ok)
