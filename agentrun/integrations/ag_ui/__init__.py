"""AG-UI: an agent's durable runs, served to the front ends of the agent-user interaction protocol.

    from agentrun.integrations.ag_ui import make_app

    app = make_app(support)                  # an ASGI application: uvicorn app:app

Each AG-UI run begins a durable run, whose key `run_key` tells. Its events come from the journal,
and each has an ``id``. A client that was cut off sends the same request with the header
``Last-Event-ID``, and gets what follows: from this process, or from another one after a crash.
Where a run waits for a person, the AG-UI run ends with interrupts, and ``resume`` answers them.

What is not done: the protocol's state, activities, reasoning and subagents have no events; what a
child run asks a person stands in the inbox only.
"""

from __future__ import annotations

from agentrun.integrations.ag_ui.app import AgentApp, make_app, run_key

__all__ = ["AgentApp", "make_app", "run_key"]
