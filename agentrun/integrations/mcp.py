"""MCP clients: inside a run, each tool call to a server is a recorded step.

    from agentrun.integrations.mcp import Tasks, durable

    async with mcp.Client("http://localhost:8000/mcp", extensions=[Tasks()]) as client:
        durable(client)

A tool's hints give its effect class: ``readOnlyHint`` means ``read``, ``idempotentHint`` means
``idempotent``; any other tool is ``once``. The server gets the step's idempotency key in the call's
``_meta``, under ``agentrun/idempotency-key``, so that a server can refuse to act twice. A tool that
has that name in its own ``_meta`` says that it does so, and is ``idempotent``.

With `Tasks`, a call may be answered with a task. Its id is the outcome of the call's step, so it is
in the journal before the first poll, and no resume sends the call again. The polls and the waits
between them are steps of their own, so that a worker parks the run while the task goes on::

    refund(order_id="7")  ── a result ─────────────────────────────────▶ returned
        │
        ▼ a task: its id is recorded
    tasks/get ── ended ──▶ its result
        │  ▲
        ▼  │ sleep
    tasks/update, if the task asks something that the client has a callback for

A run that is cancelled while a process executes it cancels its task. If the run is parked then,
no process has a connection to the server, and the task goes on. So does a task that the agent's own
code stops waiting for, such as by a timeout.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

from mcp import Client, MCPError
from mcp.client.extension import UnexpectedClaimedResult
from mcp.client.session import ClientSession
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    REQUEST_TIMEOUT,
    CallToolResult,
)
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

import agentrun
from agentrun.core.events import Effect
from agentrun.core.log import logger
from agentrun.integrations.effect_classes import (
    check_classes,
    check_names,
    choose_effect,
    hinted_effect,
)
from agentrun.integrations.mcp_tasks import (
    CreatedTask,
    TaskCreated,
    Tasks,
    TaskState,
    answer_inputs,
    cancel_task,
    leave_tasks,
    pause_before_poll,
    read_task,
    result_of_task,
)

__all__ = ["KEY", "Tasks", "durable", "record_call"]

KEY = "agentrun/idempotency-key"  # in the call's `_meta`
RETRIES = 30  # of a request that may be repeated, while the server is away: about 12 minutes
# The server may have got the request, and its answer is lost.
UNANSWERED = (CONNECTION_CLOSED, REQUEST_TIMEOUT)
LOST = "the server may have got the request, and its answer is lost"


class _CallsTools(Protocol):
    """A `Client` or a `ClientSession`."""

    async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> Any: ...

    async def list_tools(self, *args: Any, **kwargs: Any) -> Any: ...


C = TypeVar("C", bound=_CallsTools)
T = TypeVar("T")


def durable(
    client: C, *, effects: Mapping[str, Effect] | None = None, default: Effect = "once"
) -> C:
    """Make the tool calls of an MCP ``client`` recorded steps, and return the same client.

    Outside a run nothing changes. Calls with ``allow_input_required`` or ``allow_claimed`` return
    other types than results, and are passed on without a record.

    Args:
        client: a `Client` or a `ClientSession` of the package ``mcp``.
        effects: effect classes by tool name, for tools whose hints are missing or wrong.
        default: the effect class of a tool without hints.

    Raises:
        ConfigError: the client is durable already, or an effect class is misspelt. If a name in
            ``effects`` is the misspelt name of a tool, the run fails with this error before it
            calls a tool that ``effects`` does not name.

    Example:
        >>> async with mcp.Client(url) as client:
        ...     result = await durable(client).call_tool("refund", {"order_id": "7"})
    """
    if hasattr(client.call_tool, "__agentrun_durable__"):
        raise agentrun.ConfigError("the MCP client is durable already: call durable() once")
    check_classes(effects, default)
    send = client.call_tool
    hints: dict[str, Effect | None] = {}

    async def call_tool(
        name: str, arguments: dict[str, Any] | None = None, *args: Any, **options: Any
    ) -> Any:
        other_types = options.get("allow_input_required") or options.get("allow_claimed")
        if agentrun.current_run() is None or other_types:
            return await send(name, arguments, *args, **options)
        if name not in hints and (effects is None or name not in effects):
            hints.update(await _ask(client, _read_hints))
            check_names(effects, [name, *hints], complete=False)
        effect = choose_effect(name, effects, hints.get(name), default)

        async def act(given: dict[str, Any] | None, key: dict[str, Any]) -> Any:
            meta = {**(options.get("meta") or {}), **key}

            async def request(connected: _CallsTools) -> Any:
                call = send if connected is client else connected.call_tool
                return await _catch_task(call(name, given, *args, **{**options, "meta": meta}))

            return await _ask(client, request)

        recorded = await _record(
            name,
            arguments,
            act,
            effect=effect,
            retries=0 if effect == "once" else RETRIES,
            passes=(MCPError, RuntimeError, ValueError),  # the server has answered
            by_model=False,  # code without a model uses clients, too
        )
        if recorded.get("resultType") == "task":
            return await _follow(client, CreatedTask.model_validate(recorded))
        return CallToolResult.model_validate(recorded)

    call_tool.__agentrun_durable__ = True  # type: ignore[attr-defined]
    client.call_tool = call_tool  # type: ignore[method-assign]
    return client


async def record_call(
    name: str,
    arguments: dict[str, Any] | None,
    act: Callable[[dict[str, Any] | None, dict[str, Any]], Awaitable[CallToolResult]],
    **options: Any,
) -> CallToolResult:
    """Record one call to a server, or give its recorded result, for adapters of MCP clients.

    Args:
        name: the tool's name, as the model called it.
        arguments: the arguments of the call.
        act: sends the call. It gets the arguments and what to add to the call's ``_meta``.
        options: options of `agentrun.acall`, such as ``effect``.

    Example:
        >>> await record_call("refund", {"order_id": "7"}, send, effect="once")
    """
    return CallToolResult.model_validate(await _record(name, arguments, act, **options))


async def _record(
    name: str,
    arguments: dict[str, Any] | None,
    act: Callable[[dict[str, Any] | None, dict[str, Any]], Awaitable[Any]],
    **options: Any,
) -> Any:
    """The answer of a server as JSON: a result, or the task that the call became."""

    async def send(**given: Any) -> Any:
        sent = None if arguments is None and not given else given
        answer = await act(sent, {KEY: agentrun.current_step().key})
        return answer.model_dump(mode="json", by_alias=True, exclude_none=True)

    try:
        answer = await agentrun.acall(name, arguments or {}, send, **options)
    except agentrun.ToolFailed as failed:
        return _as_result(str(failed), isError=True)
    if isinstance(answer, dict) and ("content" in answer or "resultType" in answer):
        return answer
    # What a person said that the tool returned.
    return _as_result(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))


def _as_result(text: str, **fields: Any) -> dict[str, Any]:
    """A result of a server, as JSON."""
    return {"content": [{"type": "text", "text": text}], **fields}


# -- tasks -----------------------------------------------------------------------------------------


async def _follow(client: _CallsTools, created: CreatedTask) -> CallToolResult:
    """Wait for a task, in recorded steps, and return its result. Raises MCPError.

    Each poll is `idempotent` and not `read`, so that everything before it is durable first.
    """

    @agentrun.step(name="tasks/get", effect="idempotent", retries=RETRIES)
    async def poll(task_id: str) -> dict[str, Any]:
        try:
            state = await _ask(client, lambda one: read_task(_session(one), task_id))
        except MCPError as error:
            if error.code == INVALID_PARAMS:
                raise agentrun.ToolFailed(f"the server has no task {task_id}: {error}") from error
            raise
        return state.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"meta"})

    @agentrun.step(name="tasks/update", effect="idempotent", retries=RETRIES)
    async def answer(task: dict[str, Any], seen: list[str]) -> None:
        state = TaskState.model_validate(task)
        await _ask(client, lambda one: answer_inputs(_session(one), state, frozenset(seen)))

    interval, polls, seen = created.poll_interval_ms, 0, frozenset[str]()
    try:
        while True:
            await agentrun.asleep(pause_before_poll(polls, interval))
            found = await poll(created.task_id)
            task = TaskState.model_validate(found)
            if (result := result_of_task(task)) is not None:
                return result
            if asked := frozenset(task.input_requests or {}) - seen:
                await answer(found, sorted(seen))
                seen |= asked
            interval, polls = task.poll_interval_ms, polls + 1
    except (asyncio.CancelledError, agentrun.Interrupt):
        await _cancel_if_unwanted(client, created.task_id)
        raise


async def _cancel_if_unwanted(client: _CallsTools, task_id: str) -> None:
    """Cancel the task if the run is cancelled. If that fails, only say so."""
    run = agentrun.current_run()
    if run is None or not run.cancelled:
        return
    try:
        await _ask(client, lambda one: cancel_task(_session(one), task_id))
    except (MCPError, OSError, agentrun.ToolTimeout) as error:
        logger.warning("run %r is cancelled, but its task %s is not: %s", run.key, task_id, error)


# -- requests --------------------------------------------------------------------------------------


async def _ask(client: C, request: Callable[[C], Awaitable[T]]) -> T:
    """Send a request, on a connection of its own where the protocol has no sessions.

    When a request of an `mcp.Client` loses its connection, everything inside the ``async with`` of
    the client is cancelled. On a connection of its own, only this request fails.

    Raises ConnectionError if nothing was sent, and ToolTimeout if the answer is lost.
    """
    if not _is_stateless(client):
        return (await _outcome_of(request, client)).take()
    connected, outcome = False, None
    try:
        async with dataclasses.replace(cast(Any, client)) as own:
            connected = True
            outcome = await _outcome_of(request, own)
    except Exception as error:
        if not connected:
            raise ConnectionError(f"the server cannot be reached: {_innermost(error)}") from error
        if outcome is None:
            raise agentrun.ToolTimeout(f"{LOST}: {_innermost(error)}") from error
    return outcome.take()


@dataclasses.dataclass(frozen=True)
class _Outcome(Generic[T]):
    """What a request came to. A connection wraps exceptions that leave it, so none does."""

    value: T | None = None
    error: Exception | None = None

    def take(self) -> T:
        """Return the value, or raise the error."""
        if isinstance(self.error, MCPError) and self.error.code in UNANSWERED:
            raise agentrun.ToolTimeout(f"{LOST}: {self.error}") from self.error
        if self.error is not None:
            raise self.error
        return cast(T, self.value)


async def _outcome_of(request: Callable[[C], Awaitable[T]], client: C) -> _Outcome[T]:
    try:
        return _Outcome(await request(client))
    except Exception as error:
        return _Outcome(error=error)


def _is_stateless(client: Any) -> bool:
    """Whether the client knows a URL, and each of its requests stands for itself."""
    return (
        isinstance(client, Client)
        and isinstance(client.server, str)
        and client.protocol_version in MODERN_PROTOCOL_VERSIONS
    )


def _session(client: Any) -> ClientSession:
    return client.session if isinstance(client, Client) else client


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _catch_task(call: Awaitable[Any]) -> Any:
    """The result of a tool call, or the task with which it was answered."""
    token = leave_tasks.set(True)
    try:
        return await call
    except TaskCreated as created:
        return created.task
    except UnexpectedClaimedResult as claimed:  # a session leaves what it cannot resolve
        if not isinstance(claimed.result, CreatedTask):
            raise
        return claimed.result
    finally:
        leave_tasks.reset(token)


async def _read_hints(client: _CallsTools) -> dict[str, Effect | None]:
    """What the server's hints name as effect classes, by tool, from all pages of its list."""
    found: dict[str, Effect | None] = {}
    cursor = None
    while True:
        page = await (client.list_tools(cursor=cursor) if cursor else client.list_tools())
        for tool in page.tools:
            keeps_key: Effect | None = "idempotent" if KEY in (tool.meta or {}) else None
            found[tool.name] = hinted_effect(tool.annotations) or keeps_key
        cursor = page.next_cursor
        if not cursor:
            return found
