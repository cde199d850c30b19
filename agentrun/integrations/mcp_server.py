"""An MCP server whose tools are agents: each call of a tool is a durable run.

    from agentrun.integrations.mcp_server import make_server

    server = make_server([support])        # a server of the package ``mcp``, for any transport
    app = server.streamable_http_app()     # for example as an ASGI application

The command ``agentrun mcp app.py`` does the same over stdin and stdout, or over HTTP.

A client that declares the extension ``io.modelcontextprotocol/tasks`` gets a task, whose id is the
run's key. Any other client waits for the result. While it serves, the server is a worker of its
agents, so it takes up the runs of a server that was killed.

A call with an idempotency key, in ``_meta["agentrun/idempotency-key"]`` or as the argument ``key``,
is the run of that key: sent again, it finds the same run. Without a key each call is a fresh run.

The server has no logins. Whoever reaches it can start, read and cancel runs of its agents.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import require_client_extension
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp.types import Tool as McpTool
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

import agentrun
from agentrun.api.tool_schemas import describe
from agentrun.integrations.mcp import KEY
from agentrun.integrations.mcp_tasks import TASKS, TaskParams, TaskUpdate
from agentrun.integrations.served_agents import submit_run, working
from agentrun.lifecycle.run_ends import held_text
from agentrun.store.opening import default
from agentrun.store.runs import FoundRun, find_run
from agentrun.values.model_arguments import describe_problems

__all__ = ["make_server"]

Agents = Mapping[str, "agentrun.DurableAgent[..., Any]"]
Context = ServerRequestContext[Any, Any]

POLL_INTERVAL_MS = 500
KEY_SCHEMA = {
    "type": "string",
    "description": "Names the run: the same key and arguments give the same run and its result. "
    "Leave it out for a fresh run.",
}
DECISION_SCHEMA = {
    "type": "object",
    "properties": {
        "decision": {"type": "string", "enum": ["approve", "reject"]},
        "reason": {"type": "string", "description": "Why, for the record."},
    },
    "required": ["decision"],
}


def make_server(
    agents: Iterable[agentrun.DurableAgent[..., Any]],
    *,
    name: str = "agentrun",
    answers: bool = False,
    worker: bool = True,
    concurrency: int = 10,
) -> Server[Any]:
    """Make an MCP server with a tool for each agent.

    Args:
        agents: the agents; a tool has the name, the docstring and the parameters of its agent.
        name: the server's name, for clients.
        answers: let clients approve and reject what runs ask a person: a task that waits for an
            approval then carries an elicitation. Without it, the task says how to answer in the
            inbox. Allow it only where the people at the clients may decide.
        worker: execute the runs in this process, while it serves. False: workers elsewhere do.
        concurrency: how many runs execute at a time.

    Raises:
        ConfigError: there is no agent.

    Example:
        >>> app = make_server([support]).streamable_http_app()
    """
    named = {agent.name: agent for agent in agents}
    if not named:
        raise agentrun.ConfigError("an MCP server needs at least one agent")

    @asynccontextmanager
    async def work(server: Server[Any]) -> AsyncIterator[dict[str, Any]]:
        if not worker:
            yield {}
            return
        async with working(named.values(), concurrency):
            yield {}

    service = _Service(named, answers)
    server: Server[Any] = Server(
        name,
        version=agentrun.__version__,
        lifespan=work,
        on_list_tools=service.list_tools,
        on_call_tool=service.call_tool,  # type: ignore[arg-type]  # a task is no CallToolResult
    )
    server.extensions[TASKS] = {}
    server.add_request_handler("tasks/get", TaskParams, service.get_task)
    server.add_request_handler("tasks/update", TaskUpdate, service.update_task)
    server.add_request_handler("tasks/cancel", TaskParams, service.cancel_task)
    return server


@dataclass(frozen=True)
class _Service:
    """Answers the requests of clients."""

    agents: Agents
    answers: bool

    async def list_tools(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=[_describe_agent(agent) for agent in self.agents.values()])

    async def call_tool(
        self, context: Context, params: CallToolRequestParams
    ) -> CallToolResult | dict[str, Any]:
        agent = self.agents.get(params.name)
        if agent is None:
            known = ", ".join(sorted(self.agents))
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name!r}; there is: {known}")
        given = dict(params.arguments or {})
        key = _take_key(agent, params, given)
        try:
            handle = await submit_run(agent, given, key)
        except ValidationError as error:
            problems = describe_problems(error.errors(include_url=False))
            return _error(f"{agent.name}: the arguments are not valid: {problems}")
        except agentrun.AgentrunError as error:
            return _error(f"{agent.name}: {error}")
        if _accepts_tasks(context):
            run = await asyncio.to_thread(find_run, default(), key)
            return {"resultType": "task", **_task(run, "working")}
        try:
            return _result(agent, await handle.aresult())
        except agentrun.RunHeld as error:
            return _error(f"{error}. Afterwards, call again with key={key!r} for the result")
        except agentrun.RunError as error:
            return _error(str(error))

    async def get_task(self, context: Context, params: TaskParams) -> dict[str, Any]:
        run = await self._find(context, params.task_id)
        return await asyncio.to_thread(self._describe_task, run)

    async def update_task(self, context: Context, params: TaskUpdate) -> dict[str, Any]:
        run = await self._find(context, params.task_id)
        if self.answers:
            await asyncio.to_thread(_decide, run.key, params, f"MCP client {_client(context)}")
        return {}

    async def cancel_task(self, context: Context, params: TaskParams) -> dict[str, Any]:
        run = await self._find(context, params.task_id)
        if run.status not in ("done", "failed", "cancelled"):
            by = f"MCP client {_client(context)}"
            with suppress(agentrun.RunError):  # it has ended meanwhile
                await asyncio.to_thread(agentrun.cancel, run.key, by=by)
        return {}

    async def _find(self, context: Context, task_id: str) -> FoundRun:
        """The run of a task. Raises MCPError if this server has no such task."""
        require_client_extension(context, TASKS)
        try:
            run = await asyncio.to_thread(find_run, default(), task_id)
        except agentrun.RunNotFound:
            run = None
        if run is None or run.agent not in self._by_name():
            raise MCPError(INVALID_PARAMS, f"there is no task {task_id!r}")
        return run

    def _by_name(self) -> Agents:
        """The agents by all of their names, under which their runs may be recorded."""
        return {name: agent for agent in self.agents.values() for name in agent.names}

    def _describe_task(self, run: FoundRun) -> dict[str, Any]:
        """The state of a task, as the status of its run says."""
        match run.status:
            case "done" | "failed":
                agent = self._by_name()[run.agent]
                try:
                    result = _result(agent, agentrun.get(run.key).result())
                except agentrun.RunError as error:
                    result = _error(str(error))
                dumped = result.model_dump(mode="json", by_alias=True, exclude_none=True)
                return {**_task(run, "completed"), "result": dumped}
            case "cancelled":
                return _task(run, "cancelled")
            case "held":
                waiting = agentrun.inbox(run.key)
                offered = self.answers and run.parked_for == "approval"
                asked = {_name(one): _elicitation(one) for one in waiting if _is_approval(one)}
                return {**_task(run, "input_required"), "inputRequests": asked if offered else {}}
            case _:
                return _task(run, "working")


# -- tools -----------------------------------------------------------------------------------------


def _describe_agent(agent: agentrun.DurableAgent[..., Any]) -> McpTool:
    described = describe(agent)
    schema = described["parameters"]
    schema.setdefault("properties", {}).setdefault("key", KEY_SCHEMA)
    return McpTool(
        name=agent.name,
        description=described["description"] or None,
        input_schema=schema,
        _meta={KEY: True},  # says that the server acts once for each key
    )


def _take_key(
    agent: agentrun.DurableAgent[..., Any], params: CallToolRequestParams, given: dict[str, Any]
) -> str:
    """The key of the run; an argument ``key`` that is not the agent's own is taken out."""
    argument = given.pop("key", None) if "key" not in agent.arguments.names else None
    chosen: Any = argument or (params.meta or {}).get(KEY)
    return str(chosen) if chosen else f"{agent.name}-{token_hex(16)}"


