"""LlamaIndex: inside a run, each tool call of an agent or of an agent workflow is a recorded step.

    from agentrun.integrations.llama_index import durable

    agentrun.install()
    agent = durable(FunctionAgent(tools=[search], llm=llm), effects={"search": "read"})

`agentrun.install()` records the language model, which makes its own client. A tool whose function
`agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

import copy
import functools
import json
import types
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from llama_index.core.tools import ToolOutput
from pydantic import TypeAdapter
from workflows.runtime.types.results import WaitingForEvent

import agentrun
from agentrun.core.errors import Refusing
from agentrun.core.events import Effect, Json
from agentrun.integrations.effect_classes import (
    check_classes,
    check_names,
    choose_effect,
    is_recorded_tool,
)

__all__ = ["durable"]

A = TypeVar("A")

_ANY: TypeAdapter[Any] = TypeAdapter(Any)
_MEMORY = "memory"  # the key of the state that holds LlamaIndex's own object
_calling: ContextVar[Any] = ContextVar("_calling")  # the event whose tool call is being made


def durable(
    agent: A, *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
) -> A:
    """Record the tool calls of an agent or of an agent workflow.

    It serves the tools that are listed, those that a `tool_retriever` finds, and the code that a
    `CodeActAgent` executes. What a tool changes in the state of the workflow (``ctx.store``) is
    recorded with its result, so that a resumed run has the same state: it has to be JSON. A handoff
    is no step: it is repeated from the recorded reply. What a tool returns is recorded as the model
    reads it, and ``raw_output`` as JSON. The model reads the results of one reply in the order of
    the calls, and not in the order in which they ended.

    Args:
        agent: a `FunctionAgent`, `ReActAgent`, `CodeActAgent` or `AgentWorkflow`.
        effects: effect classes by tool name.
        default: the effect class of a tool that has none in ``effects``.

    Returns:
        The same agent, changed in place. Its tools are not changed.

    Raises:
        ConfigError: an effect class is misspelt, or a name in ``effects`` is no tool's.
        Refusing: a tool waits for an event inside a run. The run fails.

    Example:
        >>> agent = durable(FunctionAgent(tools=[search], llm=llm), effects={"search": "read"})
    """
    check_classes(effects, default)
    kind: Any = type(agent)
    listed = _find_names(agent)
    if listed is not None:
        check_names(effects, listed, complete=True)

    async def get_tools(*args: Any, **kwargs: Any) -> list[Any]:
        found = await kind.get_tools(agent, *args, **kwargs)
        if listed is None and agentrun.current_run() is not None:
            check_names(effects, (tool.metadata.get_name() for tool in found), complete=False)
        return [_record_tool(tool, effects, default) for tool in found]

    @functools.wraps(kind.call_tool)
    async def call_tool(self: Any, ctx: Any, ev: Any) -> Any:
        if agentrun.current_run() is not None:
            _progress(ctx).calls.append(_identify(ev))
            _calling.set(ev)
        return await kind.call_tool(self, ctx, ev)

    @functools.wraps(kind.aggregate_tool_results)
    async def aggregate_tool_results(self: Any, ctx: Any, ev: Any) -> Any:
        ordered = ctx if agentrun.current_run() is None else _OrderedContext(ctx)
        return await kind.aggregate_tool_results(self, ordered, ev)

    for step in (call_tool, aggregate_tool_results):
        _set(agent, step.__name__, types.MethodType(step, agent))
    _set(agent, "get_tools", get_tools)
    return agent


def _set(target: Any, name: str, value: Any) -> None:
    """Set a method of one object; pydantic would take it for a field."""
    object.__setattr__(target, name, value)


# -- tool calls ------------------------------------------------------------------------------------


def _find_names(agent: Any) -> set[str] | None:
    """The names of all tools of an agent or workflow; None if they are found only in a run."""
    own = getattr(agent, "agents", None)
    agents = [*own.values()] if isinstance(own, dict) else [agent]
    names = {"handoff"}
    for one in agents:
        if getattr(one, "tool_retriever", None) is not None:
            return None
        names |= {tool.metadata.get_name() for tool in getattr(one, "tools", None) or ()}
    return names


def _record_tool(tool: Any, effects: Mapping[str, Effect] | None, default: Effect) -> Any:
    """A copy of a tool whose calls inside a run are recorded."""
    name = tool.metadata.get_name()
    if name == "handoff" or is_recorded_tool(getattr(tool, "real_fn", None)):
        return tool
    context = getattr(tool, "ctx_param_name", None)
    effect = choose_effect(name, effects, None, default)

    async def acall(**arguments: Any) -> Any:
        if agentrun.current_run() is None:
            return await tool.acall(**arguments)
        passed = {context: arguments.pop(context)} if context in arguments else {}
        state = _State(passed[context]) if passed else None
        replayed = True

        async def act(**given: Any) -> Json:
            nonlocal replayed
            replayed = False
            before = await state.read() if state else {}
            try:
                output = await tool.acall(**given, **passed)
            except WaitingForEvent:
                raise Refusing(
                    f"the tool {name} waits for an event inside a run, which cannot be recorded: "
                    "let a person decide by @agentrun.tool(approve=True)"
                ) from None
            return {"output": _dump(output), **(await state.find_changes(before) if state else {})}

        call_id = _calling.get().tool_id
        found = await agentrun.acall(name, arguments, act, call_id=call_id, effect=effect)
        if state and replayed and isinstance(found, dict):
            await state.change_again(found)
        return _load(name, found)

    recorded = copy.copy(tool)
    recorded.acall = acall
    return recorded


def _load(name: str, found: Json) -> ToolOutput:
    """What `_dump` wrote, or what a person said that the tool returned."""
    match found:
        case {"output": {"tool_name": str(), **others} as output} if others:
            return ToolOutput(**output)
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return ToolOutput(content=text, tool_name=name, raw_input={}, raw_output=found)


def _dump(output: ToolOutput) -> Json:
    """What a tool returned, as JSON; what JSON does not have is there as text."""
    dumped: Json = _ANY.dump_python(output, mode="json", fallback=str)
    return dumped


# -- tool calls of one reply, which are made at the same time --------------------------------------


@dataclass
class _Progress:
    """How far the tool calls of one workflow have come.

    A resume hands out recorded results in another order than that in which the calls ended. So each
    change of the state has a number, and the later of two changes stays.
    """

    calls: list[Any] = field(default_factory=list)  # of the latest reply, as they began
    changes: int = 0
    changed_by: dict[str, int] = field(default_factory=dict)  # by key: its latest change


_workflows: WeakKeyDictionary[Any, _Progress] = WeakKeyDictionary()


def _progress(ctx: Any) -> _Progress:
    return _workflows.setdefault(ctx.store, _Progress())


def _identify(call: Any) -> tuple[str, str, str]:
    """What a tool call and its result have in common."""
    return call.tool_id, call.tool_name, repr(call.tool_kwargs)


class _OrderedContext:
    """The context of a workflow that collects the results of tool calls in the order of the calls.

    LlamaIndex collects them in the order in which the calls end, and the model reads them so.
    """

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def collect_events(self, *args: Any, **kwargs: Any) -> Any:
        """The results, once all of them are there."""
        results = self._ctx.collect_events(*args, **kwargs)
        if results:
            calls = _progress(self._ctx).calls
            results.sort(key=lambda result: calls.index(_identify(result)))
            calls.clear()
        return results


class _State:
    """The state of a workflow, as one tool call finds and changes it."""

    def __init__(self, ctx: Any) -> None:
        self._store, self._progress = ctx.store, _progress(ctx)

    async def read(self) -> dict[str, Any]:
        """A copy of all values but the memory."""
        state = await self._store.get_state()
        return copy.deepcopy({key: state[key] for key in state if key != _MEMORY})

    async def find_changes(self, before: dict[str, Any]) -> Json:
        """The values that are not as before, with the number of this change."""
        now = await self.read()
        changed = {k: v for k, v in now.items() if k not in before or before[k] != v}
        if not changed:
            return {}
        self._progress.changes += 1
        self._progress.changed_by.update(dict.fromkeys(changed, self._progress.changes))
        return {"state": changed, "number": self._progress.changes}

    async def change_again(self, found: Json) -> None:
        """Make the changes of a recorded call, but for values that a later call has changed."""
        number = found.get("number", 0)
        self._progress.changes = max(self._progress.changes, number)
        for key, value in found.get("state", {}).items():
            if self._progress.changed_by.get(key, 0) < number:
                self._progress.changed_by[key] = number
                await self._store.set(key, value)
