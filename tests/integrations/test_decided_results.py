"""A person says what became of an interrupted call: the model reads it, whatever the framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import outside_tools
import paying_agents
import pytest
from crashing import killed

import agentrun
from agentrun.testing import Call, Provider, Reply

AGENTS = [
    paying_agents.pays_with_pydantic_ai,
    paying_agents.pays_with_openai_agents,
    paying_agents.pays_with_langgraph,
    paying_agents.pays_with_mcp,
]
OUTCOMES = {
    "a text": (agentrun.Happened("it stands in the books"), "it stands in the books"),
    "an object": (agentrun.Happened({"receipt": 17}), "receipt"),
    "nobody knows": (agentrun.Unknown(), "may or may not have taken effect"),
}
pytestmark = pytest.mark.usefixtures("outside")


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_the_model_reads_what_a_person_says(
    db: Any, dsn: str, at_provider: Provider, outside: Path, agent: Any, outcome: str
) -> None:
    said, read = OUTCOMES[outcome]
    at_provider.say([Reply(tool_calls=[Call("pay", {"order": "7"})]), "Done."])
    keyed = agent.with_options(key="k")
    (outside / "die at 7").touch()
    killed(lambda: (agentrun.connect(dsn), keyed.run("go")))
    (outside / "die at 7").unlink()
    with pytest.raises(agentrun.RunHeld):
        keyed.run("go")
    (waiting,) = agentrun.inbox("k")
    agentrun.resolve("k", waiting.step or 0, said)
    assert keyed.run("go") == "Done."
    assert outside_tools.kept() == ["7"]
    assert at_provider.billed() == 2
    answer = at_provider.requests()[-1]["messages"][-1]
    assert answer["role"] == "tool"
    assert read in json.dumps(answer)
