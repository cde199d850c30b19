"""Agents that a server runs for its clients: a worker beside the server, and runs for requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import agentrun

__all__ = ["submit_run", "working"]

Agent = agentrun.DurableAgent[..., Any]


@asynccontextmanager
async def working(agents: Iterable[Agent], concurrency: int) -> AsyncIterator[None]:
    """Be a worker of the agents inside the block. Its end hands the runs back."""
    worker = agentrun.Worker(agents, concurrency=concurrency)
    await asyncio.to_thread(worker.start)
    try:
        yield
    finally:
        await asyncio.to_thread(worker.stop)


async def submit_run(agent: Agent, given: Mapping[str, Any], key: str) -> agentrun.Handle[Any]:
    """Queue the run ``key`` with arguments that a client sent, by name; the same key is one run.

    Raises pydantic.ValidationError if the arguments are not valid, and AgentrunError as
    `DurableAgent.submit` does.
    """
    values = agent.arguments.validate(dict(given))
    positional, named = agent.arguments.call_with(values, key)
    return await agent.with_options(key=key).asubmit(*positional, **named)
