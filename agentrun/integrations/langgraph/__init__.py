"""LangGraph: tool calls as recorded steps, checkpoints that outlive a crash, interrupts answered.

    from agentrun.integrations.langgraph import DurableSaver, durable_tools

    tools = ToolNode([refund, search], **durable_tools(effects={"search": "read"}))
    compiled = graph.compile(checkpointer=DurableSaver(SqliteSaver(connection)))

Give the chat model a client that is recorded, or call `agentrun.install()` before it is made. A
tool says its effect class in its metadata, ``metadata={"effect": "read"}``. A tool whose function
`agentrun.tool` decorates is recorded as it declares.

What is not done: a node's own code is called again by a resume, so effects outside tools, model
calls and steps are repeated; caches and stores (`BaseCache`, `BaseStore`) are not recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentrun.integrations.langgraph.interrupts import ainvoke_and_ask, invoke_and_ask
from agentrun.integrations.langgraph.saver import DurableSaver
from agentrun.integrations.langgraph.tools import durable_tools

if TYPE_CHECKING:
    from agentrun.integrations.langgraph.middleware import DurableMiddleware

__all__ = [
    "DurableMiddleware",
    "DurableSaver",
    "ainvoke_and_ask",
    "durable_tools",
    "invoke_and_ask",
]


def __getattr__(name: str) -> Any:
    """`DurableMiddleware` needs langchain, which LangGraph itself does without."""
    if name != "DurableMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentrun.integrations.langgraph.middleware import DurableMiddleware

    return DurableMiddleware
