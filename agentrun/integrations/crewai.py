"""CrewAI: inside a run, each tool call of a crew or an agent, and its memory, are recorded steps.

    from agentrun.integrations.crewai import durable

    agentrun.install()
    crew = durable(Crew(agents=[clerk], tasks=[task]), effects={"search": "read"})

`agentrun.install()` records the language models, which make their own clients. A tool whose
function `agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import check_classes, choose_effect
from agentrun.integrations.recorded_functions import change_result, record_calls

__all__ = ["durable"]

C = TypeVar("C")


def durable(crew: C, *, effects: Mapping[str, Effect] | None = None, default: Effect = "once") -> C:
    """Record the tool calls and the memory of a crew, or of an agent that works without one.

    It serves the tools of the agents and of the tasks, and those that agents get from MCP servers
    and platforms. Work that is delegated to a coworker is no step of its own: what the coworker
    does is recorded. Of a memory, what is recalled is recorded, and each save is a step: after a
    crash the memory is searched for what was to be saved.

    Args:
        crew: a `Crew` or an `Agent`.
        effects: effect classes by tool name, as the model reads it: ``read_a_file``.
        default: the effect class of a tool that has none in ``effects``.

    Returns:
        The same crew, changed in place together with its tools and its memory.

    Raises:
        ConfigError: an effect class is misspelt.

    Example:
        >>> crew = durable(Crew(agents=[clerk], tasks=[task]), effects={"search": "read"})
    """

    check_classes(effects, default)

    def record(tools: Iterable[Any] | None) -> list[Any]:
        return [_record_tool(tool, effects, default) for tool in tools or ()]

    changed: Any = crew
    tasks = getattr(changed, "tasks", ())
    agents = [*getattr(changed, "agents", [changed]), getattr(changed, "manager_agent", None)]
    for agent in filter(None, [*agents, *(task.agent for task in tasks)]):
        record(agent.tools)
        for find in ("get_mcp_tools", "get_platform_tools"):
            _set(agent, find, change_result(getattr(type(agent), find).__get__(agent), record))
        _record_memory(getattr(agent, "memory", None))
    for task in tasks:
        record(task.tools)
    _record_memory(getattr(changed, "_memory", None))
    again = functools.partial(durable, effects=effects, default=default)
    _set(crew, "copy", change_result(type(changed).copy.__get__(crew), again))
    return crew


def _set(target: Any, name: str, value: Any) -> None:
    """Set a method of one object; pydantic would take it for a field."""
    object.__setattr__(target, name, value)


# -- tools -----------------------------------------------------------------------------------------


def _record_tool(tool: Any, effects: Mapping[str, Effect] | None, default: Effect) -> Any:
    """The tool, whose function is recorded: `func` of a `Tool`, else `_run` and `_arun`."""
    strings: Any = importlib.import_module("crewai.utilities.string_utils")
    failures: Any = importlib.import_module("crewai.tools.tool_failure")
    name = strings.sanitize_tool_name(tool.name)
    effect = choose_effect(name, effects, None, default)
    kinds: dict[str, Any] = {"tool_failure": failures.ToolFailure}
    if tool.result_schema is not None:
        kinds["result_schema"] = tool.result_schema

    def dump(value: Any) -> Any:
        if agentrun.current_run() is None or not isinstance(value, BaseModel):
            return value
        dumped = value.model_dump(mode="json")
        kind = next((name for name, kind in kinds.items() if isinstance(value, kind)), None)
        return {"crewai": kind, "value": dumped} if kind else dumped

    def load(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {"crewai", "value"}:
            return value
        return kinds[value["crewai"]].model_validate(value["value"])

    for part in ("func",) if hasattr(tool, "func") else ("_run", "_arun"):
        function = getattr(tool, part)
        _set(tool, part, record_calls(function, name, effect=effect, dump=dump, load=load))
    return tool


# -- memory ----------------------------------------------------------------------------------------


def _record_memory(memory: Any) -> None:
    """Record what is recalled from a memory, and each save, which happens in the background.

    Both ask a model about what the store holds. A crash interrupts them, and other runs change the
    store meanwhile, so what they read of the store is recorded too.
    """
    backing = getattr(memory, "_memory", None) or memory  # a scope or a slice has a memory
    if not hasattr(backing, "_encode_batch"):
        return
    types: Any = importlib.import_module("crewai.memory.types")
    records, matches = _adapt(list[types.MemoryRecord]), _adapt(list[types.MemoryMatch])
    kind = type(backing)
    store = getattr(backing._storage, "_inner", backing._storage)

    def find_saved(key: str, args: list[Any], kwargs: dict[str, Any], begun: str) -> Any:
        """Whether an interrupted save has happened: each of its contents has a new record."""
        since = datetime.fromisoformat(begun).replace(tzinfo=None)  # CrewAI's times are plain UTC
        contents = set(args[0])
        listed = [r for r in store.list_records() if r.content in contents]
        found = [record for record in listed if record.created_at >= since]
        if contents - {record.content for record in found}:
            return agentrun.NotHappened()
        return agentrun.Happened(records.dump_python(found, mode="json"))

    recall, save = kind.recall.__get__(backing), kind._encode_batch.__get__(backing)
    saving = _record_models(save, records, "save_memory", "once", reconcile=find_saved)
    _set(backing, "recall", _record_models(recall, matches, "recall_memory", "read"))
    _set(backing, "_encode_batch", saving)
    backing._storage = _RecordedStore(store, types)


def _record_models(
    function: Callable[..., Any], kind: Any, name: str, effect: Effect, **options: Any
) -> Callable[..., Any]:
    """The function, whose result is of this kind, as one whose calls inside a run are steps."""

    @agentrun.step(effect=effect, name=name, **options)
    def recorded(args: list[Any], kwargs: dict[str, Any], begun: str) -> Any:
        return kind.dump_python(function(*args, **kwargs), mode="json")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if agentrun.current_run() is None:
            return function(*args, **kwargs)
        begun = agentrun.now().isoformat() if effect == "once" else ""
        return kind.validate_python(recorded(list(args), kwargs, begun))

    return call


def _adapt(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class _RecordedStore:
    """The store of a memory. Each read that a model is asked about is a step inside a run."""

    def __init__(self, inner: Any, types: Any) -> None:
        self._inner = inner
        self._reads: dict[str, TypeAdapter[Any]] = {
            "search": _adapt(list[tuple[types.MemoryRecord, float]]),
            "get_scope_info": _adapt(types.ScopeInfo),
            "list_scopes": _adapt(list[str]),
            "list_categories": _adapt(dict[str, int]),
        }

    def __getattr__(self, name: str) -> Any:
        function, kind = getattr(self._inner, name), self._reads.get(name)
        if kind is None or agentrun.current_run() is None:
            return function

        def read(*args: Any, **kwargs: Any) -> Any:
            # The arguments are not recorded, since one of them is an embedding.
            @agentrun.step(effect="read", name=f"memory_{name}")
            def recorded() -> Any:
                return kind.dump_python(function(*args, **kwargs), mode="json")

            return kind.validate_python(recorded())

        return read
