"""MCP's Tasks extension, ``io.modelcontextprotocol/tasks``: its messages, and the client's half.

A server that declares the extension may answer a tool call with a task: an id, by which the client
asks for the state of the work until it has ended. The package ``mcp`` has no runtime for it, but
accepts extensions::

    client = mcp.Client(url, extensions=[Tasks()])

With it, `call_tool` waits for the task and returns its result. Inside a run, a client that
`durable` has changed waits in recorded steps (`agentrun.integrations.mcp`).

The extension exists from protocol version 2026-07-28 on. The experimental tasks of 2025-11-25, for
which the client sends ``task`` in the call, are another design and are not supported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal

from mcp import MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientRequestContext, ClientSession
from mcp.types import (
    INTERNAL_ERROR,
    CallToolResult,
    ErrorData,
    InputRequests,
    InputResponses,
    Request,
    RequestParams,
    Result,
)

__all__ = [
    "TASKS",
    "CancelTaskRequest",
    "CreatedTask",
    "GetTaskRequest",
    "TaskCreated",
    "TaskParams",
    "TaskState",
    "TaskUpdate",
    "Tasks",
    "UpdateTaskRequest",
    "answer_inputs",
    "cancel_task",
    "leave_tasks",
    "pause_before_poll",
    "read_task",
    "result_of_task",
]

TASKS = "io.modelcontextprotocol/tasks"
LONGEST_POLL_PAUSE = 60.0  # seconds
CANCEL_TIMEOUT = 5.0  # seconds

# True: a task that a call is answered with is left to the caller, who gets `TaskCreated`.
leave_tasks: ContextVar[bool] = ContextVar("agentrun_leave_tasks", default=False)


# -- messages --------------------------------------------------------------------------------------


class _Task(Result):
    """What every message about a task says."""

    task_id: str
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    status_message: str | None = None
    created_at: datetime
    last_updated_at: datetime
    ttl_ms: int | None = None
    poll_interval_ms: int | None = None


class CreatedTask(_Task):
    """The answer to a tool call that became a task."""

    result_type: Literal["task"] = "task"


class TaskState(_Task):
    """The answer to ``tasks/get``: the task, and what belongs to its status."""

    result_type: Literal["complete"] = "complete"
    result: dict[str, Any] | None = None
    error: ErrorData | None = None
    input_requests: InputRequests | None = None


class TaskParams(RequestParams):
    """The parameters of ``tasks/get`` and ``tasks/cancel``."""

    task_id: str


class TaskUpdate(TaskParams):
    """The parameters of ``tasks/update``."""

    input_responses: InputResponses


class GetTaskRequest(Request[TaskParams, Literal["tasks/get"]]):
    """Asks for the state of a task."""

    method: Literal["tasks/get"] = "tasks/get"
    name_param = "taskId"  # sent as a header too, by which proxies find the server of the task


class UpdateTaskRequest(Request[TaskUpdate, Literal["tasks/update"]]):
    """Answers what a task asks."""

    method: Literal["tasks/update"] = "tasks/update"
    name_param = "taskId"


class CancelTaskRequest(Request[TaskParams, Literal["tasks/cancel"]]):
    """Asks the server to stop a task."""

    method: Literal["tasks/cancel"] = "tasks/cancel"
    name_param = "taskId"


# -- the client ------------------------------------------------------------------------------------


class TaskCreated(Exception):
    """A tool call was answered with a task, and the caller follows it by itself."""

    def __init__(self, task: CreatedTask) -> None:
        super().__init__(f"the call became task {task.task_id}")
        self.task = task


class Tasks(ClientExtension):
    """Lets the tool calls of an `mcp.Client` be answered with tasks.

    Example:
        >>> client = mcp.Client(url, extensions=[Tasks()])
    """

    identifier = TASKS

    def claims(self) -> Sequence[ResultClaim[Any]]:
        """The answer that the extension takes instead of a result."""
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=_resolve)]


async def _resolve(created: CreatedTask, context: ClaimContext) -> CallToolResult:
    """The result of a task, for a call that is no step of a run."""
    if leave_tasks.get():
        raise TaskCreated(created)
    interval, polls, seen = created.poll_interval_ms, 0, frozenset[str]()
    while True:
        await asyncio.sleep(pause_before_poll(polls, interval))
        task = await read_task(context.session, created.task_id)
        if (result := result_of_task(task)) is not None:
            return result
        seen = await answer_inputs(context.session, task, seen)
        interval, polls = task.poll_interval_ms, polls + 1


def pause_before_poll(polls: int, interval_ms: int | None) -> float:
    """Seconds to wait before the next poll, after ``polls`` of them.

    It is a function of the record alone, so that a resumed run waits in the same steps.
    """
    growing = min(0.2 * 1.25 ** min(polls, 60), LONGEST_POLL_PAUSE)
    return max(growing, (interval_ms or 0) / 1000)


async def read_task(session: ClientSession, task_id: str) -> TaskState:
    """Ask the server for the state of a task. Raises MCPError."""
    request = GetTaskRequest(params=TaskParams(task_id=task_id))
    return await session.send_request(request, TaskState)


def result_of_task(task: TaskState) -> CallToolResult | None:
    """The result of a task that has ended; None while it has not.

    Raises MCPError for a task that was cancelled, or that failed without a result.
    """
    if task.status in ("working", "input_required"):
        return None
    if task.status == "completed":
        return CallToolResult.model_validate(task.result)
    said = task.error or ErrorData(
        code=INTERNAL_ERROR, message=f"task {task.task_id} was {task.status}"
    )
    raise MCPError(said.code, said.message, said.data)


async def answer_inputs(
    session: ClientSession, task: TaskState, seen: frozenset[str]
) -> frozenset[str]:
    """Answer what a task asks with the client's callbacks; return the names of all it has asked.

    What was ``seen`` is not answered again. What the client has no callback for stays open:
    somebody else may answer it at the server.
    """
    responses: InputResponses = {}
    for key, asked in (task.input_requests or {}).items():
        if key in seen:
            continue
        meta = asked.params.meta if asked.params else None
        context = ClientRequestContext(session=session, request_id=key, meta=meta)
        response = await session.dispatch_input_request(context, asked)
        if not isinstance(response, ErrorData):
            responses[key] = response
    if responses:
        update = TaskUpdate(task_id=task.task_id, input_responses=responses)
        await session.send_request(UpdateTaskRequest(params=update), Result)
    return seen | frozenset(task.input_requests or {})


async def cancel_task(session: ClientSession, task_id: str) -> None:
    """Ask the server to stop a task. Raises MCPError."""
    request = CancelTaskRequest(params=TaskParams(task_id=task_id))
    await session.send_request(request, Result, request_read_timeout_seconds=CANCEL_TIMEOUT)
