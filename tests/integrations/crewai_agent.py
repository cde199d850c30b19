"""Crews of CrewAI, written as their users write them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from outside_tools import KEY, act, look, models_url

import agentrun
from agentrun.integrations.crewai import durable

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"
os.environ["CREWAI_TRACING_ENABLED"] = "false"
os.environ.setdefault("CREWAI_STORAGE_DIR", tempfile.mkdtemp())
import crewai
import crewai.memory.unified_memory
import crewai.tools

EFFECTS: Any = {"look_up": "read", "keep": "idempotent"}


@crewai.tools.tool
def look_up(order: str) -> str:
    """Look an order up."""
    return look(order)


class Keep(crewai.tools.BaseTool):  # type: ignore[misc]
    name: str = "Keep"
    description: str = "Keep an order."

    def _run(self, order: str) -> str:
        return act(order)


def make_agent(role: str, **options: Any) -> Any:
    agentrun.install()
    model = crewai.LLM(
        "openai/gpt-5-mini",
        base_url=models_url(),
        api_key=KEY,
        stream=options.pop("stream", False),
    )
    return crewai.Agent(role=role, goal="Keep orders.", backstory="You help.", llm=model, **options)


def make_crew(question: str, *, stream: bool = False) -> Any:
    clerk = make_agent("clerk", tools=[look_up, Keep()], stream=stream)
    task = crewai.Task(description=question, expected_output="a word", agent=clerk)
    return durable(crewai.Crew(agents=[clerk], tasks=[task]), effects=EFFECTS)


@agentrun.agent
def with_crewai(question: str) -> str:
    return str(make_crew(question).kickoff())


@agentrun.agent
async def with_stream(question: str) -> str:
    return str(await make_crew(question, stream=True).akickoff())


@agentrun.agent
def with_coworkers(question: str) -> str:
    """A clerk delegates to a keeper, and another task is done in a thread meanwhile."""
    clerk = make_agent("clerk", allow_delegation=True)
    keeper = make_agent("keeper", tools=[Keep()])
    looker = make_agent("looker", tools=[look_up])
    tasks = [
        crewai.Task(
            description="Look 7 up.", expected_output="a word", agent=looker, async_execution=True
        ),
        crewai.Task(description=question, expected_output="a word", agent=clerk),
    ]
    crew = crewai.Crew(agents=[clerk, keeper, looker], tasks=tasks)
    return str(durable(crew, effects=EFFECTS).kickoff())


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0, 2.0] for text in texts]


@agentrun.agent
def with_memory(question: str) -> str:
    """A crew whose memory outlives the process."""
    clerk = make_agent("clerk")
    memory = crewai.memory.unified_memory.Memory(
        llm=clerk.llm, embedder=embed, storage=str(Path(os.environ["OUTSIDE"]) / "memory")
    )
    task = crewai.Task(description=question, expected_output="a word", agent=clerk)
    crew = durable(crewai.Crew(agents=[clerk], tasks=[task], memory=memory))
    return f"{crew.kickoff()} {len(memory.list_records())} saved"
