"""openai-agents: inside a run, the calls of tools, handoffs and sessions are recorded steps.

    from agentrun.integrations.openai_agents import DurableSession, durable

    agent = durable(Agent(name="support", tools=[refund]))
    await Runner.run(agent, "refund order 7", session=DurableSession(SQLiteSession("7", "app.db")))

Give the SDK a client that is recorded: ``set_default_openai_client(agentrun.wrap(AsyncOpenAI()))``.
A tool that `agentrun.tool` decorates is recorded as it declares.

What it cannot do: hosted tools run at the provider and are part of the model call. Shell, patch,
computer and other tools that are no function tools are not recorded. A `Handoff` that was made by
hand is called again by a resume, since only its function knows the agent; use `agentrun.step` for
what it does beside that. Realtime and voice agents are not covered.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import weakref
from collections.abc import Collection, Mapping
from typing import Any

import mcp.types
from agents import Agent, FunctionTool, Handoff
from agents.memory.session import SessionABC

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.effect_classes import (
    check_classes,
    check_names,
    choose_effect,
    hinted_effect,
    is_recorded_tool,
)
from agentrun.integrations.mcp import record_call

__all__ = ["DurableSession", "durable"]

_DURABLE = "__agentrun_durable__"  # the attribute of a durable copy of an agent
_CALL = "agentrun/call"  # in the `_meta` of a call until it is sent: which call of the model it is


def durable(
    agent: Agent[Any],
    *,
    effects: Mapping[str, Effect] | None = None,
    default: Effect = "once",
    inbox: bool = True,
) -> Agent[Any]:
    """A copy of ``agent`` whose tool calls and handoffs are recorded steps inside a run.

    Agents that it hands off to are copied as well, and the tools of its MCP servers are recorded,
    with the effect class that their hints name. Outside a run nothing changes.

    An agent as a tool is a step like any tool. Make the inner agent durable before, and its calls
    are the steps instead: ``durable(inner).as_tool(…)``.

    Args:
        agent: the agent that a `Runner` executes.
        effects: effect classes by the name of a tool or handoff; they precede the hints.
        default: the effect class of a tool or handoff that says nothing.
        inbox: ask for the approvals that tools need (``needs_approval``, ``require_approval``) in
            agentrun's inbox, so that the run is held and a person decides with `agentrun.approve`.
            False leaves them to the code, as interruptions of the SDK.

    Raises:
        ConfigError: an effect class is misspelt, or no tool or handoff has a name in ``effects``.
            With MCP servers, the run fails by a misspelt name when it lists their tools.

    Example:
        >>> support = durable(Agent(name="support", tools=[refund]), effects={"look": "read"})
    """
    check_classes(effects, default)
    copies = _Copies(effects, default, inbox)
    copy = copies.copy(agent)
    copies.check_names()
    return copy


class _Copies:
    """The durable copies of an agent and of those that it hands off to, which may form a circle."""

    def __init__(self, effects: Mapping[str, Effect] | None, default: Effect, inbox: bool) -> None:
        self.effects = effects
        self.default: Effect = default
        self.inbox = inbox
        self._names: set[str] = set()  # of the tools and handoffs that are known
        self._unlisted: list[_RecordedServer] = []  # the servers whose tools are not known yet
        self._complete = True  # whether no other names can come
        self._pairs: dict[int, tuple[Agent[Any], Agent[Any]]] = {}  # by the original's id

    def copy(self, agent: Agent[Any]) -> Agent[Any]:
        """The durable copy of an agent."""
        if hasattr(agent, _DURABLE):
            self._note_names(agent)
            self._complete = False  # its tools have classes of their own
            return agent
        if id(agent) in self._pairs:
            return self._pairs[id(agent)][1]
        copy = agent.clone()
        self._pairs[id(agent)] = agent, copy
        setattr(copy, _DURABLE, True)
        self._note_names(agent)
        copy.tools = [
            self._record_tool(tool) if isinstance(tool, FunctionTool) else tool
            for tool in agent.tools
        ]
        copy.handoffs = [
            self._record_handoff(other) if isinstance(other, Handoff) else self.copy(other)
            for other in agent.handoffs
        ]
        servers: list[Any] = [_RecordedServer(server, self) for server in agent.mcp_servers]
        copy.mcp_servers = servers
        self._unlisted += servers
        return copy

    def _note_names(self, agent: Any) -> None:
        """Note the names of an agent's tools and handoffs, and of tools of agents as tools."""
        for tool in agent.tools:
            inner = getattr(tool, "_agent_instance", None)
            self._names |= {one.name for one in (tool, *getattr(inner, "tools", ()))}
        self._names |= {
            other.tool_name if isinstance(other, Handoff) else Handoff.default_tool_name(other)
            for other in agent.handoffs
        }
        if type(agent) is not Agent:
            self._complete = False  # an agent of another class may make tools in the run

    def add_names(self, server: _RecordedServer, names: Collection[str]) -> None:
        """Take up the names of a server's tools. The SDK may give each the server's as a prefix."""
        suffixes = tuple(f"_{name}" for name in names)
        self._names.update(names, (n for n in self.effects or () if n.endswith(suffixes)))
        self._complete = False  # a server may have other tools later, or for other people
        self._unlisted = [other for other in self._unlisted if other is not server]
        if agentrun.current_run() is not None:
            self.check_names()

    def check_names(self) -> None:
        """Refuse a misspelt name, once the tools of all servers are known."""
        if not self._unlisted:
            check_names(self.effects, self._names, complete=self._complete)

    def effect(self, name: str, hint: Effect | None = None) -> Effect:
        """The effect class of a tool or handoff."""
        return choose_effect(name, self.effects, hint, self.default)

    async def asks(self, setting: Any, ctx: Any, name: str, arguments: Any) -> bool:
        """Whether the inbox has to ask for a call, whose tool has this ``needs_approval``."""
        if setting is False or not self._has_inbox():
            return False
        call_id = getattr(ctx, "tool_call_id", None)
        if call_id and ctx.is_tool_approved(name, call_id):
            return False  # the code approved it in the state with which it runs the agent
        return await _evaluate(setting, ctx, arguments, call_id)

    def _has_inbox(self) -> bool:
        return self.inbox and agentrun.current_run() is not None

    def asks_elsewhere(self, setting: Any) -> Any:
        """The setting ``needs_approval`` for the SDK, which must not ask what the inbox asks."""
        if setting is not True and not callable(setting):
            return setting  # False, or what the SDK refuses

        async def needs_approval(ctx: Any, arguments: dict[str, Any], call_id: str) -> bool:
            return not self._has_inbox() and await _evaluate(setting, ctx, arguments, call_id)

        return needs_approval

    def _record_tool(self, tool: FunctionTool) -> FunctionTool:
        """A copy of the tool whose calls are recorded steps."""
        if is_recorded_tool(getattr(tool, "__wrapped__", None)):
            return tool
        if hasattr(tool._agent_instance, _DURABLE):
            return tool  # the steps are those of the agent that is this tool
        invoke = tool.on_invoke_tool

        async def invoke_recorded(ctx: Any, arguments: str) -> Any:
            if agentrun.current_run() is None:
                return await invoke(ctx, arguments)
            sent = _parse(arguments)

            async def act(**given: Any) -> Any:
                # The text of the model, unless a person edited the arguments.
                return await invoke(ctx, arguments if given == sent else json.dumps(given))

            asks = await self.asks(tool.needs_approval, ctx, tool.name, sent)
            call_id, effect = getattr(ctx, "tool_call_id", None), self.effect(tool.name)
            try:
                return await agentrun.acall(
                    tool.name, sent, act, call_id=call_id, effect=effect, approve=asks
                )
            except agentrun.ToolFailed as failed:
                return str(failed)  # the model reads it: who refused and why, or what nobody knows

        setting = self.asks_elsewhere(tool.needs_approval)
        return dataclasses.replace(tool, on_invoke_tool=invoke_recorded, needs_approval=setting)

    def _record_handoff(self, handoff: Handoff[Any, Any]) -> Handoff[Any, Any]:
        """A copy of the handoff that hands off to a durable copy, and records what it calls."""
        invoke = handoff.on_invoke_handoff
        target = handoff._agent_ref() if handoff._agent_ref is not None else None
        durable_target = self.copy(target) if isinstance(target, Agent) else None
        self._complete = self._complete and durable_target is not None

        async def invoke_recorded(ctx: Any, arguments: str) -> Any:
            if durable_target is None:
                return self.copy(await invoke(ctx, arguments))
            if agentrun.current_run() is None or not _has_callback(handoff):
                await invoke(ctx, arguments)
                return durable_target
            sent = _parse(arguments)

            async def act(**given: Any) -> None:
                await invoke(ctx, arguments if given == sent else json.dumps(given))

            effect = self.effect(handoff.tool_name)
            await agentrun.acall(handoff.tool_name, sent, act, effect=effect)
            return durable_target

        copy = dataclasses.replace(handoff, on_invoke_handoff=invoke_recorded)
        copy._agent_ref = weakref.ref(durable_target or target) if target is not None else None
        return copy


