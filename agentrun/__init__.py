"""agentrun: a durable harness for AI-agent loops.

Wrap the loop you already have; kill the process anywhere; it resumes mid-conversation without
paying again for a model call that was answered and without repeating a tool that acted.

    client = agentrun.wrap(OpenAI())          # model calls are recorded steps

    @agentrun.tool(effect="idempotent")       # so are tool calls
    def refund(order_id: str, cents: int, idempotency_key: str = "") -> dict: ...

    @agentrun.agent                           # the loop is a durable run
    def support(question: str) -> str: ...

    support.with_options(key="ticket-42").run("refund order 7")

(PYTEST_DONT_REWRITE: imported before pytest, this package must not make it warn.)
"""

from __future__ import annotations

from agentrun.core.budget import Budget
from agentrun.core.codec import Unserialisable
from agentrun.core.errors import (
    AgentrunError,
    ConfigError,
    Diverged,
    Diverging,
    Interrupt,
    LeaseLost,
    LimitExceeded,
    NoRun,
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
from agentrun.core.transcript import Transcript
from agentrun.models import async_http_client, http_client, install, wrap
from agentrun.runner.agent import agent
from agentrun.runner.calls import acall_tools, call_tools
from agentrun.runner.clock import branch, now, rng, turn, uuid
from agentrun.runner.context import current_run, current_step
from agentrun.runner.control import (
    Waiting,
    approve,
    aresponse_ended,
    aresume,
    asend,
    atranscript,
    cancel,
    get,
    inbox,
    prune,
    reject,
    resolve,
    response_ended,
    resume,
    send,
    transcript,
)
from agentrun.runner.doubt import Happened, NotHappened, Unknown
from agentrun.runner.handle import Handle
from agentrun.runner.loop import Agent
from agentrun.runner.schemas import schemas
from agentrun.runner.tool import step, tool
from agentrun.runner.waits import areceive, asleep, receive, sleep
from agentrun.runner.window import trim_messages
from agentrun.runner.worker import Worker
from agentrun.store.database import Database
from agentrun.store.opening import connect
from agentrun.store.retention import Pruned
from agentrun.view import as_html, as_text

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentrunError",
    "Budget",
    "ConfigError",
    "Database",
    "Diverged",
    "Diverging",
    "Handle",
    "Happened",
    "Interrupt",
    "LeaseLost",
    "LimitExceeded",
    "NoRun",
    "NotHappened",
    "OutcomeUnknown",
    "Parking",
    "Pruned",
    "RunCancelled",
    "RunConflict",
    "RunError",
    "RunExpired",
    "RunFailed",
    "RunHeld",
    "RunNotFound",
    "RunPruned",
    "SchemaMismatch",
    "StoreError",
    "StoreUnavailable",
    "ToolError",
    "ToolFailed",
    "ToolTimeout",
    "Transcript",
    "Unknown",
    "Unserialisable",
    "Waiting",
    "Worker",
    "__version__",
    "acall_tools",
    "agent",
    "approve",
    "areceive",
    "aresponse_ended",
    "aresume",
    "as_html",
    "as_text",
    "asend",
    "asleep",
    "async_http_client",
    "atranscript",
    "branch",
    "call_tools",
    "cancel",
    "connect",
    "current_run",
    "current_step",
    "get",
    "http_client",
    "inbox",
    "install",
    "now",
    "prune",
    "receive",
    "reject",
    "resolve",
    "response_ended",
    "resume",
    "rng",
    "schemas",
    "send",
    "sleep",
    "step",
    "tool",
    "transcript",
    "trim_messages",
    "turn",
    "uuid",
    "wrap",
]