def _result(agent: agentrun.DurableAgent[..., Any], value: Any) -> CallToolResult:
    """What a run returned, as the result of a tool."""
    shown = agent.arguments.result.encode_for_display(value)
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    structured = shown if isinstance(shown, dict) else None
    return CallToolResult(content=[TextContent(text=text)], structured_content=structured)


def _error(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)], is_error=True)


# -- tasks -----------------------------------------------------------------------------------------


def _accepts_tasks(context: Context) -> bool:
    capabilities = context.session.client_capabilities
    extensions = capabilities.extensions if capabilities else None
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS and TASKS in (extensions or {})


def _task(run: FoundRun, status: str) -> dict[str, Any]:
    """A task as every message about it shows it."""
    message = held_text(run.key, run.reason) if status == "input_required" else run.reason
    said = {"statusMessage": message} if message else {}
    return {
        "taskId": run.key,
        "status": status,
        "createdAt": run.created_at.isoformat(),
        "lastUpdatedAt": run.changed_at.isoformat(),
        "ttlMs": None,
        "pollIntervalMs": POLL_INTERVAL_MS,
        **said,
    }


def _client(context: Context) -> str:
    params = context.session.client_params
    return params.client_info.name if params else "unknown"


# -- what runs ask people --------------------------------------------------------------------------


def _is_approval(waiting: agentrun.Waiting) -> bool:
    """Whether approving or rejecting a call answers this; a doubt or a budget needs more."""
    about_call = waiting.attempt is None and waiting.suggested_budget is None
    return waiting.waits_for == "decision" and about_call and bool(waiting.fingerprint)


def _name(waiting: agentrun.Waiting) -> str:
    """The name of a request, which differs for each request of a run."""
    return f"{waiting.step}-{waiting.fingerprint}"


def _elicitation(waiting: agentrun.Waiting) -> dict[str, Any]:
    args = json.dumps(waiting.args, ensure_ascii=False)
    message = f"{waiting.agent} asks to call {waiting.name} with {args}. {waiting.reason}"
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": DECISION_SCHEMA},
    }


def _decide(key: str, params: TaskUpdate, by: str) -> None:
    """Send the decisions that a client made. What is decided already, or was never asked, stays."""
    asked = {_name(one): one for one in agentrun.inbox(key) if _is_approval(one)}
    for name, response in params.input_responses.items():
        waiting = asked.get(name)
        if waiting is None or waiting.step is None or not isinstance(response, ElicitResult):
            continue
        content = response.content or {}
        decision = "reject" if response.action == "decline" else content.get("decision")
        if decision not in ("approve", "reject"):
            continue  # the person has closed the form
        decide = agentrun.approve if decision == "approve" else agentrun.reject
        reason = str(content["reason"]) if content.get("reason") else None
        with suppress(agentrun.RunError):  # somebody else has decided meanwhile
            decide(key, waiting.step, by=by, reason=reason, fingerprint=waiting.fingerprint)