class _RecordedServer:
    """An MCP server whose tool calls are recorded steps; all else is the server's own.

    The SDK resolves the ``_meta`` of each call, which is where the server learns which call of the
    model it is. `call_tool` takes that out again, and sends the step's key instead.
    """

    def __init__(self, server: Any, copies: _Copies) -> None:
        self._server, self._copies = server, copies
        self._hints: dict[str, Effect | None] = {}
        self._approvals: dict[str, Any] = {}  # the setting ``needs_approval``, by tool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    async def list_tools(self, *args: Any, **kwargs: Any) -> Any:
        """The server's tools. Their hints are kept."""
        tools = await self._server.list_tools(*args, **kwargs)
        self._hints = {tool.name: hinted_effect(tool.annotations) for tool in tools}
        self._copies.add_names(self, self._hints)
        return tools

    def _get_needs_approval_for_tool(self, tool: Any, agent: Any) -> Any:
        setting = self._server._get_needs_approval_for_tool(tool, agent)
        self._approvals[tool.name] = setting
        return self._copies.asks_elsewhere(setting)

    @property
    def tool_meta_resolver(self) -> Any:
        """The server's own resolver; inside a run, its result names the call of the model too."""
        return self._resolve if agentrun.current_run() else self._server.tool_meta_resolver

    async def _resolve(self, context: Any) -> dict[str, Any]:
        resolver = getattr(self._server, "tool_meta_resolver", None)
        meta = resolver(context) if resolver is not None else None
        meta = await meta if inspect.isawaitable(meta) else meta
        ctx, setting = context.run_context, self._approvals.get(context.tool_name, False)
        name = getattr(ctx, "tool_name", context.tool_name)
        call = {
            "name": name,
            "call_id": getattr(ctx, "tool_call_id", None),
            "approve": await self._copies.asks(setting, ctx, name, context.arguments),
        }
        return {**(meta or {}), _CALL: call}

    async def call_tool(
        self, tool_name: str, arguments: dict[str, Any] | None, meta: dict[str, Any] | None = None
    ) -> Any:
        """Call a tool of the server, or give the recorded result of that call."""
        call = (meta or {}).pop(_CALL, None)
        if call is None:
            return await self._server.call_tool(tool_name, arguments, meta)

        async def act(given: Any, key: dict[str, Any]) -> Any:
            return await self._server.call_tool(tool_name, given, {**(meta or {}), **key})

        effect = self._copies.effect(call["name"], self._hints.get(tool_name))
        options = {"call_id": call["call_id"], "approve": call["approve"], "effect": effect}
        try:
            return await record_call(call["name"], arguments, act, **options)
        except agentrun.ToolFailed as refusal:
            text = mcp.types.TextContent(type="text", text=str(refusal))
            return mcp.types.CallToolResult(content=[text], is_error=True)


async def _evaluate(setting: Any, ctx: Any, arguments: Any, call_id: Any) -> bool:
    """Whether a tool's ``needs_approval`` wants an approval of this call."""
    needed = setting(ctx, arguments, call_id) if callable(setting) else setting
    return bool(await needed if inspect.isawaitable(needed) else needed)


def _has_callback(handoff: Handoff[Any, Any]) -> bool:
    """Whether a handoff calls a function of the user; True if that cannot be seen."""
    made: Any = getattr(handoff.on_invoke_handoff, "args", ())  # `handoff()` makes a partial
    try:
        return inspect.getclosurevars(made[0]).nonlocals["on_handoff"] is not None
    except (LookupError, TypeError):
        return True


def _parse(arguments: str) -> dict[str, Any]:
    """The arguments of a call. A text that is no JSON object is the only argument itself."""
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"arguments": arguments}


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
