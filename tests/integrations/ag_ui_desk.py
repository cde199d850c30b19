"""An agent behind AG-UI: it streams, looks orders up, keeps them, and asks before it pays.

Its tools act in the folder OUTSIDE, as those of the adapters' agents do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn
from killed_servers import free_port
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from outside_tools import act, look

import agentrun
from agentrun.integrations.ag_ui import AgentApp, make_app
from agentrun.testing import Call, Reply

http = DefaultAsyncHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
client = agentrun.wrap(
    AsyncOpenAI(base_url="https://models.invalid/v1", api_key="k", http_client=http)
)


@agentrun.tool(effect="read", name="agui_look_up")
def look_up(order: str) -> str:
    """Look an order up."""
    return look(order)


@agentrun.tool(effect="idempotent", name="agui_keep")
def keep(order: str) -> dict[str, str]:
    """Keep an order."""
    return {"kept": act(order)}


@agentrun.tool(approve=True, effect="idempotent", name="agui_pay")
def pay(cents: int) -> dict[str, Any]:
    """Pay some cents."""
    act(f"{cents} cents")
    return {"paid": cents}


TOOLS = [look_up, keep, pay]


async def answer(messages: list[dict[str, Any]]) -> str:
    while True:
        stream = client.chat.completions.stream(
            model="gpt-5-mini", messages=messages, tools=agentrun.schemas(*TOOLS, api="chat")
        )
        async with stream as chunks:
            async for _ in chunks:
                pass
            reply = (await chunks.get_final_completion()).choices[0].message
        messages.append(json.loads(reply.model_dump_json(exclude_none=True)))
        if not reply.tool_calls:
            return reply.content or ""
        messages += await agentrun.acall_tools(reply, TOOLS)


@agentrun.agent(name="agui_desk")
async def desk(question: str) -> str:
    """Answer a question about orders."""
    return await answer([{"role": "user", "content": question}])


SCRIPT = [
    Reply(
        "Let me see. 🙂",
        tool_calls=[Call("agui_look_up", {"order": "7"}), Call("agui_keep", {"order": "7"})],
    ),
    Reply("I keep it and pay.", tool_calls=[Call("agui_pay", {"cents": 5})]),
    Reply("Order 7 is kept and paid."),
]


def user_of(request: Any, given: Any) -> str | None:
    return request.headers.get("x-user") or None


@contextmanager
def serving(app: AgentApp | Any) -> Iterator[str]:
    """The URL of an application that is served by this process."""
    import threading
    import time

    port = free_port()
    config = uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


def served_desk(**options: Any) -> AgentApp:
    return make_app(desk, authorize=user_of, **options)
