"""Every public name of agentrun. `agentrun` imports this when one of them is first used."""

from __future__ import annotations

import agentrun.view.renderers  # noqa: F401  how values show themselves
from agentrun.api.agent import DurableAgent, StreamingAgent
from agentrun.api.agent_decorator import agent
from agentrun.api.approval_links import approval_link, decide_by_link
from agentrun.api.comparison import compare
from agentrun.api.context_window import trim_messages
from agentrun.api.current_run import RunInfo, current_run
from agentrun.api.deterministic import branch, now, rng, turn, uuid
from agentrun.api.framework_calls import acall, call
from agentrun.api.handle import Handle
from agentrun.api.inbox import approve, inbox, reject, resolve
from agentrun.api.operations import (
    aresponse_ended,
    aresume,
    asend,
    atranscript,
    cancel,
    get,
    prune,
    response_ended,
    resume,
    resume_diverged,
    send,
    transcript,
)
from agentrun.api.ready_made_agent import Agent
from agentrun.api.redo import aredo, redo
from agentrun.api.run_list import runs
from agentrun.api.sql import sql
from agentrun.api.tool import Tool, ToolFunction
from agentrun.api.tool_calls import acall_tools, call_tools
from agentrun.api.tool_decorators import step, tool
from agentrun.api.tool_schemas import schemas
from agentrun.core.budget import Budget
from agentrun.core.codec import Unserialisable
from agentrun.core.comparison import ComparedStep, Comparison
from agentrun.core.errors import (
    AgentrunError,
    AlreadyDecided,
    ApprovalExpired,
    ConfigError,
    Diverged,
    Diverging,
    Interrupt,
    LeaseLost,
    LimitExceeded,
    NoModelWarning,
    NoRun,
    NoWorkerWarning,
    OutcomeUnknown,
    Parking,
    RunCancelled,
    RunConflict,
    RunError,
    RunExpired,
    RunFailed,
    RunHeld,
    RunNotFound,
    RunPruned,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    ToolError,
    ToolFailed,
    ToolTimeout,
)
from agentrun.core.events import Usage
from agentrun.core.redo import Redo
from agentrun.core.summary import RunList, RunSummary
from agentrun.core.table import Table
from agentrun.core.transcript import (
    Attempt,
    Decision,
    Doubt,
    Failure,
    Image,
    Message,
    NewMessage,
    Note,
    Resume,
    Step,
    ToolRequest,
    Totals,
    Transcript,
)
from agentrun.core.waiting import Inbox, Waiting
from agentrun.lifecycle.reply_stream import Piece
from agentrun.lifecycle.worker import Worker
from agentrun.models import async_http_client, http_client, install, wrap
from agentrun.steps.current_step import StepInfo, current_step
from agentrun.steps.doubt import Happened, NotHappened, Unknown
from agentrun.steps.masking import mask
from agentrun.steps.waits import areceive, asleep, receive, sleep
from agentrun.store.database import Database
from agentrun.store.opening import connect
from agentrun.store.retention import Pruned
from agentrun.view.html import as_html
from agentrun.view.layout import as_text
from agentrun.web import ui
from agentrun.web.people import Person

__all__ = [
    "Agent",
    "AgentrunError",
    "AlreadyDecided",
    "ApprovalExpired",
    "Attempt",
    "Budget",
    "ComparedStep",
    "Comparison",
    "ConfigError",
    "Database",
    "Decision",
    "Diverged",
    "Diverging",
    "Doubt",
    "DurableAgent",
    "Failure",
    "Handle",
    "Happened",
    "Image",
    "Inbox",
    "Interrupt",
    "LeaseLost",
    "LimitExceeded",
    "Message",
    "NewMessage",
    "NoModelWarning",
    "NoRun",
    "NoWorkerWarning",
    "NotHappened",
    "Note",
    "OutcomeUnknown",
    "Parking",
    "Person",
    "Piece",
    "Pruned",
    "Redo",
    "Resume",
    "RunCancelled",
    "RunConflict",
    "RunError",
    "RunExpired",
    "RunFailed",
    "RunHeld",
    "RunInfo",
    "RunList",
    "RunNotFound",
    "RunPruned",
    "RunSummary",
    "SchemaMismatch",
    "Step",
    "StepInfo",
    "StoreError",
    "StoreUnavailable",
    "StreamingAgent",
    "Table",
    "Tool",
    "ToolError",
    "ToolFailed",
    "ToolFunction",
    "ToolRequest",
    "ToolTimeout",
    "Totals",
    "Transcript",
    "Unknown",
    "Unserialisable",
    "Usage",
    "Waiting",
    "Worker",
    "acall",
    "acall_tools",
    "agent",
    "approval_link",
    "approve",
    "areceive",
    "aredo",
    "aresponse_ended",
    "aresume",
    "as_html",
    "as_text",
    "asend",
    "asleep",
    "async_http_client",
    "atranscript",
    "branch",
    "call",
    "call_tools",
    "cancel",
    "compare",
    "connect",
    "current_run",
    "current_step",
    "decide_by_link",
    "get",
    "http_client",
    "inbox",
    "install",
    "mask",
    "now",
    "prune",
    "receive",
    "redo",
    "reject",
    "resolve",
    "response_ended",
    "resume",
    "resume_diverged",
    "rng",
    "runs",
    "schemas",
    "send",
    "sleep",
    "sql",
    "step",
    "tool",
    "transcript",
    "trim_messages",
    "turn",
    "ui",
    "uuid",
    "wrap",
]
