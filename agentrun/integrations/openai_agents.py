"""openai-agents: inside a run, the calls of function tools and of sessions are recorded steps.

    from agentrun.integrations.openai_agents import DurableSession, durable

    agent = durable(Agent(name="support", tools=[refund]))
    await Runner.run(agent, "refund order 7", session=DurableSession(SQLiteSession("7", "app.db")))

Give the SDK a client that is recorded: ``set_default_openai_client(agentrun.wrap(AsyncOpenAI()))``.
A tool that `agentrun.tool` decorates is recorded as it declares.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from agents import Agent, FunctionTool, Handoff
from agents.memory.session import SessionABC

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import choose_effect, is_recorded_tool

__all__ = ["DurableSession", "durable"]


def durable(
    agent: Agent[Any], *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
) -> Agent[Any]:
    """A copy of ``agent`` whose function tools are recorded steps inside a run.

    Agents that it hands off to are copied as well. Outside a run nothing changes. A handoff that
    was made by `handoff()` and tools that run at the provider are left as they are.

    Args:
        agent: the agent that a `Runner` executes.
        effects: effect classes by tool name.
        default: the effect class of a tool that ``effects`` does not name.

    Example:
        >>> support = durable(Agent(name="support", tools=[refund]), effects={"look": "read"})
    """
    return _copy(agent, effects, default, {})


def _copy(
    agent: Agent[Any],
    effects: Mapping[str, Effect] | None,
    default: Effect,
    copies: dict[int, Agent[Any]],
) -> Agent[Any]:
    """The durable copy of an agent. ``copies`` holds those made: handoffs may form a circle."""
    if id(agent) in copies:
        return copies[id(agent)]
    copy = copies[id(agent)] = agent.clone()
    copy.tools = [
        _record(tool, choose_effect(tool.name, effects, None, default))
        if isinstance(tool, FunctionTool)
        else tool
        for tool in agent.tools
    ]
    copy.handoffs = [
        other if isinstance(other, Handoff) else _copy(other, effects, default, copies)
        for other in agent.handoffs
    ]
    return copy


def _record(tool: FunctionTool, effect: Effect) -> FunctionTool:
    """A copy of the tool whose calls are recorded steps."""
    if is_recorded_tool(getattr(tool, "__wrapped__", None)):
        return tool
    invoke = tool.on_invoke_tool

    async def invoke_recorded(ctx: Any, arguments: str) -> Any:
        sent = _parse(arguments)
        if agentrun.current_run() is None or sent is None:
            return await invoke(ctx, arguments)

        async def act(**given: Any) -> Any:
            # The text of the model, unless a person edited the arguments.
            return await invoke(ctx, arguments if given == sent else json.dumps(given))

        call_id = getattr(ctx, "tool_call_id", None)
        return await agentrun.acall(tool.name, sent, act, call_id=call_id, effect=effect)

    return dataclasses.replace(tool, on_invoke_tool=invoke_recorded)


def _parse(arguments: str) -> dict[str, Any] | None:
    """The arguments of a call; None if they are malformed. The SDK then tells the model so."""
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


class DurableSession(SessionABC):
    """A session of openai-agents whose reads and writes inside a run are recorded steps.

    Without it, a resumed run reads items that the crashed one has added, and its next request
    differs. With it, the run reads what it read before, and adds nothing twice.

    Args:
        inner: the session that stores the items, such as a `SQLiteSession`.

    Example:
        >>> session = DurableSession(SQLiteSession("customer-7", "conversations.db"))
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.session_id = inner.session_id
        self.session_settings = getattr(inner, "session_settings", None)

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """The items, as they were when this run first read them here."""

        async def session_read(limit: int | None) -> list[Any]:
            return list(await self.inner.get_items(limit))

        return await agentrun.step(effect="read")(session_read)(limit)

    async def add_items(self, items: list[Any]) -> None:
        """Add items. After a crash in between, the end of the session shows if they were added."""

        async def session_write(items: list[Any]) -> None:
            await self.inner.add_items(items)

        async def reconcile(key: str, items: list[Any]) -> Any:
            last = await self.inner.get_items(len(items))
            return agentrun.Happened(None) if last == items else agentrun.NotHappened()

        await agentrun.step(reconcile=reconcile)(session_write)(items)

    async def pop_item(self) -> Any:
        """Remove the last item and return it."""

        async def session_pop() -> Any:
            return await self.inner.pop_item()

        return await agentrun.step(session_pop)()

    async def clear_session(self) -> None:
        """Remove all items."""

        async def session_clear() -> None:
            await self.inner.clear_session()

        await agentrun.step(effect="idempotent")(session_clear)()
